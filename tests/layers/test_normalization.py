"""The normalization layers: dtype policies, serialization, errors. Values are tested with their ops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers


@pytest.mark.parametrize("layer", [layers.L2Normalization(), layers.L2Clip(), layers.L2Clip(0.5)])
def test_round_trip_in_a_model(layer, tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.layers[-1].get_config() == layer.get_config()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("layer", [layers.L2Normalization, layers.L2Clip])
def test_mixed_precision_does_not_overflow(layer, policy):
    outputs = layer(dtype=policy)(tf.constant([[300.0, 400.0]]))  # squares overflow float16
    assert outputs.dtype == policy[len("mixed_") :]
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), [[0.6, 0.8]], atol=5e-3)


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_bad_radius(max_norm):
    with pytest.raises(ValueError, match="max_norm must be positive"):
        layers.L2Clip(max_norm)
