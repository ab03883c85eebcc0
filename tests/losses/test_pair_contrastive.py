"""The contrastive loss on given pairs against its formula and TensorFlow Addons."""

import numpy as np
import pytest

from tfdml import losses

SAME = np.array([1, 0, 0, 1, 0])
DISTANCES = np.array([0.5, 0.5, 1.5, 0.0, 0.0], "float32")


@pytest.mark.parametrize(
    ("power", "expected"), [(1, [0.5, 0.5, 0.0, 0.0, 1.0]), (2, [0.25, 0.25, 0.0, 0.0, 1.0])]
)
def test_values(power, expected):
    np.testing.assert_allclose(losses.PairContrastiveLoss(power=power).call(SAME, DISTANCES), expected)


@pytest.mark.parametrize("power", [1, 2])
def test_the_form_of_bell_and_bala(power):
    loss = losses.PairContrastiveLoss(0.8, power, squared_margin=True)
    expected = [d**power if same else max(0.0, 0.8**power - d**power) for same, d in zip(SAME, DISTANCES.tolist())]
    np.testing.assert_allclose(loss.call(SAME, DISTANCES), expected, rtol=1e-6)
    again = losses.deserialize(losses.serialize(loss))
    np.testing.assert_array_equal(again.call(SAME, DISTANCES), loss.call(SAME, DISTANCES))


def test_batches_and_pairs_agree():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    i, j = np.nonzero(~np.eye(9, dtype=bool))
    pairs = labels[i] == labels[j], np.linalg.norm(x[i] - x[j], axis=1)
    expected = losses.PairContrastiveLoss(1.5, squared_margin=True).call(*pairs)
    values = losses.get("bell_bala", negative_margin=1.5**2).call(labels, x)
    np.testing.assert_allclose(np.mean(values), np.mean(expected))


def test_equals_tensorflow_addons():
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    theirs = addons.ContrastiveLoss(margin=0.8)(SAME, DISTANCES)
    np.testing.assert_allclose(losses.PairContrastiveLoss(margin=0.8)(SAME, DISTANCES), theirs, rtol=1e-6)


def test_all_pairs_of_a_batch_equal_tensorflow_addons():
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(9, 3)).astype("float32"), rng.integers(0, 3, 9)
    i, j = np.nonzero(~np.eye(9, dtype=bool))
    theirs = addons.ContrastiveLoss()(labels[i] == labels[j], np.linalg.norm(x[i] - x[j], axis=1))
    np.testing.assert_allclose(losses.get("hadsell")(labels, x), theirs, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="margin=-1. Expected: margin > 0"):
        losses.PairContrastiveLoss(margin=-1)
    with pytest.raises(ValueError, match="power=3"):
        losses.PairContrastiveLoss(power=3)
    with pytest.raises(ValueError, match="5 labels and 4 distances"):
        losses.PairContrastiveLoss().call(SAME, DISTANCES[:4])
