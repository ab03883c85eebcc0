"""Generalized sum pooling: values, shapes, masks, precision, training, initial prototypes, files, errors."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logsumexp, softmax

from tfdml.layers.pooling import GeneralizedSumPooling

CHANNELS = 6


def make_features(*shape, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(*shape, CHANNELS)) * generator.uniform(0.1, 1.0, size=(*shape, 1))).astype("float32")


def make_layer(prototypes=4, *args, **options):
    layer = GeneralizedSumPooling(prototypes, *args, **options)
    layer.build((None, None, CHANNELS))
    layer.prototype_embeddings.assign(np.random.default_rng(1).normal(size=(prototypes, CHANNELS)))
    return layer


def reference(bags, prototypes, ratio, smoothing):
    """Pooling weights and attributes of bags (b, n, d) in float64, by bisection."""

    def clip(vectors):
        return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))

    bags, prototypes = np.asarray(bags, np.float64), np.asarray(prototypes, np.float64)
    kernel = -smoothing * np.linalg.norm(clip(bags)[:, :, None] - clip(prototypes), axis=-1)
    log_mass = logsumexp(kernel, axis=-1)
    low, high = np.full((len(bags), 1), -500.0), np.full((len(bags), 1), 500.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        too_low = expit(middle + log_mass).mean(axis=-1, keepdims=True) < ratio
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    weights = expit(low + log_mass) / (bags.shape[1] * ratio)
    return weights, np.einsum("bn,bnm->bm", weights, softmax(kernel, axis=-1))


def to_numpy(tensor):
    return np.asarray(tf.cast(tensor, tf.float64))


@pytest.mark.parametrize("solver", ["newton", "bregman"])
@pytest.mark.parametrize(("ratio", "smoothing"), [(0.3, 5.0), (0.05, 20.0), (0.8, 0.5)])
def test_against_float64(solver, ratio, smoothing):
    layer = make_layer(
        5, ratio, smoothing, solver, iterations=None if solver == "newton" else 800, return_attributes=True
    )
    features = make_features(3, 4, 5)
    bags = features.reshape(3, 20, CHANNELS)
    weights, attributes = reference(bags, layer.prototype_embeddings, ratio, smoothing)
    pooled, found = layer(features)
    np.testing.assert_allclose(pooled, np.einsum("bn,bnd->bd", weights, bags), atol=2e-5)
    np.testing.assert_allclose(found, attributes, atol=2e-5)
    if solver == "newton":  # The other solver runs 800 iterations each time.
        np.testing.assert_allclose(layer(bags)[0], pooled, atol=1e-6)
        np.testing.assert_allclose(layer(bags)[1], found, atol=1e-6)
        np.testing.assert_allclose(layer.pooling_weights(bags), weights, atol=2e-5)
        maps = layer.pooling_weights(features)
        assert maps.shape == (3, 4, 5)
        np.testing.assert_allclose(maps.numpy().reshape(3, 20), weights, atol=2e-5)


def test_features_whose_squares_overflow_are_weighted_by_their_directions():
    layer, sizes = make_layer(5), np.float32([[1e20], [1.0], [1e30], [1e20], [0.1]])
    features = 2.0 * make_features(1, 5) / np.linalg.norm(make_features(1, 5), axis=-1, keepdims=True)
    ordinary = np.minimum(sizes, 1.0) * features
    np.testing.assert_allclose(layer.pooling_weights(sizes * features), layer.pooling_weights(ordinary), rtol=2e-6)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.999])
@pytest.mark.parametrize("smoothing", [0.01, 5.0, 200.0])
def test_weights_and_attributes_sum_to_one(ratio, smoothing):
    layer = make_layer(ratio=ratio, smoothing=smoothing, return_attributes=True)
    features = make_features(3, 16, 16)
    maps = layer.pooling_weights(features).numpy()
    np.testing.assert_allclose(maps.sum(axis=(1, 2), dtype=float), 1.0, atol=1e-5)
    np.testing.assert_allclose(to_numpy(layer(features)[1]).sum(axis=-1), 1.0, atol=1e-5)
    assert maps.min() >= 0.0 and maps.max() <= (1.0 + 1e-5) / (256 * ratio)


@pytest.mark.parametrize("solver", ["newton", "bregman"])
def test_whole_mass_is_global_average_pooling(solver):
    layer = make_layer(ratio=1.0, solver=solver, return_attributes=True)
    features = tf.constant(make_features(3, 4, 5))
    with tf.GradientTape() as tape:
        pooled, attributes = layer(features)
        loss = tf.reduce_sum(pooled**2)
    np.testing.assert_allclose(pooled, keras.layers.GlobalAveragePooling2D()(features), atol=1e-6)
    np.testing.assert_allclose(to_numpy(attributes).sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(tape.gradient(loss, layer.trainable_variables)[0], np.zeros((4, CHANNELS)))


def test_keeps_what_is_near_the_prototypes():
    """Two of nine features equal a prototype, the others are opposite: with a ratio of 2/9 only the two count."""
    layer = make_layer(prototypes=1, ratio=2 / 9, smoothing=50.0)
    prototype = np.zeros((1, CHANNELS), "float32")
    prototype[0, 0] = 1.0
    layer.prototype_embeddings.assign(prototype)
    features = np.tile(-prototype, (1, 9, 1)).reshape(1, 3, 3, CHANNELS)
    features[0, 1, 1] = features[0, 2, 0] = 7.0 * prototype[0]  # clipped for the costs, not for the average
    np.testing.assert_allclose(layer(features), 7.0 * prototype, rtol=1e-5)
    expected = np.zeros((1, 3, 3))
    expected[0, 1, 1] = expected[0, 2, 0] = 0.5
    np.testing.assert_allclose(layer.pooling_weights(features), expected, atol=1e-6)


def test_gradient_against_finite_differences():
    layer = make_layer(ratio=0.3, smoothing=4.0, return_attributes=True, dtype="float64")
    generator = np.random.default_rng(0)
    features = tf.constant(make_features(2, 2, 3), tf.float64)
    upstream = generator.normal(size=(2, CHANNELS)), generator.normal(size=(2, 4))
    start = layer.prototype_embeddings.numpy()

    def loss(features, prototypes):
        layer.prototype_embeddings.assign(prototypes)
        pooled, attributes = layer(features)
        return tf.reduce_sum(pooled * upstream[0]) + tf.reduce_sum(attributes * upstream[1])

    with tf.GradientTape() as tape:
        tape.watch(features)
        value = loss(features, start)
    of_features, of_prototypes = tape.gradient(value, [features, *layer.trainable_variables])
    # One step along each entry of a feature map, all in one batch, because maps do not depend on each other.
    layer.prototype_embeddings.assign(start)
    steps = 1e-5 * np.eye(features[0].numpy().size).reshape(-1, *features.shape[1:])
    for index, (of_pooled, of_attributes) in enumerate(zip(*upstream)):
        pooled, attributes = layer(tf.concat([features[index] + steps, features[index] - steps], axis=0))
        losses = tf.linalg.matvec(pooled, of_pooled) + tf.linalg.matvec(attributes, of_attributes)
        differences = (losses[: len(steps)] - losses[len(steps) :]) / 2e-5
        np.testing.assert_allclose(np.ravel(of_features[index]), differences, atol=1e-6)
    for index in np.ndindex(*start.shape):
        step = np.zeros(start.shape)
        step[index] = 1e-5
        difference = (loss(features, start + step) - loss(features, start - step)) / 2e-5
        assert of_prototypes.numpy()[index] == pytest.approx(float(difference), abs=1e-6)


@pytest.mark.parametrize("kind", ["zero", "equal", "prototypes", "single", "huge"])
@pytest.mark.parametrize("smoothing", [0.01, 200.0])
def test_gradients_are_finite(kind, smoothing):
    layer = make_layer(ratio=0.01, smoothing=smoothing, return_attributes=True)
    features = {
        "zero": np.zeros((2, 3, 3, CHANNELS)),
        "equal": np.full((2, 3, 3, CHANNELS), 0.2),
        "prototypes": np.tile(layer.prototype_embeddings, (2, 1, 1)),
        "single": make_features(2, 1, 1),
        "huge": 1e6 * make_features(2, 3, 3),
    }[kind]
    features = tf.constant(features, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled, attributes = layer(features)
        loss = tf.reduce_sum(tf.math.sin(pooled)) + tf.reduce_sum(attributes**2)
    gradients = tape.gradient(loss, [features, *layer.trainable_variables])
    for values in (pooled, attributes, *gradients):
        assert np.isfinite(values).all()


def test_any_spatial_size_in_one_model():
    layer = make_layer()
    inputs = keras.Input((None, None, CHANNELS))
    model = keras.Model(inputs, layer(inputs))
    assert tuple(model.output_shape) == (None, CHANNELS)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, CHANNELS), tf.float32)])
    for shape in ((2, 3, 4), (1, 7, 2), (5, 1, 1)):
        features = make_features(*shape)
        np.testing.assert_allclose(graph(features), layer(features), atol=1e-6)


def test_output_shapes():
    assert make_layer().compute_output_shape((None, None, None, CHANNELS)) == (None, CHANNELS)
    assert make_layer().compute_output_shape((3, 7, CHANNELS)) == (3, CHANNELS)
    layer = make_layer(return_attributes=True)
    assert layer.compute_output_shape((3, 7, CHANNELS)) == ((3, CHANNELS), (3, 4))
    pooled, attributes = layer(keras.Input((5, 5, CHANNELS)))
    assert tuple(pooled.shape), tuple(attributes.shape) == ((None, CHANNELS), (None, 4))


def test_xla_agrees_with_eager():
    layer = make_layer(return_attributes=True)

    def run(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled, attributes = layer(features)
            loss = tf.reduce_sum(pooled**2) + tf.reduce_sum(attributes**2)
        return [pooled, attributes, *tape.gradient(loss, [features, *layer.trainable_variables])]

    features = tf.constant(make_features(2, 4, 3))
    for got, wanted in zip(tf.function(run, jit_compile=True)(features), run(features)):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(("policy", "compiled"), [("mixed_float16", True), ("mixed_bfloat16", False)])
def test_mixed_precision(policy, compiled):
    """Everything except the pooled features has float32 precision, including the prototypes."""
    options = {"ratio": 0.2, "smoothing": 40.0, "return_attributes": True}
    mixed, precise = make_layer(dtype=policy, **options), make_layer(**options)
    features = tf.cast(make_features(2, 4, 4), mixed.compute_dtype)

    def run(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled, attributes = mixed(features)
            loss = tf.reduce_sum(tf.cast(pooled, tf.float32)) + tf.reduce_sum(attributes**2)
        return pooled, attributes, tape.gradient(loss, [features, *mixed.trainable_variables])

    pooled, attributes, gradients = (tf.function(run, jit_compile=True) if compiled else run)(features)
    expected = precise(tf.cast(features, tf.float32))
    assert pooled.dtype == mixed.compute_dtype and attributes.dtype == tf.float32
    assert mixed.prototype_embeddings.dtype == "float32"
    np.testing.assert_allclose(to_numpy(pooled), to_numpy(expected[0]), atol=5e-3)
    np.testing.assert_allclose(attributes, expected[1], atol=1e-5)
    assert gradients[0].dtype == mixed.compute_dtype and gradients[1].dtype == tf.float32
    assert all(np.isfinite(to_numpy(gradient)).all() for gradient in gradients)
    symbolic = mixed(keras.Input((4, 4, CHANNELS)))
    assert [tf.as_dtype(output.dtype) for output in symbolic] == [pooled.dtype, tf.float32]


def test_masked_features_take_no_part():
    layer = make_layer(return_attributes=True)
    bags = make_features(3, 7)
    mask = np.array([[True] * 7, [True, False, True, True, False, False, True], [False] * 7])
    bags[1, 1] = np.nan
    bags = tf.constant(bags)
    with tf.GradientTape() as tape:
        tape.watch(bags)
        pooled, attributes = layer(bags, mask=mask)
        loss = tf.reduce_sum(pooled**2) + tf.reduce_sum(attributes**2)
    gradients = tape.gradient(loss, [bags, *layer.trainable_variables])
    for row in range(2):
        kept = layer(bags[row : row + 1].numpy()[:, mask[row]])
        np.testing.assert_allclose(pooled[row], kept[0][0], atol=1e-6)
        np.testing.assert_allclose(attributes[row], kept[1][0], atol=1e-6)
    np.testing.assert_array_equal(pooled[2], np.zeros(CHANNELS))
    np.testing.assert_array_equal(attributes[2], np.zeros(4))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(gradients[0].numpy()[~mask], 0.0)
    weights = layer.pooling_weights(bags, mask)
    np.testing.assert_allclose(weights.numpy().sum(axis=-1), [1.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(weights.numpy()[~mask], 0.0)


def test_mask_of_a_feature_map():
    layer = make_layer()
    features = make_features(2, 3, 4)
    mask = np.random.default_rng(0).uniform(size=(2, 3, 4)) < 0.6
    flat = layer(features.reshape(2, 12, CHANNELS), mask=mask.reshape(2, 12))
    np.testing.assert_allclose(layer(features, mask=mask), flat, atol=1e-7)
    assert layer.pooling_weights(features, mask).shape == (2, 3, 4)


@pytest.mark.parametrize("length", [5, None])
def test_mask_of_keras(length):
    """A Masking layer hides the padding from the pooling, which does not pass the mask on."""
    layer = make_layer()
    inputs = keras.Input((length, CHANNELS))
    outputs = keras.layers.Dense(3, use_bias=False)(layer(keras.layers.Masking()(inputs)))
    model = keras.Model(inputs, outputs)
    bags = make_features(2, 5)
    bags[0, 2:] = 0.0
    found = model(bags).numpy()
    kernel = model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(found[:1], layer(bags[:1, :2]).numpy() @ kernel, atol=1e-5)
    np.testing.assert_allclose(found[1:], layer(bags[1:]).numpy() @ kernel, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_fit(ratio):
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = generator.normal(size=(64, 4, 4, CHANNELS)).astype("float32")
    images[np.arange(64), generator.integers(4, size=64), generator.integers(4, size=64), labels] += 4.0
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, CHANNELS))
    pooling = GeneralizedSumPooling(prototypes=4, ratio=ratio)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooling(keras.layers.Dense(CHANNELS)(inputs))))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), loss, run_eagerly=True)
    start = np.array(pooling.prototype_embeddings)
    losses = []
    for _ in range(8):
        model.reset_metrics()
        losses.append(model.train_on_batch(images, labels))
    assert losses[-1] < 0.9 * losses[0]
    assert (np.abs(np.array(pooling.prototype_embeddings) - start).max() > 1e-3) == (ratio < 1.0)


def test_saved_and_loaded(tmp_path):
    inputs = keras.Input((None, None, CHANNELS))
    layer = GeneralizedSumPooling(
        prototypes=5,
        ratio=0.25,
        smoothing=3.0,
        solver="bregman",
        iterations=30,
        gradient="unrolled",
        return_attributes=True,
        prototypes_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=1),
        name="pooling",
    )
    model = keras.Model(inputs, layer(inputs))
    layer.adapt(make_features(40))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.get_layer("pooling").get_config() == layer.get_config()
    for got, wanted in zip(again(make_features(2, 3, 3)), model(make_features(2, 3, 3))):
        np.testing.assert_array_equal(got, wanted)


def test_config_round_trip():
    layer = GeneralizedSumPooling(prototypes=5, prototypes_initializer="zeros", dtype="mixed_bfloat16")
    again = GeneralizedSumPooling.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(make_features(1, 2))
    np.testing.assert_array_equal(again.prototype_embeddings, np.zeros((5, CHANNELS)))


def test_saved_model(tmp_path):
    module = tf.Module()
    module.layers = [make_layer(ratio=ratio) for ratio in (0.3, 1.0)]
    signature = tf.TensorSpec((None, None, None, CHANNELS), tf.float32)
    module.pool = tf.function(
        lambda features: [layer(features) for layer in module.layers], input_signature=[signature]
    )
    tf.saved_model.save(module, str(tmp_path))
    features = make_features(2, 3, 4)
    again = tf.saved_model.load(str(tmp_path))
    for pooled, layer in zip(again.pool(features), module.layers):
        np.testing.assert_allclose(pooled, layer(features), atol=1e-6)


def test_default_prototypes_have_about_unit_length():
    keras.utils.set_random_seed(0)
    layer = GeneralizedSumPooling(prototypes=32)
    layer.build((None, None, None, 256))
    lengths = np.linalg.norm(layer.prototype_embeddings, axis=-1)
    assert abs(lengths.mean() - 1.0) < 0.05 and lengths.std() < 0.1


def _clip(vectors):
    return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))


def test_adapt_is_greedy_k_center_of_the_clipped_features():
    layer = GeneralizedSumPooling(prototypes=6)
    features = 2.0 * make_features(5, 4, 4)
    layer.adapt(features)
    found = np.array(layer.prototype_embeddings)
    points = _clip(features.reshape(-1, CHANNELS))
    distances = np.linalg.norm(points[:, None] - found[None], axis=-1)
    chosen = distances.argmin(axis=0)
    np.testing.assert_allclose(points[chosen], found, atol=1e-6)
    nearest = np.linalg.norm(points - points[chosen[0]], axis=-1)  # the first is random, all others follow
    for index in chosen[1:]:
        assert nearest.argmax() == index
        nearest = np.minimum(nearest, np.linalg.norm(points - points[index], axis=-1))


def test_adapt_to_arrays_data_sets_and_iterables():
    features = make_features(10, 3, 3)
    batches = tf.data.Dataset.from_tensor_slices(features).batch(4)
    with_labels = tf.data.Dataset.from_tensor_slices((features, np.arange(10))).batch(4)
    found = []
    for data in (
        features,
        tf.constant(features),
        batches,
        with_labels,
        list(batches),
        (batch for batch in batches),
    ):
        layer = GeneralizedSumPooling(prototypes=6)
        layer.adapt(data, max_features=50, seed=3)
        found.append(np.array(layer.prototype_embeddings))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    layer.adapt(features, max_features=50, seed=4)
    assert np.abs(np.array(layer.prototype_embeddings) - found[0]).max() > 0.1


def test_adapt_samples_all_batches_alike():
    """100 batches with one numbered feature each: a sample of 20 covers their range."""
    numbers = np.zeros((100, 1, CHANNELS), "float32")
    numbers[:, 0, 0] = np.arange(100) / 100
    layer = GeneralizedSumPooling(prototypes=20)
    layer.adapt(iter(numbers), max_features=20)
    sample = np.sort(np.array(layer.prototype_embeddings)[:, 0]) * 100
    assert len(np.unique(sample.round())) == 20
    assert sample[0] < 30 and sample[-1] >= 70 and np.diff(sample).max() < 35


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_adapt_under_other_policies(policy):
    layer = GeneralizedSumPooling(prototypes=3, dtype=policy)
    layer.adapt(tf.cast(make_features(4, 2, 2), layer.compute_dtype))
    assert tf.as_dtype(layer.prototype_embeddings.dtype) == (tf.float64 if policy == "float64" else tf.float32)
    assert len(np.unique(np.array(layer.prototype_embeddings), axis=0)) == 3


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            np.tile(make_features(3), (50, 1)),
            {},
            "Received: 3 distinct features in a sample of 150. Expected: at least",
        ),
        (make_features(2), {}, "Received: 2 distinct features"),
        (np.full((9, CHANNELS), np.nan), {}, "Received: NaN or infinity"),
        (np.ones((9, CHANNELS + 1)), {}, "Received: features with 7 channels. Expected: 6"),
        (make_features(9), {"max_features": 3}, "Received: max_features=3. Expected: at least prototypes=4"),
        ([], {}, "Received: no batches"),
    ],
)
def test_adapt_to_bad_data(data, options, message):
    layer = make_layer()
    start = np.array(layer.prototype_embeddings)
    with pytest.raises(ValueError, match=message):
        layer.adapt(data, **options)
    np.testing.assert_array_equal(layer.prototype_embeddings, start)


def test_pooling_weights_builds_the_layer():
    weights = GeneralizedSumPooling(prototypes=3).pooling_weights(make_features(2, 3, 3))
    np.testing.assert_allclose(weights.numpy().sum(axis=(1, 2)), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "Received: ratio=0. Expected: 0 < ratio <= 1"),
        ({"ratio": 1.3}, "Received: ratio=1.3. Expected: 0 < ratio <= 1"),
        ({"smoothing": 0.0}, "Received: smoothing=0.0. Expected: 0 < smoothing"),
        ({"smoothing": -math.inf}, "Received: smoothing=-inf"),
        ({"prototypes": 0}, "Received: prototypes=0"),
        ({"prototypes": 2.5}, "Received: prototypes=2.5"),
        ({"prototypes": True}, "Received: prototypes=True"),
        ({"solver": "sinkhorn"}, "Received: solver='sinkhorn'"),
        ({"gradient": "unrolled"}, "no unrolled gradient"),
        ({"iterations": 0}, "Received: iterations=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedSumPooling(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, CHANNELS), r"Received: input of shape \((2|None), 6\). Expected: \(b, h, w, d\) or \(b, n, d\)"),
        ((2, 3, 3, 3, CHANNELS), "Expected: .b, h, w, d. or .b, n, d."),
        ((2, 3, 3, CHANNELS + 1), r"Received: input of shape .* Expected: 6 channels"),
    ],
)
def test_bad_input_shape(shape, message):
    layer = make_layer()
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, "float32"))
    with pytest.raises(ValueError, match=message):
        layer(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match=message):
        layer.pooling_weights(np.zeros(shape, "float32"))


def test_unknown_channels():
    with pytest.raises(ValueError, match="channels must be known"):
        GeneralizedSumPooling()(keras.Input((3, 3, None)))


def test_bad_mask_shape():
    with pytest.raises(ValueError, match=r"Received: mask of shape \(2, 8\) and features of shape \(2, 9, 6\)"):
        make_layer()(make_features(2, 9), mask=np.ones((2, 8), bool))
