"""What every registered loss must withstand, whatever its formula; the formulas have tests of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import EDGES

from tfdml import losses
from tfdml.layers import ClassProxies, References

# Take given pairs rather than a batch of one kind.
PAIRED = {"in_batch_negatives", "pair_contrastive"}
NAMES = [name for name in losses.loss_names() if name not in PAIRED]
BATCHES = {
    **EDGES,
    "all zero": (np.zeros((4, 3)), [0, 0, 1, 1]),
    "far apart": (1e4 * np.random.default_rng(1).normal(size=(6, 3)), [0, 0, 1, 1, 2, 2]),
    "opposite": (np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]]), [0, 0, 1, 1]),
}


def values_and_gradient(loss, labels, x, references=None):
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        values = loss.call(labels, variable) if references is None else loss.against(variable, labels, references)
        mean = tf.reduce_mean(values)
    gradient = tape.gradient(mean, variable)
    return values.numpy(), np.zeros(1) if gradient is None else tf.cast(gradient, tf.float64).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_no_batch_gives_nan(name, dtype):
    loss = losses.get(name)
    for case, (x, labels) in BATCHES.items():
        x = tf.cast(x, dtype)
        values, gradient = values_and_gradient(loss, np.array(labels), x)
        assert values.shape == (len(labels),), case
        assert values.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert np.isfinite(values).all() and np.isfinite(gradient).all(), case
        if case == "one sample" and name != "n_pairs":  # whose L2 term stays
            assert not values.any() and not gradient.any()


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
    masked = loss.against(x, labels, References(others, other_labels, exists))
    np.testing.assert_allclose(
        masked, loss.against(x, labels, References(others[exists], other_labels[exists])), atol=1e-12
    )


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", NAMES)
def test_graph_and_xla(name, jit_compile):
    loss, rng = losses.get(name), np.random.default_rng(4)
    x, labels = rng.normal(size=(512, 8)).astype("float32"), np.repeat(np.arange(128), 4)
    proxies = References(rng.normal(size=(128, 8)).astype("float32"), np.repeat(np.arange(64), 2), per_class=2)

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 8), tf.float32)],
    )
    def both(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = loss.call(labels, x) + loss.against(x, labels, proxies)
            mean = tf.reduce_mean(values)
        return values, tape.gradient(mean, x)

    values, gradient = both(labels, x)
    with tf.GradientTape() as tape:
        variable = tf.Variable(x)
        expected = loss.call(labels, variable) + loss.against(variable, labels, proxies)
        mean = tf.reduce_mean(expected)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    expected = tf.convert_to_tensor(tape.gradient(mean, variable))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(tf.abs(expected))))


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


@pytest.mark.parametrize("name", losses.loss_names())
def test_round_trip(name):
    loss = losses.get(name)
    again = losses.get(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    assert again.name == name


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_plain_compile(name, policy, dtype_policy):
    dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=losses.get(name))
    labels = np.repeat(np.arange(4), 4)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    before = model.get_weights()[0]
    # Dynamic loss scaling leaves out steps until its scale fits.
    history = model.fit(x, labels, batch_size=10, epochs=8, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = model.get_weights()[0]
    assert np.isfinite(after).all() and np.any(after != before)


@pytest.mark.parametrize("name", NAMES)
def test_trains_proxies(name):
    """The gradient reaches the proxies, those of each class that the batch has."""
    loss, proxies = losses.get(name), ClassProxies(4, per_class=2, dim=3)
    x, labels = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.repeat(np.arange(4), 2)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.against(x, labels, proxies()))
    gradient = tf.convert_to_tensor(tape.gradient(value, proxies.trainable_variables)[0]).numpy()
    assert gradient.shape == (4, 2, 3) and np.isfinite(gradient).all() and gradient.any()
