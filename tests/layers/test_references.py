"""ClassProxies: references, weights and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers


def test_order_of_proxies_and_labels():
    proxies = layers.ClassProxies(3, per_class=2, embedding_size=4)
    values = np.arange(24, dtype="float32").reshape(3, 2, 4)
    proxies.assign(values)
    references = proxies()
    np.testing.assert_array_equal(references.embeddings, values.reshape(6, 4))
    np.testing.assert_array_equal(references.labels, [0, 0, 1, 1, 2, 2])
    assert references.valid is None


def test_gradients_reach_the_proxies():
    proxies = layers.ClassProxies(2, embedding_size=3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(proxies().embeddings * [[1.0], [2.0]])
    (gradient,) = tape.gradient(loss, proxies.trainable_variables)
    np.testing.assert_array_equal(gradient, np.repeat([[[1.0]], [[2.0]]], 3, axis=-1))


def test_round_trip():
    proxies = layers.ClassProxies(3, per_class=2, embedding_size=4, initializer=keras.initializers.Ones())
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(proxies))
    assert again.get_config() == proxies.get_config()
    np.testing.assert_array_equal(again().embeddings, np.ones((6, 4)))


def test_former_names():
    from tfdml.layers import pooling

    with pytest.warns(DeprecationWarning, match="ClassProxies: the argument 'dim' is now 'embedding_size'"):
        assert layers.ClassProxies(3, dim=4).embedding_size == 4
    with pytest.warns(DeprecationWarning, match="pooling.pooling_names is now tfdml.layers.pooling.names"):
        assert pooling.pooling_names() == pooling.names()
    with pytest.raises(AttributeError, match="has no attribute 'poolings'"):
        pooling.poolings  # noqa: B018


def test_configurations_of_earlier_versions():
    config = layers.ClassProxies(3, embedding_size=4).get_config()
    config["dim"] = config.pop("embedding_size")
    assert layers.ClassProxies.from_config(config).embedding_size == 4


@pytest.mark.parametrize("name", ["num_classes", "per_class", "embedding_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_bad_counts(name, value):
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        layers.ClassProxies(**{"num_classes": 2, "per_class": 1, "embedding_size": 2, name: value})


def test_assign_of_another_shape():
    with pytest.raises(ValueError, match="shape \\(2, 3\\). Expected: \\(2, 1, 3\\)"):
        layers.ClassProxies(2, embedding_size=3).assign(np.zeros((2, 3)))
