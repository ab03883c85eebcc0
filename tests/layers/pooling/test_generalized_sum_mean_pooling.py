"""GSP weights inside the power mean, against loops."""

import numpy as np
import pytest

from tfdml.layers.pooling import GeneralizedMeanPooling, GeneralizedSumMeanPooling, GeneralizedSumPooling

OPTIONS = {"prototypes": 3, "ratio": 0.4, "dtype": "float64"}


def make(kind, **options):
    layer = kind(**{**OPTIONS, **options})
    layer.build((None, None, 6))
    layer.prototype_embeddings.assign(np.random.default_rng(1).normal(size=layer.prototype_embeddings.shape))
    return layer


def by_loop(features, weights, power, epsilon=1e-6):
    pooled = np.zeros(features.shape[-1])
    for channel in range(len(pooled)):
        terms = [max(len(features) * w * f, epsilon) ** power for w, f in zip(weights, features[:, channel])]
        pooled[channel] = np.mean(terms) ** (1 / power)
    return pooled


@pytest.mark.parametrize("power", [1.0, 2.5, 30.0])
def test_power_mean_of_weighted_features(power):
    layer, gsp = make(GeneralizedSumMeanPooling, power=power), make(GeneralizedSumPooling)
    features = np.random.default_rng(0).uniform(-0.3, 2.0, size=(2, 4, 5, 6))
    weights = gsp.pooling_weights(features).numpy()
    np.testing.assert_allclose(layer.pooling_weights(features), weights)
    for image, of_image, pooled in zip(features, weights, layer(features).numpy()):
        np.testing.assert_allclose(pooled, by_loop(image.reshape(20, 6), of_image.ravel(), power), rtol=1e-9)


def test_special_cases():
    features = np.random.default_rng(0).uniform(0.1, 2.0, size=(2, 7, 6))
    np.testing.assert_allclose(
        make(GeneralizedSumMeanPooling, power=1.0)(features), make(GeneralizedSumPooling)(features), rtol=1e-9
    )
    np.testing.assert_allclose(
        make(GeneralizedSumMeanPooling, ratio=1.0)(features), GeneralizedMeanPooling(dtype="float64")(features)
    )


def test_attributes_and_projection():
    layer = make(GeneralizedSumMeanPooling, channels=2, return_attributes=True)
    features = np.random.default_rng(0).uniform(0.1, 2.0, size=(1, 7, 6))
    pooled, attributes = layer(features)
    weights = layer.pooling_weights(features).numpy()[0]
    matrix = np.asarray(layer.projection.kernel)
    np.testing.assert_allclose(pooled[0], by_loop(features[0], weights, 3.0) @ matrix, rtol=1e-9)
    np.testing.assert_allclose(attributes.numpy().sum(), 1.0)
    assert layer.compute_output_shape((None, 7, 6)) == ((None, 2), (None, 3))


def test_masked_features_take_no_part():
    layer = make(GeneralizedSumMeanPooling)
    features = np.random.default_rng(0).uniform(0.1, 2.0, size=(3, 4, 6))
    mask = np.array([[True, True, False, True], [False, True, False, False], [False] * 4])
    features[~mask] = 100.0
    features[0, 2] = np.nan
    pooled = layer(features, mask=mask).numpy()
    np.testing.assert_allclose(pooled[0], layer(features[:1, mask[0]])[0], rtol=1e-9)
    np.testing.assert_allclose(pooled[1], features[1, 1], rtol=1e-9)
    np.testing.assert_array_equal(pooled[2], np.zeros(6))


def test_gradients_of_a_bag_without_features_are_finite():
    import tensorflow as tf

    layer, features = make(GeneralizedSumMeanPooling), tf.ones((2, 4, 6), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.reduce_sum(layer(features, mask=np.array([[True] * 4, [False] * 4])))
    for gradient in tape.gradient(loss, [features, *layer.trainable_variables]):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 0.5}, "power=0.5"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"trainable_power": "yes"}, "trainable_power='yes'"),
        ({"ratio": 2.0}, "ratio=2.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedSumMeanPooling(**options)
