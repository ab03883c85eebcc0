"""encode_labels against a dictionary, for every kind of label."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml import data

WORDS = ["oak", "ash", "oak", "Ölweide", "ash", ""]
KINDS = {
    "strings": WORDS,
    "column": np.array(WORDS)[:, None],
    "objects": np.array(WORDS, object),
    "bytes": [word.encode() for word in WORDS],
    "tensor": tf.constant(WORDS),
    "numbers with gaps": np.array([700, -1, 700, 2**62, 3, -1]),
    "fractions": [0.5, 1.5, 0.5],
    "booleans": np.array([True, False, True]),
}
if np.__version__ >= "2":
    KINDS["StringDType"] = np.array(WORDS, np.dtypes.StringDType())


@pytest.mark.parametrize("kind", KINDS)
def test_against_a_dictionary(kind):
    integers, names = data.encode_labels(KINDS[kind])
    values = np.asarray(KINDS[kind]).reshape(-1).tolist()
    values = [value.decode() if isinstance(value, bytes) else value for value in values]
    assert integers.dtype == np.int64 and integers.shape == (len(values),)
    assert names == tuple(sorted(set(values)))
    assert [names[integer] for integer in integers] == values
    again, same = data.encode_labels(KINDS[kind][::-1], names)
    assert same == names and again.tolist() == integers[::-1].tolist()


def test_none():
    integers, names = data.encode_labels([])
    assert integers.tolist() == [] and names == ()


@pytest.mark.parametrize(
    ("labels", "names", "error", "message"),
    [
        (["oak", "fir", "yew"], ("ash", "oak"), ValueError, "Received: 'fir', 'yew'. Expected: one of"),
        ([1.0, np.nan], None, ValueError, "Labels are missing. Received: nan at 1"),
        (np.array(["oak", None], object), None, ValueError, "Labels are missing. Received: None at 1"),
        (np.array(["oak", 3], object), None, TypeError, "have one type. Received: int, str"),
        (np.zeros((3, 2)), None, ValueError, r"Received: labels of shape \(3, 2\)"),
    ],
)
def test_errors(labels, names, error, message):
    with pytest.raises(error, match=message):
        data.encode_labels(labels, names)
