import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import backbones
from tfdml.backbones import resnet20

NAMES = ("resnet20", "resnet20v2")


@pytest.fixture(scope="module")
def networks():
    """Networks for images of any size, by name and number of channels; nothing in their weights is 0 or 1."""
    networks = {(name, channels): backbones.get(name, (None, None, channels)) for name in NAMES for channels in (1, 3)}
    for network in networks.values():
        _randomize_normalizations(network, np.random.default_rng(1))
    return networks


@pytest.fixture
def one_block_per_stage(monkeypatch):
    """Makes the networks short."""
    monkeypatch.setattr(importlib.import_module("tfdml.backbones.resnet20"), "BLOCKS_PER_STAGE", 1)


@pytest.fixture(params=NAMES)
def network(request, networks):
    """One for gray images, whose weights are afterwards what they were."""
    network = networks[request.param, 1]
    weights = network.get_weights()
    yield network
    network.set_weights(weights)


@pytest.mark.parametrize("channels", [1, 3])
def test_parameter_count(channels, networks):
    stem = 9 * channels * 16
    stage_1 = 6 * 9 * 16 * 16
    stage_2 = 9 * 16 * 32 + 5 * 9 * 32 * 32
    stage_3 = 9 * 32 * 64 + 5 * 9 * 64 * 64
    shortcuts = 16 * 32 + 32 * 64
    convolutions = stem + stage_1 + stage_2 + stage_3 + shortcuts
    # One normalisation after each of the 21 convolutions of the first version …
    normalized_v1 = 16 + 6 * 16 + 6 * 32 + 6 * 64 + (32 + 64)
    # … and before each of the 18 in the blocks of the second, and at its end.
    normalized_v2 = 6 * 16 + (16 + 5 * 32) + (32 + 5 * 64) + 64
    v1, v2 = (networks[name, channels] for name in NAMES)
    assert (v1.name, v2.name) == NAMES
    assert v1.count_params() == convolutions + 4 * normalized_v1 == 273_392 - 288 * (channels == 1)
    assert v2.count_params() == convolutions + 4 * normalized_v2 == 273_008 - 288 * (channels == 1)
    assert sum(int(np.prod(w.shape)) for w in v1.non_trainable_weights) == 2 * normalized_v1 == 1_568
    assert sum(int(np.prod(w.shape)) for w in v2.non_trainable_weights) == 2 * normalized_v2 == 1_376


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape, map_size",
    [((28, 28, 1), (7, 7)), ((16, 16, 1), (4, 4)), ((64, 64, 3), (16, 16)), ((29, 50, 1), (8, 13))],
)
def test_output_shape(name, shape, map_size, networks):
    backbone = networks[name, shape[-1]]
    assert backbone.output.shape == (None, None, None, 64)
    assert tuple(backbone.compute_output_shape((None, *shape))) == (None, *map_size, 64)
    assert backbone(np.zeros((2, *shape), np.float32)).shape == (2, *map_size, 64)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_size_gives_the_numbers_of_the_known_one(name, one_block_per_stage):
    unknown, known = backbones.get(name, (None, None, 1)), backbones.get(name, (30, 28, 1))
    assert known.output.shape == (None, 8, 7, 64)
    known.set_weights(unknown.get_weights())
    images = np.random.default_rng(0).random((2, 30, 28, 1), np.float32)
    np.testing.assert_allclose(unknown(images), known(images), atol=1e-5)
    assert unknown(images[:, :28]).shape == (2, 7, 7, 64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 28, 3)])
def test_forward_equals_a_numpy_network(name, shape, networks):
    backbone = networks[name, shape[-1]]
    images = np.random.default_rng(2).random((2, *shape)).astype(np.float32)
    expected = {"resnet20": _numpy_v1, "resnet20v2": _numpy_v2}[name](backbone, images.astype(np.float64))
    np.testing.assert_allclose(backbone(images, training=False), expected, atol=1e-4 * np.abs(expected).max())
    assert 0.2 < np.mean(expected > 0) < 1.0


def test_gradients_are_finite_and_reach_every_weight(network):
    images = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(images, training=True) - 1.0))
    for weight, gradient in zip(network.trainable_weights, tape.gradient(loss, network.trainable_weights)):
        assert np.isfinite(gradient).all(), weight.name
        assert np.abs(gradient).max() > 0, weight.name


def test_constant_images_have_finite_gradients(network):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(np.zeros((2, 28, 28, 1), np.float32), training=True))
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, network.trainable_weights))


def test_compiled_by_xla(network):
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    compiled = tf.function(lambda x: network(x, training=False), jit_compile=True)
    expected = np.asarray(network(images, training=False))
    np.testing.assert_allclose(compiled(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "policy", "dtype"),
    [("resnet20", "mixed_bfloat16", tf.bfloat16), ("resnet20v2", "mixed_float16", tf.float16)],
)
def test_mixed_policies(name, policy, dtype, one_block_per_stage, dtype_policy):
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    full = backbones.get(name, (28, 28, 1))
    dtype_policy(policy)
    mixed = backbones.get(name, (28, 28, 1))
    mixed.set_weights(full.get_weights())
    features = mixed(images, training=False)
    assert features.dtype == dtype
    assert {tf.as_dtype(weight.dtype) for weight in mixed.weights} == {tf.float32}
    difference = np.abs(tf.cast(features, tf.float32) - full(images, training=False)).max()
    assert difference < 0.05 * np.abs(full(images, training=False)).max()


@pytest.mark.parametrize("name", NAMES)
def test_file_round_trip(name, one_block_per_stage, tmp_path):
    network = backbones.get(name, (None, 28, 1))
    _randomize_normalizations(network, np.random.default_rng(0))
    network.save(tmp_path / "backbone.keras")
    restored = keras.models.load_model(tmp_path / "backbone.keras", safe_mode=True)
    images = np.random.default_rng(0).random((2, 32, 28, 1), np.float32)
    np.testing.assert_array_equal(restored(images), network(images))


def test_same_seed_same_weights(one_block_per_stage):
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        models.append(backbones.get("resnet20", (28, 28, 1)))
    for first, second in zip(*(model.get_weights() for model in models)):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape",
    [(28, 28), (1, 28, 28, 1), (28, 28, 2), (28, 28, None), (15, 28, 1), (28, 65, 1), (28.0, 28, 1),
     (28, 28, True), ("28", 28, 1), 28, None],
)  # fmt: skip
def test_wrong_input_shape(name, shape):
    with pytest.raises(ValueError, match=r"Expected: .* from 16 to 64 .* \(1, 3\)") as raised:
        backbones.get(name, shape)
    assert f"Received: input_shape={shape!r}. Expected:" in str(raised.value)


def test_lists_and_numpy_integers_are_input_shapes(one_block_per_stage):
    assert resnet20(list(np.array([28, 32, 3]))).output.shape == (None, 7, 8, 64)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_wrong_momentum(momentum):
    with pytest.raises(ValueError, match=f"Received: batch_norm_momentum={momentum}. Expected: 0 <="):
        resnet20((28, 28, 1), batch_norm_momentum=momentum)


def _randomize_normalizations(backbone, generator):
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            (size,) = layer.gamma.shape
            scale, variance = generator.uniform(0.5, 1.5, (2, size))
            offset, mean = generator.normal(0.0, 0.3, (2, size))
            layer.set_weights([scale, offset, mean, variance])


# An independent network in float64: convolutions as sums over the kernel's places, weights by their names.


def _numpy_v1(backbone, images):
    x = _relu(_normalize(backbone, "stem", _convolve(backbone, "stem", 2 * images - 1)))
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            name, stride = f"stage{stage}_block{block}", 2 if block == 1 and stage > 1 else 1
            y = _relu(_normalize(backbone, f"{name}_1", _convolve(backbone, f"{name}_1", x, stride)))
            y = _normalize(backbone, f"{name}_2", _convolve(backbone, f"{name}_2", y))
            if stride == 2:
                shortcut = f"{name}_shortcut"
                x = _normalize(backbone, shortcut, _convolve(backbone, shortcut, x, stride))
            x = _relu(x + y)
    return x


def _numpy_v2(backbone, images):
    x = _convolve(backbone, "stem", 2 * images - 1)
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            name, stride = f"stage{stage}_block{block}", 2 if block == 1 and stage > 1 else 1
            a = _relu(_normalize(backbone, f"{name}_1", x))
            y = _relu(_normalize(backbone, f"{name}_2", _convolve(backbone, f"{name}_1", a, stride)))
            y = _convolve(backbone, f"{name}_2", y)
            if block == 1:
                x = _convolve(backbone, f"{name}_shortcut", a, stride) if stride == 2 else a
            x = x + y
    return _relu(_normalize(backbone, "end", x))


def _relu(x):
    return np.maximum(x, 0)


def _normalize(backbone, name, x):
    scale, offset, mean, variance = backbone.get_layer(f"{name}_normalization").get_weights()
    return (x - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) * scale + offset


def _convolve(backbone, name, x, stride=1):
    (kernel,) = backbone.get_layer(f"{name}_convolution").get_weights()
    height, width = (-(-size // stride) for size in x.shape[1:3])
    padding = [
        max((out - 1) * stride + len(kernel) - size, 0) for out, size in zip((height, width), x.shape[1:3])
    ]
    x = np.pad(x, [(0, 0), *((total // 2, total - total // 2) for total in padding), (0, 0)])
    total = 0.0
    for row in range(len(kernel)):
        for column in range(len(kernel)):
            part = x[:, row : row + stride * height : stride, column : column + stride * width : stride]
            total = total + part[:, :height, :width] @ kernel[row, column].astype(np.float64)
    return total
