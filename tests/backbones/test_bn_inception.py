import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy_layers import convolve, normalize, pool_everywhere, pool_to_the_end, relu
from torch_writer import write_state_dict

from tfdml import backbones, export_saved_model
from tfdml.backbones.convolution_units import average_pool_with_border, max_pool_to_the_end
from tfdml.data import Preprocessing
from tfdml.models import build_embedder

# The network as the published file has it: channels of the convolutions of each block, None where there is none.
# single, 3x3_reduce, 3x3, double_3x3_reduce, double_3x3_1, double_3x3_2, pool_proj
NETWORK = {
    "3a": (64, 64, 64, 64, 96, 96, 32),
    "3b": (64, 64, 96, 64, 96, 96, 64),
    "3c": (None, 128, 160, 64, 96, 96, None),
    "4a": (224, 64, 96, 96, 128, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128, 128),
    "4c": (160, 128, 160, 128, 160, 160, 128),
    "4d": (96, 128, 192, 160, 192, 192, 128),
    "4e": (None, 128, 192, 192, 256, 256, None),
    "5a": (352, 192, 320, 160, 224, 224, 128),
    "5b": (352, 192, 320, 192, 224, 224, 128),
}
CHANNELS = (192, 256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)
MEAN_BGR = (104.0, 117.0, 128.0)
EPSILON = 1e-5


def convolutions():
    """Names and shapes of the convolutions: (name, out, in, size)."""
    yield from (("conv1_7x7_s2", 64, 3, 7), ("conv2_3x3_reduce", 64, 64, 1), ("conv2_3x3", 192, 64, 3))
    for (block, widths), channels in zip(NETWORK.items(), CHANNELS):
        single, reduced, triple, doubly_reduced, double_1, double_2, projection = widths
        name = f"inception_{block}"
        if single:
            yield f"{name}_1x1", single, channels, 1
        yield f"{name}_3x3_reduce", reduced, channels, 1
        yield f"{name}_3x3", triple, reduced, 3
        yield f"{name}_double_3x3_reduce", doubly_reduced, channels, 1
        yield f"{name}_double_3x3_1", double_1, doubly_reduced, 3
        yield f"{name}_double_3x3_2", double_2, double_1, 3
        if projection:
            yield f"{name}_pool_proj", projection, channels, 1


def random_state(seed=0):
    rng = np.random.default_rng(seed)
    state = {}
    for name, out, channels, size in convolutions():
        deviation = np.sqrt(2.0 / (channels * size * size))
        state[f"{name}.weight"] = rng.normal(0.0, deviation, (out, channels, size, size))
        state[f"{name}.bias"] = rng.normal(0.0, 0.3, out)
        state[f"{name}_bn.weight"], state[f"{name}_bn.running_var"] = rng.uniform(0.5, 1.5, (2, out))
        state[f"{name}_bn.bias"], state[f"{name}_bn.running_mean"] = rng.normal(0.0, 0.3, (2, out))
        state[f"{name}_bn.num_batches_tracked"] = np.zeros(())
    state["last_linear.weight"], state["last_linear.bias"] = np.zeros((1000, 1024)), np.zeros(1000)
    return {name: array.astype(np.float32) for name, array in state.items()}


def numpy_features(state, images):
    """The network by its definition; all features by the names of their layers."""
    seen = {}

    def unit(x, name, stride=1):
        x = convolve(x, state[f"{name}.weight"], state[f"{name}.bias"], stride)
        seen[f"{name}_relu"] = relu(normalize(x, state, f"{name}_bn", EPSILON))
        return seen[f"{name}_relu"]

    x = unit(images[..., ::-1].astype(np.float64) * 255.0 - MEAN_BGR, "conv1_7x7_s2", stride=2)
    seen["pool1_3x3_s2"] = x = pool_to_the_end(x, 3, 2)
    x = unit(unit(x, "conv2_3x3_reduce"), "conv2_3x3")
    seen["pool2_3x3_s2"] = x = pool_to_the_end(x, 3, 2)
    for block, (single, *_, projection) in NETWORK.items():
        name = f"inception_{block}"
        stride = 1 if single else 2
        parts = [unit(x, f"{name}_1x1")] if single else []
        parts.append(unit(unit(x, f"{name}_3x3_reduce"), f"{name}_3x3", stride))
        double = unit(unit(x, f"{name}_double_3x3_reduce"), f"{name}_double_3x3_1")
        parts.append(unit(double, f"{name}_double_3x3_2", stride))
        if not projection:
            parts.append(pool_to_the_end(x, 3, 2))
        elif block == "5b":
            parts.append(unit(pool_everywhere(x, np.max, -np.inf), f"{name}_pool_proj"))
        else:
            parts.append(unit(pool_everywhere(x, np.mean, 0.0), f"{name}_pool_proj"))
        seen[f"{name}_output"] = x = np.concatenate(parts, axis=-1)
    return seen


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def backbone(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "bn_inception.pth"
    write_state_dict(path, state)
    return backbones.get("bn_inception", (None, None, 3), weights=path)


def outputs(backbone, names):
    return keras.Model(backbone.inputs[0], {name: backbone.get_layer(name).output for name in names})


def test_parameter_count_is_the_published_one(backbone, state):
    assert backbone.name == "bn_inception"
    trained = sum(int(np.prod(w.shape)) for w in backbone.trainable_weights)
    classifier = 1024 * 1000 + 1000
    assert trained + classifier == 11_295_240
    assert trained == 10_270_240
    statistics = sum(2 * out for _, out, _, _ in convolutions())
    assert backbone.count_params() == trained + statistics == 10_290_272
    # The published state dict has 485 entries: 69 convolutions with batch normalisation and the classifier.
    assert len(state) == 69 * 7 + 2 == 485


def ceil_pooled(side):
    return -(-(side - 3) // 2) + 1


@pytest.mark.parametrize(
    ("side", "sides"),
    [(224, (112, 56, 28, 14, 7)), (227, (114, 57, 28, 14, 7)), (256, (128, 64, 32, 16, 8))],
)
def test_layers_have_the_shapes_of_the_paper_s_table(backbone, side, sides):
    # At 224 pixels those of the paper; its 4c and 4d have 576 channels, the published weights 608.
    first, second, third, fourth, fifth = sides
    assert (first, second, third) == ((side + 6 - 7) // 2 + 1, ceil_pooled(first), ceil_pooled(second))
    expected = {
        "conv1_7x7_s2": (first, 64),
        "pool1_3x3_s2": (second, 64),
        "conv2_3x3": (second, 192),
        "pool2_3x3_s2": (third, 192),
        "inception_3a_output": (third, 256),
        "inception_3b_output": (third, 320),
        "inception_3c_output": (fourth, 576),
        "inception_4a_output": (fourth, 576),
        "inception_4b_output": (fourth, 576),
        "inception_4c_output": (fourth, 608),
        "inception_4d_output": (fourth, 608),
        "inception_4e_output": (fifth, 1056),
        "inception_5a_output": (fifth, 1024),
        "inception_5b_output": (fifth, 1024),
    }
    shapes = outputs(backbone, expected).compute_output_shape((2, side, side, 3))
    assert {name: tuple(shape) for name, shape in shapes.items()} == {
        name: (2, side, side, channels) for name, (side, channels) in expected.items()
    }


@pytest.mark.parametrize("shape", [(64, 64), (69, 98)])
def test_converted_weights_give_the_activations_of_a_numpy_network(backbone, state, shape):
    images = np.random.default_rng(1).random((2, *shape, 3), np.float32)
    expected = numpy_features(state, images)
    names = ["conv1_7x7_s2_relu", "pool1_3x3_s2", "inception_3a_double_3x3_1_relu", "inception_3c_output",
             "inception_4b_pool_proj_relu", "inception_4e_output", "inception_5b_output"]  # fmt: skip
    received = outputs(backbone, names)(images, training=False)
    received["inception_5b_output"] = backbone(images, training=False)
    for name in names:
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(received[name], expected[name], rtol=0, atol=1e-4 * largest, err_msg=name)
        assert 0.2 < np.mean(expected[name] > 0) <= 1.0, name
    assert received["inception_5b_output"].shape[-1] == 1024


def test_sides_that_the_published_network_does_not_take(backbone):
    # 80 pixels are 10 at 3c, 5 at 4e: there the windows of pooling lie where those of the convolutions do.
    images = np.random.default_rng(1).random((1, 80, 64, 3), np.float32)
    model = outputs(backbone, ["inception_4d_output", "inception_4e_pool", "inception_5b_output"])
    received = {name: np.asarray(value) for name, value in model(images, training=False).items()}
    assert received["inception_4d_output"].shape == (1, 5, 4, 608)
    assert received["inception_5b_output"].shape == (1, 3, 2, 1024)
    centred = pool_everywhere(received["inception_4d_output"], np.max, -np.inf)[:, ::2]
    # Along the even side they reach over the end.
    expected = np.pad(received["inception_4d_output"], [(0, 0), (1, 1), (0, 1), (0, 0)], constant_values=-np.inf)
    expected = pool_to_the_end(expected, 3, 2)
    np.testing.assert_array_equal(received["inception_4e_pool"], expected)
    np.testing.assert_array_equal(received["inception_4e_pool"][:, :, 0], centred[:, :, 1])


@pytest.mark.parametrize("side", range(3, 11))
def test_pooling_reaches_over_the_end(side):
    features = np.random.default_rng(side).random((2, side, side + 3, 4), np.float32)
    inputs = keras.Input((None, None, 4))
    pool = keras.Model(inputs, max_pool_to_the_end(inputs, "pool"))
    expected = pool_to_the_end(features, 3, 2)
    assert expected.shape[1:3] == (side // 2, (side + 3) // 2) == (ceil_pooled(side), ceil_pooled(side + 3))
    np.testing.assert_array_equal(pool(features), expected)


def test_average_counts_the_border():
    inputs = keras.Input((None, None, 1))
    pool = keras.Model(inputs, average_pool_with_border(inputs, "pool"))
    expected = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9
    np.testing.assert_allclose(np.asarray(pool(np.ones((1, 3, 3, 1), np.float32)))[0, ..., 0], expected, rtol=1e-6)


def beginning(backbone, end="inception_3c_output"):
    """The network up to its first block of stride 2: every kind of layer is in it."""
    return keras.Model(backbone.inputs[0], backbone.get_layer(end).output)


def test_gradients_are_finite_and_reach_every_weight(backbone):
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    model = beginning(backbone)
    weights = model.trainable_weights
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(images, training=False)))
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert np.isfinite(gradient).all(), weight.name
        assert np.abs(gradient).max() > 0, weight.name


@pytest.fixture
def first_blocks(monkeypatch):
    """Makes the network end after its first block of stride 2."""
    module = importlib.import_module("tfdml.backbones.bn_inception")
    monkeypatch.setattr(module, "BLOCKS", {name: module.BLOCKS[name] for name in ("3a", "3b", "3c")})


def test_mixed_policy(backbone, first_blocks, dtype_policy):
    dtype_policy("mixed_bfloat16")
    mixed = backbones.get("bn_inception", (64, 64, 3))
    dtype_policy("float32")
    assert mixed.output.shape == (None, 4, 4, 576)
    assert {tf.as_dtype(weight.dtype) for weight in mixed.weights} == {tf.float32}
    full = beginning(backbone)
    mixed.set_weights(full.get_weights())
    # A bright image and a dark one: the mean is taken off before the last bits are lost.
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32) * np.reshape([1.0, 0.02], (2, 1, 1, 1))
    features, expected = mixed(images.astype(np.float32)), np.asarray(full(images.astype(np.float32)))
    assert features.dtype == tf.bfloat16
    assert np.abs(np.asarray(tf.cast(features, tf.float32)) - expected).max() < 0.05 * expected.max()


def test_file_of_keras(backbone, tmp_path):
    model = beginning(backbone, "inception_3a_output")
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(restored(images, training=False), model(images, training=False))


@pytest.mark.integration
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_files_of_keras_and_of_tensorflow(backbone, whole, tmp_path):
    embedder = build_embedder(backbone if whole else beginning(backbone), embedding_size=8)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    expected = np.asarray(embedder(images, training=False))
    embedder.save(tmp_path / "embedder.keras")
    restored = keras.models.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(restored(images, training=False), expected, atol=1e-6)
    path = export_saved_model(embedder, tmp_path / "saved", Preprocessing(size=(64, 64), channels=3))
    served = tf.saved_model.load(str(path))
    received = served.signatures["serving_default"](images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(received, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(63, 64, 3), (64, 64, 1), (64, 64), (64, 64, None), (64.0, 64, 3), None])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError, match=r"Expected: .* at least 64 or None and channels one of \(3,\)") as raised:
        backbones.get("bn_inception", shape)
    assert f"Received: input_shape={shape!r}. Expected:" in str(raised.value)


def test_wrong_options():
    with pytest.raises(ValueError, match="Received: frozen_batch_norm='gamma'"):
        backbones.get("bn_inception", (64, 64, 3), frozen_batch_norm="gamma")
    with pytest.raises(ValueError, match="Received: batch_norm_momentum=1.0"):
        backbones.get("bn_inception", (64, 64, 3), batch_norm_momentum=1.0)
