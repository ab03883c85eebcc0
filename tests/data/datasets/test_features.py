import json

import numpy as np
import pytest

from tfdml._utils.plain_files import read_json, write_json, write_text
from tfdml.data import (
    Augmentation,
    LabeledImages,
    Preprocessing,
    balanced_batches,
    class_pool,
    evaluation_batches,
    features,
    load,
)
from tfdml.data.batches import balanced_share

LABELS = np.array([2, 0, 1, 1, 0, 2, 1, 0])


def rows(dtype="float32"):
    generator = np.random.default_rng(0)
    return generator.normal(size=(len(LABELS), 5)).astype(dtype)


@pytest.fixture
def stored(tmp_path):
    """A folder of features, labels and names."""
    folder = tmp_path / "dino.v2"
    folder.mkdir()
    np.save(folder / "features.npy", rows())
    np.save(folder / "labels.npy", LABELS)
    (folder / "classes.txt").write_text("ant\nbee\ncow\n")
    return folder


def test_a_folder(stored):
    dataset = load("features", path=stored)
    assert dataset.name == "dino.v2"
    assert dataset.class_names == ("ant", "bee", "cow")
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.num_train_classes is None and dataset.roles is None
    np.testing.assert_array_equal(dataset.read(slice(None)), rows())


def test_superclasses(stored):
    assert features(stored).superclasses is None
    (stored / "superclasses.txt").write_text("insect\ninsect\nmammal\n")
    assert features(stored).superclasses.tolist() == ["insect", "insect", "mammal"]
    (stored / "superclasses.txt").write_text("insect\n")
    with pytest.raises(ValueError, match=r"superclasses of shape \(1,\).*Read from .*features.npy"):
        features(stored)


def test_features_stay_on_disk(stored):
    dataset = features(stored)
    assert isinstance(dataset.features.base, np.memmap)
    assert isinstance(dataset.subset([1]).features.base, np.memmap)


def test_more_than_fits_into_memory(stored):
    # A file with holes: it takes 64 GB of addresses and next to nothing of the disk.
    large = np.lib.format.open_memmap(stored / "features.npy", "w+", np.float32, (2**18, 2**16))
    large[1, 0] = 1.0
    del large
    np.save(stored / "labels.npy", np.repeat([0, 1, 2, 0], 2**16))
    train = features(stored, verify=False).subset([0, 2])
    ((batch, labels),) = evaluation_batches(train, 3, None).take(1)
    assert batch[:, 0].numpy().tolist() == [0, 1, 0] and labels.numpy().tolist() == [0, 0, 0]
    ((batch, _),) = balanced_batches(train, 2, 2, 0, None).take(1)
    assert batch.shape == (4, 2**16)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_with_others_that_are_named(stored, tmp_path, dtype, order):
    np.save(tmp_path / "clip.npy", np.asarray(rows(dtype), order=order))
    np.save(tmp_path / "roles.npy", np.array([1, 2, 1, 2, 1, 2, 2, 2], np.int32))
    dataset = features(
        str(tmp_path / "clip.npy"), stored / "labels.npy", stored / "classes.txt", tmp_path / "roles.npy", 2
    )
    assert dataset.name == "clip" and dataset.num_train_classes == 2
    assert dataset.is_query.tolist() == [True, False, True, False, True, False, False, False]
    np.testing.assert_allclose(dataset.read([1, 7]), rows()[[1, 7]], rtol=1e-2)


@pytest.mark.parametrize("kind", ["U", "S"])
@pytest.mark.parametrize("named", [True, False], ids=["in their order", "sorted"])
def test_labels_as_text(stored, kind, named):
    names = np.array(["cow", "ant", "bee"])
    np.save(stored / "labels.npy", names[LABELS].astype(kind))
    (stored / "classes.txt").write_bytes(b"cow\r\nbee\r\nant\r\n")
    if not named:
        (stored / "classes.txt").unlink()
    dataset = features(stored)
    assert dataset.class_names == (("cow", "bee", "ant") if named else ("ant", "bee", "cow"))
    assert [dataset.class_names[label] for label in dataset.labels] == names[LABELS].tolist()


def test_integers_without_names_need_not_count_from_0(stored):
    np.save(stored / "labels.npy", (LABELS * 10 + 1).astype(np.uint16))
    (stored / "classes.txt").unlink()
    dataset = features(stored)
    assert dataset.class_names == ("1", "11", "21")
    assert dataset.labels.tolist() == LABELS.tolist()


def test_what_the_extraction_tells(stored):
    (stored / "source.json").write_text(json.dumps({"num_train_classes": 2, "model": "x"}))
    assert features(stored).num_train_classes == 2
    assert features(stored, num_train_classes=1).num_train_classes == 1
    (stored / "source.json").write_text("{")
    with pytest.raises(ValueError, match="Not a JSON file.*source.json"):
        features(stored)


def test_batches(stored):
    dataset = features(stored).subset([2, 0])
    values, labels = rows()[np.isin(LABELS, [2, 0])], (LABELS[np.isin(LABELS, [2, 0])] == 0).astype(int)
    ((batch, batch_labels),) = evaluation_batches(dataset, 10, None)
    np.testing.assert_array_equal(batch, values)
    assert batch_labels.numpy().tolist() == labels.tolist()
    assert [len(batch) for batch, _ in evaluation_batches(dataset, 3, None)] == [3, 2]

    batches = balanced_batches(dataset, 2, 2, 0, None)
    assert batches.element_spec[0].shape == (4, 5) and batches.element_spec[0].dtype == "float32"
    seen = list(batches.take(9))
    for batch, batch_labels in seen:
        assert batch_labels.numpy().tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
        for feature, label in zip(batch.numpy(), batch_labels.numpy()):
            (found,) = np.flatnonzero((values == feature).all(axis=1))
            assert labels[found] == label
    for (one, _), (other, _) in zip(balanced_share(dataset, 2, 2, 0, None, start_batch=5).take(4), seen[5:]):
        np.testing.assert_array_equal(one, other)

    pool = class_pool(dataset, 2, 0, None)
    ((batch, batch_labels),) = pool(0)
    assert batch_labels.numpy().tolist() == [0, 0, 1, 1]
    assert (batch.numpy() != next(iter(pool(1)))[0].numpy()).any()


def test_batches_refuse_what_is_for_images(stored):
    dataset, preprocessing = features(stored), Preprocessing((4, 4), 1)
    with pytest.raises(ValueError, match="not apply to features. Received: augmentation=Augmentation"):
        balanced_batches(dataset, 2, 2, 0, None, Augmentation(rotation=5.0))
    with pytest.raises(ValueError, match="Received: preprocessing=Preprocessing"):
        evaluation_batches(dataset, 2, preprocessing)
    with pytest.raises(ValueError, match="Received: preprocessing=Preprocessing"):
        class_pool(dataset, 2, 0, preprocessing)(0)
    images = LabeledImages(["x.png", "y.png"], [0, 1], ("a", "b"))
    with pytest.raises(ValueError, match="Received: preprocessing=None with LabeledImages"):
        evaluation_batches(images, 2, None)


def damage(folder, name, contents):
    path = folder / name
    if contents is None:
        path.unlink()
    elif isinstance(contents, bytes):
        path.write_bytes(contents)
    elif isinstance(contents, str):
        path.write_text(contents)
    else:
        np.save(path, contents, allow_pickle=True)
    return path


class Trap:
    """What executes something when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("features.npy", np.zeros((8, 5), np.int32), "features of type int32"),
        ("features.npy", np.zeros((8, 5, 1)), "features of shape (8, 5, 1). Expected: (n, dim)"),
        ("features.npy", np.zeros((7, 5)), "7 features and 8 labels"),
        ("features.npy", np.zeros((8, 0)), "(8, 0)"),
        ("features.npy", np.array([[Trap()]]), "Not a readable .npy"),
        ("features.npy", b"", "Not a readable .npy"),
        ("features.npy", b"rubbish" * 100, "Not a readable .npy"),
        ("labels.npy", np.array([Trap()] * 8), "Not a readable .npy"),
        ("labels.npy", b"rubbish" * 100, "Not a readable .npy"),
        ("labels.npy", np.zeros((8, 2), int), "labels of shape (8, 2). Expected: (n,) or (n, 1)"),
        ("labels.npy", np.zeros(8), "type float64"),
        ("labels.npy", LABELS - 1, "labels down to -1"),
        ("labels.npy", LABELS[:6], "8 features and 6 labels"),
        ("labels.npy", np.array(list("abcabcab")), "does not name: ['a', 'b', 'c']"),
        ("classes.txt", "ant\nbee\n", "labels up to 2 and"),
        ("classes.txt", b"\xff\xfe", "cannot be read"),
        ("roles.npy", np.array([0, 1, 2]), "roles of shape (3,). Expected: (8,)"),
        ("roles.npy", np.arange(8), "roles with [3, 4, 5, 6, 7]"),
        ("source.json", '{"num_train_classes": 3}', "num_train_classes=3"),
    ],
)
def test_what_is_wrong_is_named(stored, name, contents, message):
    path = damage(stored, name, contents)
    with pytest.raises(ValueError) as error:
        features(stored)
    assert message in str(error.value)
    assert str(path if name != "source.json" else stored) in str(error.value)


def test_two_classes_of_one_name(stored):
    (stored / "classes.txt").write_text("ant\nant\ncow\n")
    assert features(stored).class_names == ("ant", "ant", "cow")
    np.save(stored / "labels.npy", np.array(["ant", "cow"] * 4))
    with pytest.raises(ValueError, match="'ant' twice in .*classes.txt"):
        features(stored)


def test_a_truncated_file(stored):
    path = stored / "features.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="Not a readable .npy.*features.npy"):
        features(stored)


def test_no_features_at_all(stored):
    np.save(stored / "features.npy", rows()[:0])
    np.save(stored / "labels.npy", LABELS[:0])
    with pytest.raises(ValueError, match="features.npy"):
        features(stored)


def test_missing_files(stored, tmp_path):
    cases = [
        (lambda: features(tmp_path / "nowhere"), "There is no such file.*nowhere"),
        (lambda: features(tmp_path), "The folder has no features.*Expected: features.npy and labels.npy"),
        (lambda: features(stored, labels=tmp_path / "mine.npy"), "There is no such file.*mine.npy"),
        (lambda: features(stored, roles=tmp_path / "mine.npy"), "There is no such file.*mine.npy"),
    ]
    for call, message in cases:
        with pytest.raises(FileNotFoundError, match=message):
            call()
    (stored / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="Features without labels.*labels.npy"):
        features(stored)
    (stored / "features.npy").rename(stored / "features.npy.partial")
    with pytest.raises(FileNotFoundError, match="interrupted.*dino.v2"):
        features(stored)


def test_features_that_are_not_finite_are_named(stored):
    values = np.ones((100, 3), np.float16)
    values[40, 1] = np.nan
    values[80:95, 2] = np.inf
    np.save(stored / "features.npy", values)
    np.save(stored / "labels.npy", np.arange(100) % 3)
    with pytest.raises(ValueError, match="rows 40, 80, 81, .*, 88 and 6 more") as error:
        features(stored)
    assert str(stored / "features.npy") in str(error.value)
    assert len(features(stored, verify=False)) == 100


def test_names_that_are_not_utf_8(stored):
    """As of classes that are folders: extraction writes them as the file system has them."""
    names = ("ant", "caf\udce9", "straße")
    write_text(stored / "classes.txt", "\n".join(names) + "\n")
    assert (stored / "classes.txt").read_bytes() == b"ant\ncaf\xe9\nstra\xc3\x9fe\n"
    write_json(stored / "source.json", {"data": names[1], "num_train_classes": 2})
    assert read_json(stored / "source.json")["data"] == names[1]
    dataset = load("features", path=stored)
    assert dataset.class_names == names and dataset.num_train_classes == 2
