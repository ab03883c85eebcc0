import hashlib
import importlib
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
from torch_writer import write_archive, write_state_dict, write_stream

from tfdml.backbones import convert, convert_weights, load_weights, weights
from tfdml.backbones.batch_normalization import Normalizer
from tfdml.layers.pooling import SOLARPooling

# The package has functions of these names.
bn_inception, googlenet = (importlib.import_module(f"tfdml.backbones.{name}") for name in ("bn_inception", "googlenet"))


def tiny(frozen="none"):
    images = keras.Input((6, 6, 3))
    features = keras.layers.Conv2D(4, 3, name="conv1")(images)
    features = Normalizer(0.9, frozen)(features, "conv1_bn")
    features = keras.layers.Conv2D(5, 1, use_bias=False, name="block_0_conv")(features)
    features = Normalizer(0.9, frozen)(features, "block_0_bn")
    return keras.Model(images, features, name="tiny")


def tiny_state(seed=0, **changes):
    """What PyTorch would have of it, with a classifier and the count that its batch normalisation keeps."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1.weight": (4, 3, 3, 3), "conv1.bias": (4,), "block.0.conv.weight": (5, 4, 1, 1)}
    for name, width in (("conv1_bn", 4), ("block.0.bn", 5)):
        shapes.update({f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()
    shapes.update({"last_linear.weight": (10, 5), "last_linear.bias": (10,), "aux1.conv.conv.weight": (2, 5, 1, 1)})
    state = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    for name, array in changes.items():
        state[name] = array
    return {name: array for name, array in state.items() if array is not None}


def tiny_arrays(state):
    """The same under Keras' names, written out."""
    arrays = {
        "conv1/kernel": np.transpose(state["conv1.weight"], (2, 3, 1, 0)),
        "conv1/bias": state["conv1.bias"],
        "block_0_conv/kernel": np.transpose(state["block.0.conv.weight"], (2, 3, 1, 0)),
    }
    for name in ("conv1_bn", "block.0.bn"):
        layer = name.replace(".", "_")
        arrays[f"{layer}/gamma"], arrays[f"{layer}/beta"] = state[f"{name}.weight"], state[f"{name}.bias"]
        arrays[f"{layer}/moving_mean"] = state[f"{name}.running_mean"]
        arrays[f"{layer}/moving_variance"] = state[f"{name}.running_var"]
    return arrays


def assert_has(model, arrays):
    order = {"kernel": 0, "bias": 1, "gamma": 0, "beta": 1, "moving_mean": 2, "moving_variance": 3}
    assert sum(len(layer.weights) for layer in model.layers) == len(arrays)
    for name, array in arrays.items():
        layer, _, variable = name.partition("/")
        np.testing.assert_array_equal(model.get_layer(layer).get_weights()[order[variable]], array, err_msg=name)


def write_legacy_h5(path, arrays, group=None, before=""):
    """Keras' older layout; `before` is what Keras 3 puts before the names of variables."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        names = ["input_1", *dict.fromkeys(name.split("/")[0] for name in arrays)]
        root.attrs["layer_names"] = [name.encode() for name in names]
        for layer in names:
            own = [name for name in arrays if name.split("/")[0] == layer]
            root.create_group(layer).attrs["weight_names"] = [f"{before}{name}:0".encode() for name in own]
            for name in own:
                root[layer][f"{before}{name}:0"] = arrays[name]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("write", [write_archive, write_stream])
@pytest.mark.parametrize("ending", ["pth", "pt"])
def test_pytorch(write, ending, tmp_path):
    path, state, model = tmp_path / f"tiny.{ending}", tiny_state(), tiny()
    write_state_dict(path, state, write)
    load_weights(model, path)
    assert_has(model, tiny_arrays(state))


def test_vectors_of_caffe_are_rows(tmp_path):
    state = tiny_state()
    rows = {name: array[None] if array.ndim == 1 else array for name, array in state.items()}
    write_state_dict(tmp_path / "tiny.pth", rows)
    model = tiny()
    load_weights(model, str(tmp_path / "tiny.pth"))
    assert_has(model, tiny_arrays(state))


@pytest.mark.parametrize(("group", "before"), [(None, ""), ("model_weights", "model/")])
def test_keras_older_layout(group, before, tmp_path):
    arrays = tiny_arrays(tiny_state())
    top = {"predictions/kernel": np.zeros((5, 2), np.float32)}
    write_legacy_h5(tmp_path / "tiny.h5", {**arrays, **top}, group, before)
    model = tiny()
    load_weights(model, tmp_path / "tiny.h5")
    assert_has(model, arrays)


def test_keras_own_files_in_the_older_layout(tmp_path):
    saved, arrays = tiny(), tiny_arrays(tiny_state())
    np.savez(tmp_path / "tiny.npz", **arrays)
    load_weights(saved, tmp_path / "tiny.npz")
    saved.save(tmp_path / "tiny.h5")
    model = tiny()
    load_weights(model, tmp_path / "tiny.h5")
    assert_has(model, arrays)


@pytest.mark.parametrize("first", ["none", "statistics", "all"])
@pytest.mark.parametrize("second", ["none", "statistics", "all"])
def test_keras_newer_layout_fits_whatever_is_frozen(first, second, tmp_path):
    saved, loaded, path = tiny(first), tiny(second), tmp_path / "tiny.weights.h5"
    saved.set_weights([np.random.default_rng(0).random(array.shape) for array in saved.get_weights()])
    saved.save_weights(path)
    load_weights(loaded, path)
    for one, other in zip(saved.layers, loaded.layers):
        for array, expected in zip(other.get_weights(), one.get_weights()):
            np.testing.assert_array_equal(array, expected)


def test_npz(tmp_path):
    arrays = tiny_arrays(tiny_state())
    np.savez(tmp_path / "tiny.npz", **{name: array.astype(np.float64) for name, array in arrays.items()})
    model = tiny("all")
    load_weights(model, tmp_path / "tiny.npz")
    assert_has(model, arrays)


def test_weights_stay_float32_under_a_mixed_policy(tmp_path, dtype_policy):
    dtype_policy("mixed_bfloat16")
    model, state = tiny(), tiny_state()
    write_state_dict(tmp_path / "tiny.pth", state)
    load_weights(model, tmp_path / "tiny.pth")
    assert_has(model, tiny_arrays(state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.bias": None, "block.0.bn.running_var": None}, "; missing: conv1/bias, block_0_bn/moving_variance."),
        ({"conv2.weight": np.ones(3), "conv1.extra": np.ones(1)}, "; not of this network: conv2.weight, conv1.extra."),
        ({"conv1.weight": np.ones((4, 3, 5, 5))}, r"; of another shape: conv1/kernel (5, 5, 3, 4) instead of (3, 3, "),
        ({"conv1.bias": np.ones(7), "b": np.ones(1)}, "; not of this network: b; of another shape: conv1/bias "),
    ],
)
def test_wrong_weights_are_named_and_none_is_taken(changes, message, tmp_path):
    write_state_dict(tmp_path / "tiny.pth", tiny_state(**changes))
    model = tiny()
    before = model.get_weights()
    with pytest.raises(ValueError) as raised:
        load_weights(model, tmp_path / "tiny.pth")
    assert f"Not weights of 'tiny'. Received: {tmp_path}/tiny.pth" in str(raised.value)
    assert message in str(raised.value)
    for array, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, expected)


def test_many_wrong_names_are_counted(tmp_path):
    np.savez(tmp_path / "tiny.npz", **{f"layer{number}/kernel": np.ones(1) for number in range(12)})
    with pytest.raises(ValueError, match="moving_mean and 1 more; not .*layer8/kernel, layer9/kernel and 2 more"):
        load_weights(tiny(), tmp_path / "tiny.npz")


def test_newer_layout_of_another_model(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    model = tiny()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Not weights of 'tiny'\. Received: .*other\.weights\.h5'"):
        load_weights(model, tmp_path / "other.weights.h5")
    for array, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, expected)


def network_of(widths, name="tiny"):
    images = features = keras.Input((6, 6, 3))
    for number, width in enumerate(widths):
        features = keras.layers.Conv2D(width, 3, padding="same", name=f"conv{number}")(features)
    return keras.Model(images, features, name=name)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((4, 5, 2), r"with 6 arrays; not of this network: 1 of shape \(3, 3, 5, 2\), 1 of shape \(2,\)\. Expected: "),
        ((4,), r"with 2 arrays; missing: 1 of shape \(3, 3, 4, 5\), 1 of shape \(5,\)\. Expected: .* with 4 arrays"),
        ((5, 4), r"with 4 arrays; missing: .*; not of this network: "),
    ],
)
def test_newer_layout_of_another_architecture(widths, message, tmp_path):
    """Keras itself would load what fits, layer by layer."""
    network_of(widths).save_weights(tmp_path / "other.weights.h5")
    model = network_of((4, 5))
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"Not weights of 'tiny'\. Received: .*other\.weights\.h5' {message}"):
        load_weights(model, tmp_path / "other.weights.h5")
    for array, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, expected)


def test_newer_layout_of_a_compiled_network(tmp_path):
    saved, loaded = network_of((4, 5)), network_of((4, 5))
    saved.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    saved.train_on_batch(np.ones((1, 6, 6, 3)), np.ones((1, 6, 6, 5)))
    saved.save_weights(tmp_path / "compiled.weights.h5")
    load_weights(loaded, tmp_path / "compiled.weights.h5")
    for array, expected in zip(loaded.get_weights(), saved.get_weights()):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("ending", ["h5", "weights.h5", "npz"])
def test_files_that_claim_more_than_they_hold(ending, tmp_path):
    path = tmp_path / f"tiny.{ending}"
    if ending == "npz":
        with zipfile.ZipFile(path, "w") as archive, archive.open("conv1/kernel.npy", "w") as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**12)}
            np.lib.format.write_array_header_1_0(member, header)
    else:
        with h5py.File(path, "w") as file:
            if ending == "h5":
                file.attrs["layer_names"] = [b"conv1"]
                file.create_group("conv1").attrs["weight_names"] = [b"conv1/kernel:0"]
            file.create_dataset("conv1/conv1/kernel:0", (2**20, 2**12), "f4")
    with pytest.raises(ValueError, match=rf"Received: {path}.* claims "):
        load_weights(tiny(), path)


def test_names_that_are_not_unique(tmp_path):
    images = keras.Input((4, 4, 6))
    network = keras.Model(images, SOLARPooling(name="pooling")(images), name="tiny")
    np.savez(tmp_path / "tiny.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="two variables named 'pooling/"):
        load_weights(network, tmp_path / "tiny.npz")
    write_state_dict(tmp_path / "tiny.pth", tiny_state(**{"block_0.conv.weight": np.ones((5, 4, 1, 1))}))
    with pytest.raises(ValueError, match="Two arrays of the file map to 'block_0_conv/kernel'"):
        load_weights(tiny(), tmp_path / "tiny.pth")


def test_checkpoints_of_training_scripts(tmp_path):
    """With an optimizer next to the weights, and the prefix of DataParallel."""
    state = tiny_state()
    write_state_dict(tmp_path / "tiny.pth", {f"module.{name}": array for name, array in state.items()}, write_archive)
    model = tiny()
    load_weights(model, tmp_path / "tiny.pth")
    assert_has(model, tiny_arrays(state))


@pytest.mark.parametrize("ending", ["npz", "h5", "weights.h5", "pth"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"])
def test_damaged_files(ending, content, tmp_path):
    path = tmp_path / f"tiny.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"Received: .*{path}"):
        load_weights(tiny(), path)


@pytest.mark.parametrize("path", ["imagnet", "weights.onnx"])
def test_unknown_words_and_endings(path):
    with pytest.raises(ValueError, match=rf"Received: weights='{path}'. Expected: None, 'imagenet' or .*\.pth"):
        load_weights(tiny(), path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"Received: weights='{tmp_path}/tiny.npz'"):
        load_weights(tiny(), tmp_path / "tiny.npz")


def with_hash(folder, state):
    """The file under the name that a publisher gives it."""
    write_state_dict(folder / "tiny.pth", state)
    digits = hashlib.sha256((folder / "tiny.pth").read_bytes()).hexdigest()[:9]
    return (folder / "tiny.pth").rename(folder / f"tiny-{digits}.pth")


def test_hash_in_the_name(tmp_path):
    path = with_hash(tmp_path, tiny_state())
    load_weights(tiny(), path)
    renamed = path.rename(tmp_path / "tiny-52deb4733.pth")
    with pytest.raises(ValueError, match=f"Received: {renamed} with sha256 .*Expected: one that starts with 52deb4733"):
        load_weights(tiny(), renamed)


@pytest.mark.parametrize("name", ["tiny-20240131.pth", "tiny-abc.pth", "52deb4733.pth"])
def test_other_names_have_no_hash(name, tmp_path):
    write_state_dict(tmp_path / name, tiny_state())
    load_weights(tiny(), tmp_path / name)


def test_imagenet_out_of_the_folder_of_keras(cache):
    path, model = with_hash(cache, tiny_state(seed=1)), tiny()
    published = weights.PublishedFile("tiny", f"https://example.org/files/{path.name}")
    weights.start_from(model, "imagenet", published)
    assert_has(model, tiny_arrays(tiny_state(seed=1)))
    # What was converted comes first.
    np.savez(path.with_suffix(".npz"), **tiny_arrays(tiny_state(seed=2)))
    weights.start_from(model, "imagenet", published)
    assert_has(model, tiny_arrays(tiny_state(seed=2)))


@pytest.mark.parametrize(
    ("published", "name", "address"),
    [
        (bn_inception.PUBLISHED, "bn_inception", "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"),
        (googlenet.PUBLISHED, "googlenet", "https://download.pytorch.org/models/googlenet-1378be20.pth"),
    ],
)
def test_imagenet_that_is_not_there_tells_what_to_do(published, name, address, cache):
    file = address.split("/")[-1]
    with pytest.raises(FileNotFoundError) as raised:
        weights.start_from(tiny(), "imagenet", published)
    message = str(raised.value)
    assert f"Expected: {cache}/{file} or {cache}/{file[:-4]}.npz. Download {address} (its sha256 starts with" in message
    command = f"python -m tfdml.backbones.convert {file} {file[:-4]}.npz --backbone {name}"
    assert command in message


def test_no_weights_leave_the_model_as_it_is():
    model = tiny()
    before = model.get_weights()
    weights.start_from(model, None, bn_inception.PUBLISHED)
    for array, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, expected)


@pytest.fixture
def tiny_is_a_backbone(monkeypatch):
    def build(name, input_shape):
        assert (name, input_shape) == ("tiny", (None, None, 3))
        return tiny()

    monkeypatch.setattr(weights.registry, "get", build)


def test_convert(tiny_is_a_backbone, tmp_path):
    state = tiny_state()
    write_state_dict(tmp_path / "tiny.pth", state)
    target = convert_weights(tmp_path / "tiny.pth", tmp_path / "tiny.npz", "tiny")
    assert target == tmp_path / "tiny.npz"
    with np.load(target) as archive:
        written = dict(archive)
    expected = tiny_arrays(state)
    assert sorted(written) == sorted(expected)
    for name, array in expected.items():
        assert written[name].dtype == np.float32
        np.testing.assert_array_equal(written[name], array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.npz", "tiny.pth"]


def test_convert_to_a_full_disk_leaves_nothing_behind(tiny_is_a_backbone, tmp_path, monkeypatch):
    write_state_dict(tmp_path / "tiny.pth", tiny_state())

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=f"Received: target='{tmp_path}/tiny.npz' .*No space left on device"):
        convert_weights(tmp_path / "tiny.pth", tmp_path / "tiny.npz", "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


def test_convert_refuses_another_target(tmp_path):
    with pytest.raises(ValueError, match=r"Received: target='.*tiny\.h5'. Expected: .*\.npz"):
        convert_weights(tmp_path / "tiny.pth", tmp_path / "tiny.h5")
    with pytest.raises(ValueError, match="Unknown backbone"):
        convert_weights(tmp_path / "tiny.pth", tmp_path / "tiny.npz", "inception")


def test_command(monkeypatch, capsys):
    received = []
    monkeypatch.setattr(convert, "convert_weights", lambda *arguments: received.append(arguments) or pathlib.Path("b"))
    convert.main(["a.pth", "b.npz"])
    convert.main(["a.pth", "b.npz", "--backbone", "googlenet"])
    assert received == [("a.pth", "b.npz", "bn_inception"), ("a.pth", "b.npz", "googlenet")]
    assert capsys.readouterr().out == "b\nb\n"


def test_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        convert.main([str(tmp_path / "none.pth"), str(tmp_path / "b.npz"), "--backbone", "resnet20"])
    assert raised.value.code == 1
    assert f"Received: weights='{tmp_path}/none.pth'" in capsys.readouterr().err


def test_files_of_keras_do_not_need_the_seeds_of_dropout(tmp_path):
    def model():
        return keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Dropout(0.5)])

    saved, loaded = model(), model()
    saved.save_weights(tmp_path / "model.weights.h5")
    load_weights(loaded, tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded.get_weights()[0], saved.get_weights()[0])
