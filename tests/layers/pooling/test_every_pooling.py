"""Requirements for every registered pooling. The formulas are tested separately."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers import pooling

CHANNELS = 6
SMALL = {
    "cbam": {"reduction": 2, "kernel_size": 3},
    "delf": {"units": 5},
    "gsop": {"units": 4},
    "gsp": {"prototypes": 4, "ratio": 0.3},
    "gsp_gem": {"prototypes": 4, "ratio": 0.3, "channels": 5},
    "gsp_gmp": {"prototypes": 4, "ratio": 0.3},
    "netvlad": {"prototypes": 3},
    "optimal_transport": {"prototypes": 3, "iterations": 4},
    "smk": {"channels": 4},
    "weldon": {"greatest": 2, "least": 3},
}
SIZES = {
    "gsp_gem": 5,
    "netvlad": 18,
    "netvlad_8x16": 128,
    "netvlad_64x128": 8192,
    "optimal_transport": 18,
    "optimal_transport_8x16": 128,
    "optimal_transport_64x128": 8192,
    "smk": 4,
}
IS_KERAS_2 = keras.__version__.startswith("2.")
NAMES = pooling.names()
# Without those that only differ in size.
KINDS = [name for name in NAMES if not name.endswith(("8x16", "64x128"))]
NORMALIZED = ("gsop", "solar")  # by the statistics of the batch, in training
MAPS_ONLY = ("cbam", "smk")
WEIGHTED = ("cbam", "crow", "delf", "gap", "gsp", "gsp_gem", "gsp_gmp", "smk")


def make_layer(name, seed=0, **options):
    """A built layer with random weights: none of them zero, one or equal to another."""
    layer = pooling.get(name, **{**SMALL.get(name, {}), **options})
    layer.build((None, None, None, CHANNELS))
    generator = np.random.default_rng(seed)
    weights = []
    for value in layer.get_weights():
        if name in ("generalized_mean", "gsp_gem", "solar") and value.shape == ():
            weights.append(np.array(2.5))  # the power
        else:
            # The moving variances must be positive.
            weights.append(np.abs(generator.normal(scale=0.5, size=value.shape)) + 0.1 * (value == 1.0))
            if not np.all(value == 1.0):
                weights[-1] *= generator.choice([-1.0, 1.0], size=value.shape)
    layer.set_weights(weights)
    return layer


def make_features(*shape, seed=0, dtype="float32"):
    """Features as after a ReLU, except for some negative ones, and none near 0, where many formulas have a kink."""
    generator = np.random.default_rng(seed)
    features = generator.uniform(0.05, 1.0, size=(*shape, CHANNELS)) * generator.uniform(0.3, 2.0, size=(*shape, 1))
    return tf.constant(np.where(generator.random(features.shape) < 0.2, -features, features), dtype)


def upstream(layer, batch):
    generator = np.random.default_rng(9)
    return tf.constant(generator.normal(size=(batch, layer.output_size)), layer.precision)


def run(layer, features, training=False):
    """Pooled features, and the gradients of a weighted sum of them for the features and all trainable weights."""
    options = {"training": training} if training else {}
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = layer(features, **options)
        loss = tf.reduce_sum(tf.cast(pooled, layer.precision) * upstream(layer, features.shape[0] or 2))
    sources = [features, *layer.trainable_variables]
    return [pooled, *tape.gradient(loss, sources, unconnected_gradients="zero")]


def to_numpy(tensor):
    return np.asarray(tf.cast(tf.convert_to_tensor(tensor), tf.float64))


def assert_close(found, expected, tolerance):
    for got, wanted in zip(found, expected):
        got, wanted = to_numpy(got), to_numpy(wanted)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=tolerance * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("name", NAMES)
def test_output_size(name):
    layer = make_layer(name)
    size = SIZES.get(name, CHANNELS)
    assert layer.output_size == size
    assert tuple(layer(make_features(2, 3, 4)).shape) == (2, size)
    assert tuple(layer.compute_output_shape((None, None, None, CHANNELS))) == (None, size)
    assert tuple(layer(keras.Input((None, None, CHANNELS))).shape) == (None, size)
    fresh = pooling.get(name, **SMALL.get(name, {}))
    assert fresh.output_size is None
    assert tuple(fresh.compute_output_shape((5, 3, 4, CHANNELS))) == (5, size)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name):
    layer = pooling.get(name, **SMALL.get(name, {}), dtype="mixed_bfloat16", name="other")
    again = pooling.get(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert again.name == "other" and again.compute_dtype == "bfloat16"
    for key, value in SMALL.get(name, {}).items():
        assert getattr(again, key) == value


@pytest.fixture(scope="module")
def all_kinds():
    """One model of all layers, for maps of any size; and the layers by name."""
    inputs, made = keras.Input((None, None, CHANNELS)), {name: make_layer(name) for name in KINDS}
    return keras.Model(inputs, {name: layer(inputs) for name, layer in made.items()}), made


def test_saved_and_loaded(all_kinds, tmp_path):
    """All layers in one model. The weights file is loaded into a model with different weights."""
    model, _ = all_kinds
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "only.weights.h5")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    features = make_features(2, 3, 4)
    expected, loaded = model(features), again(features)
    again.set_weights([np.full_like(weight, 0.7) for weight in again.get_weights()])
    again.load_weights(tmp_path / "only.weights.h5")
    into_other = again(features)
    for name in KINDS:
        np.testing.assert_array_equal(loaded[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(into_other[name], expected[name], err_msg=name)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "gsp"])  # It has its own test.
def test_graph_and_xla(name):
    """Compiled for a size unknown at tracing, in training mode with batch statistics."""
    layer, features = make_layer(name), make_features(2, 4, 3)
    training = name in NORMALIZED
    state = layer.get_weights()
    expected = run(layer, features, training)
    updated = layer.get_weights()
    layer.set_weights(state)
    signature = [tf.TensorSpec((None, None, None, CHANNELS), tf.float32)]
    compiled = tf.function(lambda x: run(layer, x, training), jit_compile=True, input_signature=signature)
    assert_close(compiled(features), expected, 1e-4)
    assert_close(layer.get_weights(), updated, 1e-5)


# XLA with attention to places and batch statistics. Solvers are tested with generalized sum pooling.
MIXED = [(name, policy, False) for name in KINDS for policy in ("mixed_float16", "mixed_bfloat16")] + [
    (name, "mixed_float16", True) for name in ("cbam", "solar")
]


@pytest.mark.parametrize(("name", "policy", "jit_compile"), MIXED)
def test_mixed_precision(name, policy, jit_compile):
    """Only the pooled features are in half precision: the float32 features, rounded."""
    mixed, precise = make_layer(name, dtype=policy), make_layer(name)
    features = tf.cast(make_features(2, 4, 3), mixed.compute_dtype)
    found = tf.function(lambda x: run(mixed, x), jit_compile=True)(features) if jit_compile else run(mixed, features)
    expected = run(precise, tf.cast(features, tf.float32))
    assert found[0].dtype == found[1].dtype == mixed.compute_dtype
    assert all(tf.as_dtype(weight.dtype) == tf.float32 for weight in mixed.weights)
    assert all(gradient.dtype == tf.float32 for gradient in found[2:])
    assert_close(found, expected, 1e-3 if policy == "mixed_float16" else 8e-3)


def test_any_spatial_size(all_kinds):
    """One graph accepts maps of every size."""
    model, made = all_kinds
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, CHANNELS), tf.float32)])
    for shape in ((2, 3, 4), (1, 7, 2), (5, 1, 1)):
        features = make_features(*shape)
        found = graph(features)
        for name, layer in made.items():
            np.testing.assert_allclose(found[name], layer(features), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in MAPS_ONLY])
def test_bags_are_maps_whose_places_have_no_order(name):
    layer = make_layer(name, dtype="float64")
    features = make_features(3, 4, 5, dtype="float64")
    pooled = layer(features)
    shuffled = tf.gather(tf.reshape(features, (3, 20, CHANNELS)), np.random.default_rng(0).permutation(20), axis=1)
    np.testing.assert_allclose(layer(shuffled), pooled, atol=1e-10)
    inputs = keras.Input((None, CHANNELS), dtype="float64")
    assert tuple(layer(inputs).shape) == (None, layer.output_size)


@pytest.mark.parametrize("name", KINDS)
def test_images_do_not_depend_on_each_other(name):
    layer, features = make_layer(name, dtype="float64"), make_features(3, 4, 5, dtype="float64")
    for index in range(3):
        np.testing.assert_allclose(layer(features[index : index + 1])[0], layer(features)[index], atol=1e-10)


def edge_cases(dtype):
    """Special maps, by name."""
    zero, one = np.zeros((2, 3, 3, CHANNELS)), make_features(1, 1, 1).numpy()
    dead = make_features(2, 3, 3).numpy()
    dead[0, 1, 1], dead[1, ..., 2], dead[1, 0] = 0.0, 0.0, 0.0
    return {
        "all zero": zero,
        "one image, all zero": zero[:1],
        "one image": make_features(1, 4, 4).numpy(),
        "one place": one,
        "one place, zero": 0.0 * one,
        "zero places, a zero channel": dead,
        "equal": np.full((2, 3, 3, CHANNELS), 0.3),
        "negative": -np.abs(make_features(2, 3, 3).numpy()),
        "one-hot": np.eye(CHANNELS)[np.arange(18).reshape(2, 3, 3) % CHANNELS],
        "far": (30.0 if dtype == "float16" else 1e4) * make_features(2, 8, 8).numpy(),
        "far and equal": np.full((2, 8, 8, CHANNELS), 30.0 if dtype == "float16" else 1e4),
    }


def assert_finite(results, case):
    for result in results:
        assert np.isfinite(to_numpy(result)).all(), case


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", KINDS)
def test_edges_are_finite(name, policy):
    layer = make_layer(name, dtype=policy)
    cases = edge_cases(layer.compute_dtype)
    if name in NORMALIZED:
        # In training each case is a batch, because its statistics are part of the test.
        for case, features in cases.items():
            assert_finite(run(layer, tf.constant(features, layer.compute_dtype), training=True), case)
    for side in (1, 3, 4, 8):
        alike = {case: features for case, features in cases.items() if features.shape[1] == side}
        features = tf.constant(np.concatenate(list(alike.values())), layer.compute_dtype)
        assert_finite(run(layer, features), ", ".join(alike))


@pytest.mark.parametrize("scale", [1e20, 1e-20])
@pytest.mark.parametrize("name", KINDS)
def test_squares_of_features_leave_the_range(name, scale):
    """The squares of these features overflow or underflow in float32."""
    layer = make_layer(name)
    features = tf.constant(scale * make_features(2, 3, 3).numpy())
    for training in (False, True) if name in NORMALIZED else (False,):
        pooled, *gradients = run(layer, features, training)
        assert_finite([pooled, *gradients], f"training={training}")
    # A place whose squares underflow counts as dead.
    assert np.abs(to_numpy(pooled)).max() > 0.0 or scale < 1.0
    if name in WEIGHTED:
        maps = to_numpy(layer.pooling_weights(features))
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1.0, atol=1e-5)


# These only depend on directions, or on ratios between places.
@pytest.mark.parametrize(("name", "degree"), [("netvlad", 0), ("optimal_transport", 1), ("crow", 1)])
def test_great_features_are_pooled_like_small_ones(name, degree):
    layer, features = make_layer(name), make_features(2, 3, 3)
    np.testing.assert_allclose(layer(1e20 * features) / 1e20**degree, layer(features), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_layers_pool_zero_maps(name):
    layer = pooling.get(name)
    layer.build((None, 3, 3, CHANNELS))
    pooled, *gradients = run(layer, tf.zeros((1, 3, 3, CHANNELS)))
    assert np.abs(to_numpy(pooled)).max() <= (1.0 if name.startswith("netvlad") else 1e-5)
    assert all(np.isfinite(to_numpy(gradient)).all() for gradient in gradients)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_against_finite_differences(name):
    layer, features = make_layer(name, dtype="float64"), make_features(2, 3, 4, dtype="float64")
    _, of_features, *of_weights = run(layer, features)
    weight = upstream(layer, 2)
    generator = np.random.default_rng(3)

    # All steps along features are in one batch, because images do not depend on each other.
    directions = generator.normal(size=(12, *features.shape))
    moved = tf.concat([features + step * direction for step in (1e-5, -1e-5) for direction in directions], axis=0)
    pooled = tf.reshape(layer(moved), (2, 12, *weight.shape))
    found = tf.reduce_sum((pooled[0] - pooled[1]) * weight, axis=(1, 2)) / 2e-5
    expected = np.sum(directions * of_features.numpy(), axis=(1, 2, 3, 4))
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)

    def change(move):
        ahead, behind = (float(tf.reduce_sum(layer(move(step)) * weight)) for step in (1e-5, -1e-5))
        return (ahead - behind) / 2e-5

    for variable, gradient in zip(layer.trainable_variables, of_weights):
        start = to_numpy(variable)
        for _ in range(2):
            direction = generator.normal(size=start.shape)

            def move(step, variable=variable, start=start, direction=direction):
                variable.assign(start + step * direction)
                return features

            expected = float(np.sum(direction * to_numpy(gradient)))
            assert change(move) == pytest.approx(expected, abs=1e-6, rel=1e-6), variable.name
        variable.assign(start)


@pytest.mark.parametrize("name", KINDS)
def test_weights_keep_their_order_when_parts_are_frozen(name):
    """Keras 2 would list the weights of frozen batch normalization elsewhere and load them into other weights."""
    layer = make_layer(name)
    expected = [id(weight) for weight in layer.weights]
    trainable, rest = layer.trainable_weights, layer.non_trainable_weights
    assert expected[: len(trainable)] == [id(weight) for weight in trainable] or not IS_KERAS_2
    parts = [part for part in vars(layer).values() if isinstance(part, keras.layers.Layer)]
    for part in (layer, *parts):
        part.trainable = False
        assert [id(weight) for weight in layer.weights] == expected
        part.trainable = True
    assert [id(weight) for weight in (*layer.trainable_weights, *layer.non_trainable_weights)] == [
        id(weight) for weight in (*trainable, *rest)
    ]
    frozen = pooling.get(name, **SMALL.get(name, {}), trainable=False)
    frozen.build((None, None, None, CHANNELS))
    assert [tuple(weight.shape) for weight in frozen.weights] == [tuple(weight.shape) for weight in layer.weights]


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_learns(name):
    layer = make_layer(name)
    _, of_features, *of_weights = run(layer, make_features(4, 4, 5), training=name in NORMALIZED)
    assert np.abs(to_numpy(of_features)).max() > 0
    # A shift before batch normalization, or of all softmax inputs, has no effect.
    idle = ("reduce/bias", "query/bias", "key/bias")
    for variable, gradient in zip(layer.trainable_variables, of_weights):
        path = getattr(variable, "path", variable.name)
        if not any(part in path for part in idle):
            assert np.abs(to_numpy(gradient)).max() > 0, path


def test_fit():
    """Training updates batch statistics and applies constraints, tested with all such layers at once."""
    policies = {
        "gsop": "float32",
        "solar": "mixed_float16",
        "generalized_mean": "mixed_float16",
    }
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = generator.normal(size=(32, 4, 4, 3)).astype("float32")
    images[np.arange(32), generator.integers(4, size=32), generator.integers(4, size=32), labels] += 4.0
    inputs = keras.Input((None, None, 3))
    layers = [pooling.get(name, **SMALL.get(name, {}), dtype=policy) for name, policy in policies.items()]
    # One classifier per layer: the loss is the mean of theirs.
    logits = [
        keras.layers.Dense(2, dtype="float32")(
            keras.layers.Activation("linear", dtype="float32")(layer(keras.layers.Dense(CHANNELS, "relu")(inputs)))
        )
        for layer in layers
    ]
    model = keras.Model(inputs, keras.layers.Concatenate(axis=0)(logits))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def losses():
        return np.reshape(loss(np.tile(labels, len(layers)), model(images, training=True)), (len(layers), -1)).mean(-1)

    before = losses()
    start = [layer.get_weights() for layer in layers]
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(np.tile(labels, len(layers)), model(images, training=True)))
        optimizer.apply_gradients(zip(tape.gradient(mean, model.trainable_variables), model.trainable_variables))

    for _ in range(30):
        step()
    for name, layer, weights, old, new in zip(policies, layers, start, before, losses()):
        assert new < 0.97 * old, name
        assert all(np.any(was != now) for was, now in zip(weights, layer.get_weights())), name
    assert np.isfinite(model(images)).all()


@pytest.mark.parametrize("name", NAMES)
def test_pooling_weights(name):
    layer = make_layer(name)
    assert hasattr(layer, "pooling_weights") == (name in WEIGHTED)
    if name not in WEIGHTED:
        return
    for case, features in edge_cases("float32").items():
        maps = to_numpy(layer.pooling_weights(features.astype("float32")))
        assert maps.shape == features.shape[:3], case
        assert maps.min() >= 0, case
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1.0, atol=1e-5, err_msg=case)
    if name not in MAPS_ONLY:
        features = make_features(2, 3, 4)
        bag = tf.reshape(features, (2, 12, CHANNELS))
        expected = tf.reshape(layer.pooling_weights(features), (2, 12))
        np.testing.assert_allclose(layer.pooling_weights(bag), expected, atol=1e-6)
    fresh = pooling.get(name)
    assert tuple(fresh.pooling_weights(make_features(2, 3, 4)).shape) == (2, 3, 4)


@pytest.mark.parametrize("name", NAMES)
def test_bad_inputs(name):
    layer = make_layer(name)
    with pytest.raises(ValueError, match=r"Received: input of shape \((2|None), 6\). Expected: \(b, h, w, d\)"):
        layer(keras.Input((CHANNELS,)))
    with pytest.raises(ValueError, match="Received: input of shape"):
        layer(tf.zeros((2, 3, 3, 3, CHANNELS)))
    with pytest.raises(ValueError, match="Expected: 6 channels"):
        layer(tf.zeros((2, 3, 3, CHANNELS + 1)))
    with pytest.raises(ValueError, match="channels must be known"):
        pooling.get(name)(keras.Input((3, 3, None)))
    if name in MAPS_ONLY:
        with pytest.raises(ValueError, match=r"Pooling accepts feature maps. Received: .* Expected: \(b, h, w, d\)\."):
            layer(tf.zeros((2, 9, CHANNELS)))
