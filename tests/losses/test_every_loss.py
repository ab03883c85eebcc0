"""Requirements for every registered loss. The formulas are tested separately."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import EDGES

from tfdml import losses
from tfdml.layers import ClassProxies, References

# Losses on given pairs.
PAIRED = {"in_batch_negatives", "pair_contrastive"}
NAMES = [name for name in losses.names() if name not in PAIRED]
# One loss per type of computation: pairs, triplets, softmax over references, proxies as anchors, histograms.
FAMILIES = ["multi_similarity", "triplet", "soft_triple", "proxy_anchor", "fast_ap"]
# Losses with the same computation and other values.
DISTINCT = [name for name in NAMES if name not in {"contrastive", "nt_xent", "normalized_softmax"}]
# Losses with the operations of others are compiled in the integration tier only.
LIKE_OTHERS = {"c1", "hadsell", "triplet_soft", "info_nce", "supervised_contrastive", "cos_face", "proxy_nca_plus_plus"}
LIKE_OTHERS |= {"generalized_lifted_structure", "proxy_proxy"}
OF_REFERENCES = {"angular", "proxy_nca", "proxy_proxy", "proxy_proxy_through_batch", "lifted_structure"}
BATCHES = {
    **EDGES,
    "all zero": (np.zeros((4, 3)), [0, 0, 1, 1]),
    "far apart": (1e4 * np.random.default_rng(1).normal(size=(6, 3)), [0, 0, 1, 1, 2, 2]),
    "opposite": (np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]]), [0, 0, 1, 1]),
}


def values_and_gradient(loss, labels, x, references=None):
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        values = loss.call(labels, variable) if references is None else loss.against(labels, variable, references)
        mean = tf.reduce_mean(values)
    gradient = tape.gradient(mean, variable)
    return values.numpy(), np.zeros(1) if gradient is None else tf.cast(gradient, tf.float64).numpy()


def check_edges(name, dtype):
    loss = losses.get(name)
    for case, (x, labels) in BATCHES.items():
        x = tf.cast(x, dtype)
        values, gradient = values_and_gradient(loss, np.array(labels), x)
        assert values.shape == (len(labels),), case
        assert values.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert np.isfinite(values).all() and np.isfinite(gradient).all(), case
        if case == "one sample" and name != "n_pairs":  # its L2 term remains
            assert not values.any() and not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_batch_gives_nan(name):
    check_edges(name, "float32")


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in FAMILIES), ("triplet", "float16"), ("fast_ap", "bfloat16")]
)
def test_no_batch_gives_nan_in_other_precisions(name, dtype):
    check_edges(name, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_not_a_number_stays_visible(name):
    """A finite loss with gradients that are not finite would evade a check of the loss."""
    loss, rng = losses.get(name), np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 3)).astype("float32"), np.array([0, 0, 1, 1, 2, 2])
    for wrong in (np.nan, np.inf):
        bad = np.where(np.arange(6)[:, None] == 5, np.float32(wrong), x)
        assert np.isnan(loss.call(labels, bad)[5])
        assert np.isnan(loss.against(labels, bad, References(x, labels))[5])
        assert np.isnan(loss.against(labels, x, References(bad, labels))).all()


@pytest.mark.parametrize("name", losses.names())
def test_an_empty_batch(name):
    """A filtered dataset may yield one: no values, a gradient of its shape, and 0 after Keras' reduction."""
    loss, labels = losses.get(name), np.zeros(0, "int64")
    shape = {"in_batch_negatives": (0, 2, 3), "pair_contrastive": (0,)}.get(name, (0, 3))
    calls = [lambda x: loss.call(labels, x)]
    if name not in PAIRED:
        points = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
        calls += [
            lambda x: loss.against(labels, x, References(points, np.array([0, 0, 1, 1]), per_class=2)),
            lambda x: loss.against(labels, x, References(points, np.array([0, 1, 1, 0]))),
        ]
    for call in calls:
        x = tf.Variable(np.zeros(shape, "float32"))
        with tf.GradientTape() as tape:
            values = call(x)
            total = tf.reduce_sum(values)
        assert values.shape == (0,) and total == 0.0
        gradient = tape.gradient(total, x)
        assert gradient is None or tf.convert_to_tensor(gradient).shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_no_references_give_nan(name):
    loss, rng = losses.get(name), np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 3)).astype("float32"), np.array([0, 0, 1, 1, 2, 5])
    others, other_labels = rng.normal(size=(8, 3)).astype("float32"), np.repeat(np.arange(4), 2)
    cases = {
        "proxies": References(others, other_labels, per_class=2),
        "proxies that coincide": References(np.repeat(others[:4], 2, axis=0), other_labels, per_class=2),
        "the batch itself": References(x, labels),
        "memory": References(others, other_labels, np.arange(8) < 5),
        "empty memory": References(np.zeros((8, 3), "float32"), np.zeros(8, int), np.zeros(8, bool)),
        "one reference": References(others[:1], other_labels[:1]),
    }
    for case, references in cases.items():
        values, gradient = values_and_gradient(loss, labels, x, references)
        assert values.shape == (6,) and np.isfinite(values).all() and np.isfinite(gradient).all(), case
        if case == "empty memory" and name != "n_pairs":
            assert not values.any() and not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_references_that_do_not_exist_take_no_part(name):
    loss, rng = losses.get(name), np.random.default_rng(1)
    x, labels = rng.normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    others, other_labels, exists = rng.normal(size=(9, 3)), rng.integers(0, 3, 9), rng.random(9) < 0.6
    masked = loss.against(labels, x, References(others, other_labels, exists))
    np.testing.assert_allclose(
        masked, loss.against(labels, x, References(others[exists], other_labels[exists])), atol=1e-12
    )


def check_graph_and_xla(name, batch, ways=("batch", "references"), compiled=True):
    """Graphs of unknown batch size, plain and compiled, have the values and gradients of eager execution."""
    loss, rng = losses.get(name), np.random.default_rng(4)
    x, labels = tf.constant(rng.normal(size=(batch, 8)), tf.float32), tf.repeat(tf.range(batch // 4, dtype=tf.int64), 4)
    points, point_labels = rng.normal(size=(batch // 2, 8)).astype("float32"), np.repeat(np.arange(batch // 4), 2)
    proxies = References(points, point_labels, per_class=2)
    scores = {"batch": loss.call, "references": lambda labels, x: loss.against(labels, x, proxies)}
    for score in map(scores.get, ways):

        def with_gradient(labels, x, score=score):
            with tf.GradientTape() as tape:
                tape.watch(x)
                values = score(labels, x)
                mean = tf.reduce_mean(values)
            return values, tf.convert_to_tensor(tape.gradient(mean, x))

        signature = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 8), tf.float32)]
        graph = tf.function(with_gradient, input_signature=signature, autograph=False)
        # Compile the same graph, so that it is traced only once.
        functions = [graph, tf.function(graph, jit_compile=True)] if compiled else [graph]
        values, gradient = with_gradient(labels, x)
        for function in functions:
            found, found_gradient = function(labels, x)
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found_gradient, gradient, rtol=1e-3, atol=1e-4 * np.max(np.abs(gradient)))


NO_FAMILIES = [name for name in DISTINCT if name not in FAMILIES]


@pytest.mark.parametrize("name", NO_FAMILIES)
def test_graph_and_xla(name):
    """With references for losses that use more of them than distances or similarities."""
    way = "references" if name in OF_REFERENCES else "batch"
    check_graph_and_xla(name, 32, [way], compiled=name not in LIKE_OTHERS)


@pytest.mark.integration
@pytest.mark.parametrize("name", NO_FAMILIES)
def test_graph_and_xla_of_the_other_way(name):
    others = ["batch"] if name in OF_REFERENCES else ["references"]
    check_graph_and_xla(name, 32, ["batch", "references"] if name in LIKE_OTHERS else others)


@pytest.mark.parametrize("name", FAMILIES)
def test_graph_and_xla_of_a_family(name):
    check_graph_and_xla(name, 32)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["triplet_all", "fast_ap", "soft_triple"])
def test_graph_and_xla_of_a_large_batch(name):
    """Of the losses that sort, search or scatter."""
    check_graph_and_xla(name, 512, ["batch"])


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name):
    loss, rng = losses.get(name), np.random.default_rng(2)
    x, labels, order = rng.normal(size=(12, 4)), np.repeat(np.arange(4), 3), rng.permutation(12)
    np.testing.assert_allclose(loss.call(labels[order], x[order]), loss.call(labels, x).numpy()[order], atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_classes_do_not_matter(name):
    loss, rng = losses.get(name), np.random.default_rng(2)
    x, labels = rng.normal(size=(12, 4)), np.repeat(np.arange(4), 3)
    others = np.array([2**31 - 1, 2**24, 2**24 + 1, 0])[labels]
    np.testing.assert_allclose(loss.call(others, x), loss.call(labels, x), atol=1e-12)


@pytest.mark.parametrize("name", losses.names())
def test_round_trip(name):
    loss = losses.get(name)
    again = losses.get(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    assert again.name == name


@pytest.mark.parametrize(
    "policy", ["float32", "mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.integration)]
)
def test_plain_compile(policy, dtype_policy):
    """A step of one plain Keras model with a head for each loss."""
    dtype_policy(policy)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(3, name=name) for name in NAMES]
    model = keras.Model(inputs, [head(inputs) for head in heads])
    optimizer = keras.optimizers.SGD(0.01)
    if policy == "mixed_float16":  # With a loss scale that suits the first step.
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=64.0)
    model.compile(optimizer=optimizer, loss=[losses.get(name) for name in NAMES], run_eagerly=True)
    x, labels = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), np.repeat(np.arange(4), 4)
    before = [head.get_weights()[0] for head in heads]
    values = model.train_on_batch(x, [labels] * len(NAMES), return_dict=True)
    for name, head, start in zip(NAMES, heads, before):
        weights = head.get_weights()[0]
        assert np.isfinite(values[f"{name}_loss"]), name
        assert np.isfinite(weights).all() and np.any(weights != start), name


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.integration)])
def test_plain_fit(policy, dtype_policy):
    """In Keras' own graph, with a last batch of a different size."""
    dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=losses.get("multi_similarity"))
    x, labels = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), np.repeat(np.arange(4), 4)
    before = model.get_weights()[0]
    history = model.fit(x, labels, batch_size=10, epochs=8, shuffle=False, verbose=0)
    after = model.get_weights()[0]
    assert np.isfinite(history.history["loss"]).all() and np.isfinite(after).all() and np.any(after != before)


@pytest.mark.parametrize("name", NAMES)
def test_trains_proxies(name):
    """The gradient reaches the proxies of each class in the batch."""
    loss, proxies = losses.get(name), ClassProxies(4, per_class=2, embedding_size=3)
    x, labels = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.repeat(np.arange(4), 2)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.against(labels, x, proxies()))
    gradient = tf.convert_to_tensor(tape.gradient(value, proxies.trainable_variables)[0]).numpy()
    assert gradient.shape == (4, 2, 3) and np.isfinite(gradient).all() and gradient.any()
