import keras
import numpy as np
import pytest
from numpy_layers import convolve, normalize, pool_everywhere, pool_to_the_end, relu
from torch_writer import write_archive, write_state_dict

from tfdml import backbones

# 1x1, 3x3 and what is before it, the second 3x3 and what is before it, after pooling.
NETWORK = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
EPSILON = 1e-3


def convolutions():
    """Names and shapes of the convolutions: (name, out, in, size)."""
    yield from (("conv1", 64, 3, 7), ("conv2", 64, 64, 1), ("conv3", 192, 64, 3))
    channels = 192
    for block, (single, reduced, triple, reduced_2, triple_2, projection) in NETWORK.items():
        name = f"inception{block}"
        yield f"{name}.branch1", single, channels, 1
        yield f"{name}.branch2.0", reduced, channels, 1
        yield f"{name}.branch2.1", triple, reduced, 3
        yield f"{name}.branch3.0", reduced_2, channels, 1
        yield f"{name}.branch3.1", triple_2, reduced_2, 3
        yield f"{name}.branch4.1", projection, channels, 1
        channels = single + triple + triple_2 + projection


def random_state(seed=0):
    rng = np.random.default_rng(seed)
    state = {}
    for name, out, channels, size in convolutions():
        deviation = np.sqrt(2.0 / (channels * size * size))
        state[f"{name}.conv.weight"] = rng.normal(0.0, deviation, (out, channels, size, size))
        state[f"{name}.bn.weight"], state[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, (2, out))
        state[f"{name}.bn.bias"], state[f"{name}.bn.running_mean"] = rng.normal(0.0, 0.3, (2, out))
        state[f"{name}.bn.num_batches_tracked"] = np.zeros(())
    state.update({f"aux{i}.{part}": np.zeros(3) for i in (1, 2) for part in ("conv.conv.weight", "fc1.bias")})
    state["fc.weight"], state["fc.bias"] = np.zeros((1000, 1024)), np.zeros(1000)
    return {name: array.astype(np.float32) for name, array in state.items()}


def numpy_features(state, images):
    """torchvision's network by its definition; all features by the names of their layers."""
    seen = {}

    def unit(x, name, stride=1):
        x = convolve(x, state[f"{name}.conv.weight"], stride=stride)
        return relu(normalize(x, state, f"{name}.bn", EPSILON))

    # torchvision normalises by ImageNet's mean and deviation; transform_input then undoes that.
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (images - mean) / deviation
    x = x * (deviation / 0.5) + (mean - 0.5) / 0.5
    seen["maxpool1"] = x = pool_to_the_end(unit(x, "conv1", stride=2), 3, 2)
    seen["maxpool2"] = x = pool_to_the_end(unit(unit(x, "conv2"), "conv3"), 3, 2)
    for block in NETWORK:
        name = f"inception{block}"
        if block == "4a":
            seen["maxpool3"] = x = pool_to_the_end(x, 3, 2)
        if block == "5a":
            seen["maxpool4"] = x = pool_to_the_end(x, 2, 2)
        parts = [unit(x, f"{name}.branch1")]
        parts += [unit(unit(x, f"{name}.{branch}.0"), f"{name}.{branch}.1") for branch in ("branch2", "branch3")]
        parts.append(unit(pool_everywhere(x, np.max, -np.inf), f"{name}.branch4.1"))
        seen[f"{name}_output"] = x = np.concatenate(parts, axis=-1)
    return seen


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def backbone(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "googlenet.pth"
    write_state_dict(path, state, write_archive)
    return backbones.get("googlenet", (None, None, 3), weights=path, frozen_batch_norm="all")


def test_parameter_count_is_the_published_one(backbone):
    assert backbone.name == "googlenet"
    statistics = sum(2 * out for _, out, _, _ in convolutions())
    classifier = 1024 * 1000 + 1000
    assert backbone.count_params() - statistics + classifier == 6_624_904
    assert backbone.count_params() == 5_599_904 + 14_560


def test_all_of_batch_normalisation_is_frozen(backbone):
    convolved = [layer.kernel for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolved) == len(backbone.trainable_variables) == 57
    assert {id(kernel) for kernel in convolved} == {id(variable) for variable in backbone.trainable_variables}
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(backbone(images, training=True), backbone(images, training=False))


@pytest.mark.parametrize("shape", [(64, 64), (75, 100)])
def test_converted_weights_give_the_activations_of_a_numpy_network(backbone, state, shape):
    images = np.random.default_rng(1).random((2, *shape, 3), np.float32)
    expected = numpy_features(state, images)
    names = ["maxpool1", "maxpool2", "inception3a_output", "maxpool3", "inception4c_output", "maxpool4",
             "inception5b_output"]  # fmt: skip
    model = keras.Model(backbone.inputs[0], {name: backbone.get_layer(name).output for name in names})
    received = model(images, training=False)
    received["inception5b_output"] = backbone(images, training=False)
    for name in names:
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(received[name], expected[name], rtol=0, atol=1e-4 * largest, err_msg=name)
        assert 0.2 < np.mean(expected[name] > 0) <= 1.0, name
    assert received["inception5b_output"].shape[-1] == 1024


@pytest.mark.parametrize(("side", "expected"), [(224, 7), (227, 7), (256, 8), (32, 1)])
def test_output_shape(backbone, side, expected):
    assert tuple(backbone.compute_output_shape((2, side, side, 3))) == (2, expected, expected, 1024)


@pytest.mark.parametrize("shape", [(31, 64, 3), (64, 64, 1)])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError, match=r"Expected: .* at least 32 or None and channels one of \(3,\)"):
        backbones.get("googlenet", shape)
