"""Masks of every relation against double loops, and the errors of bad labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import losses, ops, relations

RNG = np.random.default_rng(0)
TAGS = np.maximum(RNG.random((9, 5)) < 0.3, np.eye(9, 5, dtype=bool) | (np.arange(9)[:, None] == 5 + np.arange(5)))
TAGS[:, 0] |= ~TAGS.any(axis=1)
PLACES = RNG.integers(0, 6, (9, 2)) / 2.0  # distances of exactly the thresholds occur
MATRIX = np.triu(RNG.integers(-1, 2, (9, 9)), 1)
MATRIX = MATRIX + MATRIX.T


def of_measure(a, b, measure):
    common = sum(x and y for x, y in zip(a, b))
    return common if measure == "count" else common / sum(x or y for x, y in zip(a, b))


def distance_of(a, b, distance):
    a, b = np.asarray(a, float), np.asarray(b, float)
    if distance == "cosine":
        return 1 - a @ b / np.sqrt((a @ a) * (b @ b))
    total = sum(abs(x - y) if distance == "l1" else (x - y) ** 2 for x, y in zip(a, b))
    return np.sqrt(total) if distance == "l2" else total


def overlap(minimum, maximum, measure):
    def sign(a, b):
        value = of_measure(a, b, measure)
        return 1 if value >= minimum else -1 if value <= maximum else 0

    return relations.Overlap(minimum, maximum, measure), TAGS.astype(int), sign


def within(positive, negative, distance, labels=PLACES):
    def sign(a, b):
        value = distance_of(np.atleast_1d(a), np.atleast_1d(b), distance)
        return 1 if value <= positive else -1 if value >= negative else 0

    return relations.Within(positive, negative, distance), labels, sign


def parity(ids, others):
    """Positive for ids of equal parity, negative if they are at least 3 apart."""
    even, far = (ids - others) % 2 == 0, abs(ids - others) >= 3
    return tf.where(even, 1, tf.where(far, -1, 0))


def from_pairs(**options):
    positives, negatives = [(0, 1), (1, 2), (4, 7)], [(0, 3), (2, 8)]
    symmetric = options.get("symmetric", True)
    only = options.pop("only_positives", False)
    others = options.get("others") or ("negative" if only else "ignore")

    def sign(a, b):
        def is_in(pairs):
            return (a, b) in pairs or (symmetric and (b, a) in pairs)

        if a == b or is_in(positives):
            return 1
        if others == "negative" or (not only and is_in(negatives)):
            return -1
        return 0

    return relations.Pairs.from_pairs(positives, None if only else negatives, **options), np.arange(9), sign


CASES = {
    "same class": (relations.SameClass(), np.arange(9) % 4, lambda a, b: 1 if a == b else -1),
    "tags": overlap(1, 0, "count"),
    "two tags": overlap(2, 0, "count"),
    "jaccard": overlap(0.5, 0.2, "jaccard"),
    "positions": within(0.5, 2.0, "l2"),
    "exactly 0": within(0.0, 1.0, "l2"),
    "squares": within(0.25, 1.0, "squared_l2"),
    "blocks": within(1.0, 1.5, "l1"),
    "numbers": within(1.0, 3.0, "l2", np.array([1, 5, 2, 2, 9, 7, 0, 3, 4])),
    "many dimensions": within(3.5, 4.0, "l2", RNG.normal(size=(9, 12))),
    "directions": within(0.2, 1.0, "cosine", PLACES + 0.5),
    "matrix": (relations.Pairs(MATRIX), np.arange(9), lambda a, b: 1 if a == b else int(MATRIX[a, b])),
    "bool matrix": (relations.Pairs(MATRIX > 0), np.arange(9), lambda a, b: 1 if a == b or MATRIX[a, b] > 0 else -1),
    "function": (
        relations.Pairs(parity),
        np.arange(9) + 100,
        lambda a, b: 1 if (a - b) % 2 == 0 else -1 if abs(a - b) >= 3 else 0,
    ),
    "pairs": from_pairs(),
    "positive pairs": from_pairs(only_positives=True),
    "directed pairs": from_pairs(symmetric=False, others="negative"),
    "triplets": (
        relations.Pairs.from_triplets([(0, 1, 2), (0, 3, 2), (5, 6, 0)]),
        np.arange(9),
        lambda a, b: 1 if a == b or (a, b) in {(0, 1), (0, 3), (5, 6)} else -1 if (a, b) in {(0, 2), (5, 0)} else 0,
    ),
}


def signs(relation, labels, others):
    positives, negatives = relation.masks(relation.encode(labels), relation.encode(others))
    assert not np.any(positives & negatives)
    return positives.numpy().astype(int) - negatives.numpy().astype(int)


@pytest.mark.parametrize("case", CASES)
def test_masks_equal_double_loops(case):
    relation, labels, sign = CASES[case]
    others = labels[[3, 0, 8, 8, 1]]
    expected = [[sign(a, b) for b in others] for a in labels]
    np.testing.assert_array_equal(signs(relation, labels, others), expected)


@pytest.mark.parametrize("case", CASES)
def test_pairs_of_a_batch_leave_out_the_sample_itself(case):
    relation, labels, sign = CASES[case]
    x = RNG.normal(size=(9, 3)).astype("float32")
    pairs = ops.compare(labels, x, relation=relation)
    # The last reference does not exist.
    against = ops.compare(labels[:4], x[:4], ops.References(x, labels, np.arange(9) < 8), relation)
    for i in range(9):
        for j in range(9):
            expected = 0 if i == j else sign(labels[i], labels[j])
            assert (pairs.positives[i, j], pairs.negatives[i, j]) == (expected == 1, expected == -1)
            if i < 4:
                expected = 0 if j == 8 else sign(labels[i], labels[j])
                assert (against.positives[i, j], against.negatives[i, j]) == (expected == 1, expected == -1)


@pytest.mark.parametrize("case", ["triplets", "matrix", "function", "many dimensions", "jaccard"])
def test_graphs_without_autograph(case):
    """Keras traces training steps so, which does not translate Python's `len` and `if`."""
    relation, labels, _ = CASES[case]
    labels = tf.convert_to_tensor(labels)
    spec = tf.TensorSpec((None, *labels.shape[1:]), labels.dtype)
    masks = tf.function(lambda labels: tuple(relation.masks(relation.encode(labels), labels)), [spec], autograph=False)
    for found, eager in zip(masks(labels), relation.masks(relation.encode(labels), labels)):
        np.testing.assert_array_equal(found, eager)


@pytest.mark.parametrize(
    "case",
    ["positions", *(pytest.param(name, marks=pytest.mark.integration) for name in ("jaccard", "pairs", "matrix"))],
)
def test_graphs_of_unknown_size_compile(case):
    relation, labels, _ = CASES[case]
    labels = tf.convert_to_tensor(labels)
    shape = (None,) if labels.shape.rank == 1 else (None, labels.shape[1])

    @tf.function(input_signature=[tf.TensorSpec(shape, labels.dtype)], jit_compile=True)
    def masks(labels):
        return tuple(relation.masks(relation.encode(labels), labels))

    for compiled, eager in zip(masks(labels), relation.masks(relation.encode(labels), labels)):
        np.testing.assert_array_equal(compiled, eager)


@pytest.mark.parametrize("case", ["same class", "positions", "positive pairs"])
def test_labels_of_unknown_rank(case):
    """As from tf.py_function, or in a graph that Keras relaxed to labels (batch,) and (batch, 1)."""
    relation, labels, _ = CASES[case]
    labels = tf.convert_to_tensor(labels)
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 3)).astype("float32")
    loss = losses.TripletLoss(margin=1.0, relation=relation)
    compiled = tf.function(loss.call, input_signature=[tf.TensorSpec(None, labels.dtype), tf.TensorSpec((None, 3))])
    expected = loss.call(labels, embeddings)
    np.testing.assert_allclose(compiled(labels, embeddings), expected, rtol=1e-6)
    if labels.shape.rank == 1:
        np.testing.assert_allclose(compiled(labels[:, None], embeddings), expected, rtol=1e-6)


@pytest.mark.parametrize("case", [name for name in CASES if name != "function"])
def test_round_trip(case):
    relation, labels, _ = CASES[case]
    config = keras.saving.serialize_keras_object(relation)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == relation.get_config()
    np.testing.assert_array_equal(signs(again, labels, labels), signs(relation, labels, labels))
    assert relations.get(relations.serialize(relation)).get_config() == relation.get_config()


def test_functions_round_trip_if_they_are_registered():
    registered = keras.saving.register_keras_serializable("test_masks", "parity")(parity)
    config = relations.serialize(relations.Pairs(registered))
    assert signs(relations.get(config), [1, 2], [3, 5]).tolist() == [[1, 1], [0, -1]]
    unknown = relations.Pairs(lambda a, b: a == b)
    with pytest.raises(ValueError, match="not registered.*Import the module"):
        relations.get(relations.serialize(unknown))


def test_relevance_is_graded():
    graded = relations.Within(1.0, 4.0)
    np.testing.assert_allclose(graded.relevance([[0.0]], [[0.0], [1.0], [5.0]]), [[1.0, 0.75, 0.0]])
    np.testing.assert_allclose(relations.Overlap().relevance([[1, 1]], [[1, 1], [1, 0]]), [[2.0, 1.0]])
    np.testing.assert_allclose(relations.Pairs(parity).relevance(tf.constant([1]), tf.constant([3, 8])), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relations.Within(2.0, 1.0), "thresholds of the distance are crossed"),
        (lambda: relations.Within(1.0, 1.0), "positive=1.0, negative=1.0. Expected: positive < negative"),
        (lambda: relations.Within(-1.0, 1.0), "positive >= 0"),
        (lambda: relations.Within(float("nan"), 1.0), "positive >= 0"),
        (lambda: relations.Within(1.0, 2.0, "manhattan"), "Expected: one of"),
        (lambda: relations.Overlap(1, 1), "thresholds of the overlap are crossed"),
        (lambda: relations.Overlap(0), "minimum=0"),
        (lambda: relations.Overlap(0.5), "minimum=0.5. Expected: an integer"),
        (lambda: relations.Overlap(1.5, measure="jaccard"), "0 <= minimum <= 1"),
        (lambda: relations.Overlap(measure="dice"), "Expected: one of"),
        (lambda: relations.Pairs(np.zeros((2, 3))), "not square"),
        (lambda: relations.Pairs([[0, 5], [5, 0]]), "other values. Received: 5"),
        (lambda: relations.Pairs([[0, 1], [1, 0]]), "empty: no pair is negative"),
        (lambda: relations.Pairs(-np.ones((2, 2)) + np.eye(2)), "empty: no pair is positive"),
        (lambda: relations.Pairs([[-1, 1], [1, 0]]), r"its own negative. Received: -1 at \[0, 0\]"),
        (lambda: relations.Pairs.from_pairs([]), "empty: no pair is positive"),
        (lambda: relations.Pairs.from_pairs([(0, 1)], others="ignore"), "empty: no pair is negative"),
        (lambda: relations.Pairs.from_pairs([(0, 1)], [(1, 0)]), r"1 pairs contradict.*\[\(0, 1\)\]"),
        (lambda: relations.Pairs.from_pairs([(0, 0)]), "joins a sample with itself"),
        (lambda: relations.Pairs.from_pairs([(0, 1, 2)]), "not a list of pairs"),
        (lambda: relations.Pairs.from_pairs([(0.5, 1)]), "type float64. Expected: integers"),
        (lambda: relations.Pairs.from_triplets([(0, 1, 2), (0, 2, 1)]), "2 pairs contradict"),
        (lambda: relations.Pairs.from_triplets([]), "empty"),
        (lambda: relations.get("near"), "near"),
    ],
)
def test_wrong_relations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pairs_may_be_a_set():
    for given in ({(1, 2), (3, 4)}, zip([1, 3], [2, 4])):
        masks = relations.Pairs.from_pairs(given).masks([1, 3], [2, 4])
        assert masks.positives.numpy().tolist() == [[True, False], [False, True]]


def test_text_is_no_matrix_of_pairs():
    with pytest.raises(TypeError, match="from_pairs"):
        relations.Pairs([["a", "b"], ["b", "a"]])


WRONG_LABELS = {
    "NaN": (relations.Within(1, 2), np.array([[0.0, 1.0], [np.nan, 1.0]]), r"\[nan, 1.0\] of sample 1"),
    "infinity": (relations.Within(1, 2), np.array([0.0, np.inf, np.inf]), "and 2 of 3 in total"),
    "direction 0": (relations.Within(0.1, 1, "cosine"), np.zeros((2, 3)), "not zero"),
    "names": (relations.Within(1, 2), np.array(["a", "b"]), "must be integers"),
    "images": (relations.Within(1, 2), np.zeros((2, 3, 3)), "wrong shape"),
    "no tag": (relations.Overlap(), np.array([[1, 0], [0, 0]]), r"at least one tag.*\[0, 0\] of sample 1"),
    "counts of tags": (relations.Overlap(), np.array([[2, 0], [0, 1]]), r"Received: \[2, 0\]"),
    "shares of tags": (relations.Overlap(), np.array([[0.5, 1.0]]), "such as 0.5"),
    "classes as tags": (relations.Overlap(), np.array([[[1]]]), "wrong shape"),
    "unknown id": (
        relations.Pairs([[1, 1, -1], [1, 1, -1], [-1, -1, 1]]),
        np.array([0, 3]),
        "3 of sample 1.*0 to 2, the rows",
    ),
    "half an id": (relations.Pairs(parity), np.array([0.5]), "such as 0.5"),
    "ids that float32 rounds": (relations.Pairs(parity), np.array([3.0, 2.0**24], "float32"), "such as 1.67772e"),
    "an infinite id": (relations.Pairs(parity), np.array([np.inf, 1.0]), "such as inf"),
    "two ids": (relations.Pairs(parity), np.zeros((2, 2), int), "wrong shape"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels_are_refused(case):
    relation, labels, message = WRONG_LABELS[case]
    with pytest.raises(ValueError, match=message):
        relation.encode(labels)


@pytest.mark.parametrize("case", ["NaN", pytest.param("no tag", marks=pytest.mark.integration), "unknown id"])
def test_wrong_labels_are_refused_in_graphs(case):
    relation, labels, _ = WRONG_LABELS[case]
    x = np.zeros((len(labels), 2), "float32")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must"):
        tf.function(lambda labels: ops.compare(labels, x, relation=relation).positives)(tf.constant(labels))


@pytest.mark.parametrize("case", ["NaN", pytest.param("ids that float32 rounds", marks=pytest.mark.integration)])
def test_wrong_labels_become_nan_under_xla(case):
    relation, labels, _ = WRONG_LABELS[case]
    compared = tf.function(lambda labels: ops.compare(labels, np.ones((2, 2)), relation=relation).embeddings)
    found = tf.function(compared, jit_compile=True)(tf.constant(labels))
    assert np.isnan(found).tolist() == [[False, False], [True, True]]


def test_labels_of_other_sizes_are_refused():
    for relation in (relations.Within(1, 2), relations.Overlap()):
        with pytest.raises(ValueError, match="differ in size"):
            relation.masks(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="2 labels and 3 embeddings"):
        ops.compare([[0.0], [1.0]], np.zeros((3, 2)), relation=relations.Within(1, 2))


def test_functions_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="wrong shape.*broadcast"):
        relations.Pairs(lambda a, b: tf.reshape(a == b, (-1,))).masks(tf.range(2), tf.range(2))


def test_proxies_need_classes():
    proxies = ops.References(np.eye(2), [0, 1], per_class=1, classes=2)
    with pytest.raises(ValueError, match="Class proxies need classes"):
        ops.compare([[0.0], [1.0]], np.eye(2), proxies, relations.Within(1, 2))
