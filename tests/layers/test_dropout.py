import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers import CountedDropout


def masks(layer, steps=2, function=None):
    ones = tf.ones((64, 50))
    function = function or (lambda x: layer(x, training=True))
    return [np.asarray(function(ones)) for _ in range(steps)]


def test_share_scale_and_inference():
    layer = CountedDropout(0.3, seed=0)
    (mask,) = masks(layer, 1)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7], rtol=1e-6)
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(layer(tf.ones((3, 4))), np.ones((3, 4)))
    np.testing.assert_array_equal(CountedDropout(0.0)(tf.ones((3, 4)), training=True), np.ones((3, 4)))


@pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "xla"])
def test_masks_follow_from_seed_and_step(jit_compile):
    def masks_of(seed, weights=None):
        layer = CountedDropout(0.5, seed=seed)
        layer.build((None, 50))
        if weights is not None:
            layer.set_weights(weights)
        function = None
        if jit_compile is not None:
            function = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)
        return masks(layer, 3, function), layer.get_weights()

    first, weights = masks_of(3)
    assert (first[0] != first[1]).any() and (first[1] != first[2]).any()
    np.testing.assert_array_equal(masks_of(3)[0], first)
    assert (masks_of(4)[0][0] != first[0]).any()
    # The only weight of the layer determines the next masks.
    assert weights == [3]
    np.testing.assert_array_equal(masks_of(3, [np.int64(1)])[0][:2], first[1:])


def test_the_seed_follows_from_that_of_keras():
    seeds = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        seeds.append([CountedDropout(0.5).seed, CountedDropout(0.5).seed])
    assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_round_trip_and_gradient(policy, tmp_path):
    inputs = keras.Input((50,))
    model = keras.Model(inputs, CountedDropout(0.5, seed=1, dtype=policy)(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = tf.ones((4, 50))
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = model(x, training=True)
    # The layer is linear: the gradient is the mask.
    np.testing.assert_array_equal(tape.gradient(output, x), tf.cast(output, tf.float32))
    np.testing.assert_array_equal(again(x, training=True), output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "Received: rate=1.0. Expected: 0 <= rate < 1"),
        ({"rate": -0.1}, "Received: rate=-0.1"),
        ({"rate": True}, "Received: rate=True"),
        ({"rate": 0.1, "seed": -1}, "Received: seed=-1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        CountedDropout(**options)
