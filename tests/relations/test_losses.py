"""Every loss on pairs with a relation, against loops and against classes; miners and memories with a relation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import losses, miners, relations
from tfdml.layers import CrossBatchMemory, References

OF_CLASSES = {
    "arc_face", "cos_face", "normalized_softmax", "proxy_anchor", "proxy_nca", "proxy_nca_plus_plus", "proxy_proxy",
    "proxy_proxy_through_batch", "soft_triple",
}  # fmt: skip
# One name per class and computation; others differ in values only.
SAME = {"c1", "c2", "hadsell", "nt_xent", "triplet_soft", "in_batch_negatives", "pair_contrastive"}
ON_PAIRS = sorted(set(losses.names()) - OF_CLASSES - SAME)

RNG = np.random.default_rng(1)
X = RNG.normal(size=(8, 3))
PLACES = RNG.uniform(0, 4, size=(8, 2))
NEAR = relations.Within(1.2, 2.0)
MEMORY = RNG.normal(size=(5, 3)), RNG.uniform(0, 4, size=(5, 2))


def loops_over(x, places, others=None, other_places=None):
    """Embedding, positives and negatives of each sample, by the definition of `NEAR`."""
    alone = others is None
    others, other_places = (x, places) if alone else (others, other_places)
    for i in range(len(x)):
        positives, negatives = [], []
        for j in range(len(others)):
            distance = np.linalg.norm(places[i] - other_places[j])
            if distance <= 1.2 and not (alone and i == j):
                positives.append(others[j])
            elif distance >= 2.0:
                negatives.append(others[j])
        yield x[i], np.reshape(positives, (-1, 3)), np.reshape(negatives, (-1, 3))


def contrastive(samples):
    pulls, pushes = [], []
    for x, positives, negatives in samples:
        pulls += [np.linalg.norm(x - p) for p in positives]
        pushes += [max(0.0, 1.5 - np.linalg.norm(x - n)) for n in negatives]
    return sum(sum(terms) / max(1, np.count_nonzero(terms)) for terms in (pulls, pushes))


def triplet(samples):
    terms = [
        max(0.0, np.linalg.norm(x - p) - np.linalg.norm(x - n) + 0.3)
        for x, positives, negatives in samples
        for p in positives
        for n in negatives
    ]
    return np.mean(terms)


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def info_nce(samples):
    values = []
    for x, positives, negatives in samples:
        rest = sum(np.exp(cosine(x, n) / 0.5) for n in negatives)
        terms = [-np.log(np.exp(cosine(x, p) / 0.5) / (np.exp(cosine(x, p) / 0.5) + rest)) for p in positives]
        values.append(np.mean(terms) if terms and len(negatives) else 0.0)
    return np.mean(values)


def supervised_contrastive(samples):
    values = []
    for x, positives, negatives in samples:
        total = sum(np.exp(cosine(x, y) / 0.5) for y in [*positives, *negatives])
        terms = [-np.log(np.exp(cosine(x, p) / 0.5) / total) for p in positives]
        values.append(np.mean(terms) if terms else 0.0)
    return np.mean(values)


LOOPS = {
    "contrastive": (contrastive, losses.ContrastiveLoss(negative_margin=1.5, relation=NEAR)),
    "triplet": (triplet, losses.TripletLoss(0.3, mining="all", relation=NEAR)),
    "info_nce": (info_nce, losses.InfoNCELoss(0.5, relation=NEAR)),
    "supervised_contrastive": (supervised_contrastive, losses.SupervisedContrastiveLoss(0.5, relation=NEAR)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_pairs_in_neither_mask_count_for_nothing(name):
    loop, loss = LOOPS[name]
    assert np.mean(loss.call(PLACES, X)) == pytest.approx(loop(list(loops_over(X, PLACES))), abs=1e-9)
    against = loss.against(PLACES, X, References(*MEMORY))
    assert np.mean(against) == pytest.approx(loop(list(loops_over(X, PLACES, *MEMORY))), abs=1e-9)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_relation_of_the_same_pairs_gives_the_same_bits(name):
    x, labels = X.astype("float32"), np.array([0, 0, 1, 2, 1, 2, 2, 3])
    others, other_labels = MEMORY[0].astype("float32"), np.array([0, 1, 1, 4, 2])
    plain = losses.get(name)
    matrix = np.equal.outer(np.arange(12) // 2, np.arange(12) // 2)
    for relation, encode in (
        (relations.SameClass(), np.asarray),
        (relations.Within(0.5, 1.0), lambda labels: labels.astype("float32")),
        (relations.Overlap(), lambda labels: np.eye(6, dtype=int)[labels]),
        (relations.Pairs(matrix), lambda labels: 2 * labels + np.arange(len(labels)) % 2),
    ):
        loss = losses.get(name, relation=relation)
        with tf.GradientTape(persistent=True) as tape:
            variable = tf.Variable(x)
            values, expected = loss.call(encode(labels), variable), plain.call(labels, variable)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(tape.gradient(values, variable), tape.gradient(expected, variable))
        np.testing.assert_array_equal(
            loss.against(encode(labels), x, References(others, encode(other_labels), np.arange(5) < 4)),
            plain.against(labels, x, References(others, other_labels, np.arange(5) < 4)),
        )


@pytest.mark.parametrize("name", ON_PAIRS)
@pytest.mark.parametrize("places", [10.0 * np.arange(4), 0.3 * np.arange(4), 1.5 * np.ones(4)[:, None] * [0, 1]])
def test_a_batch_without_positives_or_negatives(name, places):
    loss = losses.get(name, relation=relations.Within(0.0 if places.ndim == 1 and places[1] < 1 else 1.0, 2.0))
    variable = tf.Variable(X[:4], dtype=tf.float32)
    with tf.GradientTape() as tape:
        values = loss.call(places, variable)
    gradient = tape.gradient(values, variable)
    gradient = np.zeros(1) if gradient is None else tf.convert_to_tensor(gradient)
    assert values.shape == (4,) and np.isfinite(values).all() and np.isfinite(gradient).all()
    if places.ndim == 1 and places[1] < 1 and name != "n_pairs":  # neither positives nor negatives
        assert not np.any(values) and not np.any(gradient)


@pytest.mark.parametrize("name", sorted(OF_CLASSES))
def test_losses_on_classes_refuse_other_relations(name):
    with pytest.raises(ValueError, match="needs classes.*Within.*Expected: the relation SameClass"):
        losses.get(name, relation=NEAR)
    with pytest.raises(ValueError, match="needs classes"):
        losses.get(name).with_relation(NEAR)
    assert losses.get(name, relation=relations.SameClass()).needs_classes


def test_a_boundary_per_class_needs_classes():
    loss = losses.MarginLoss(learn_beta=True, num_classes=3, relation=NEAR)
    with pytest.raises(ValueError, match="MarginLoss with relation"):
        loss.call(PLACES, X)
    losses.MarginLoss(learn_beta=True, relation=NEAR).call(PLACES, X)


def test_pairs_of_queries_and_positives_take_a_relation():
    places = np.array([0.0, 0.5, 9.0])
    loss = losses.InBatchNegativesLoss(1.0, relation=relations.Within(1.0, 2.0))
    stacked = RNG.normal(size=(3, 2, 4))
    values, ids = loss.call(places, stacked), np.array([0, 0, 1])
    np.testing.assert_allclose(values, losses.InBatchNegativesLoss(1.0).call(ids, stacked))


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_given_pair_is_positive_by_any_relation(symmetric):
    """A sample with one tag has fewer than two in common even with itself."""
    tags = np.eye(3, dtype=int)
    stacked = RNG.normal(size=(3, 2, 4))
    found = losses.InBatchNegativesLoss(1.0, symmetric, relation=relations.Overlap(2)).call(tags, stacked)
    np.testing.assert_allclose(found, losses.InBatchNegativesLoss(1.0, symmetric).call(np.arange(3), stacked))


def test_round_trip():
    loss = losses.TripletLoss(relation=NEAR, miner="hard")
    again = losses.deserialize(losses.serialize(loss))
    assert again.relation.get_config() == NEAR.get_config() and again.miner is not None
    assert "relation" not in losses.TripletLoss().get_config()
    np.testing.assert_array_equal(again.call(PLACES, X), loss.call(PLACES, X))


def test_another_relation_shares_the_parameters():
    loss = losses.MarginLoss(learn_beta=True)
    other = loss.with_relation("same_class")
    assert other.parameters is loss.parameters and loss.relation is None


@pytest.mark.parametrize("name", miners.names())
def test_miners_take_a_relation(name):
    miner = miners.get(name)
    chosen = miner(PLACES, X, relation=NEAR)
    masks = NEAR.masks(PLACES, PLACES)
    itself = np.eye(8, dtype=bool)
    assert not np.any(chosen.positives & ~(masks.positives & ~itself))
    assert not np.any(chosen.negatives & ~masks.negatives)
    if name == "hard":
        for i, (x, positives, negatives) in enumerate(loops_over(X, PLACES)):
            for mask, others, best in ((chosen.positives, positives, max), (chosen.negatives, negatives, min)):
                expected = best((np.linalg.norm(x - other) for other in others), default=None)
                found = np.linalg.norm(X[mask[i].numpy()] - x, axis=1)
                assert len(found) == (expected is not None) and (not len(found) or found[0] == pytest.approx(expected))


@pytest.mark.parametrize(
    ("shape", "dtype", "labels"),
    [((2,), "float32", PLACES), ((2,), "float64", PLACES), ((1,), "float32", PLACES[:, 0]), ((3,), "int64", X > 0)],
)
def test_memories_store_labels_of_relations(shape, dtype, labels):
    memory = CrossBatchMemory(5, 3, label_shape=shape, label_dtype=dtype)
    memory = CrossBatchMemory.from_config(memory.get_config())
    memory.update(labels, X)
    expected = labels.astype(dtype).reshape(8, -1)[[5, 6, 7, 3, 4]]
    np.testing.assert_array_equal(memory().labels, expected)
    assert memory().labels.dtype == dtype


def test_wrong_labels_of_a_memory():
    memory = CrossBatchMemory(5, 3, label_shape=(2,), label_dtype="float32")
    with pytest.raises(ValueError, match=r"labels do not match the memory.*\('batch', 2\)"):
        memory.update(PLACES[:, 0], X)
    with pytest.raises(ValueError, match="Expected: one of"):
        CrossBatchMemory(5, 3, label_dtype="string")
    assert "label_shape" not in CrossBatchMemory(5, 3).get_config()


def test_keras_models_take_a_loss_with_a_relation():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", loss=losses.ContrastiveLoss(relation=NEAR), run_eagerly=True)
    assert np.isfinite(model.evaluate(X, PLACES, verbose=0))
