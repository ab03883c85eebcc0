import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdml import Gallery
from tfdml.data import LabeledImages, Preprocessing
from tfdml.gallery import folder as folders
from tfdml.gallery.exact import ExactSearch
from tfdml.gallery.vectors import StoredVectors
from tfdml.models import MetricModel, embed


def make_vectors(count, dim=6, seed=0):
    # Integers, so that ties are frequent.
    return np.random.default_rng(seed).integers(-2, 3, (count, dim)).astype(np.float32)


def brute_force(vectors, queries, k):
    squared = np.square(queries[:, None].astype(np.float64) - vectors[None]).sum(axis=-1)
    rows = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return rows, np.sqrt(np.take_along_axis(squared, rows, 1))


def check_search(gallery, vectors, ids, k=7):
    queries = make_vectors(5, vectors.shape[1], seed=9) + np.float32(0.25)
    rows, distances = brute_force(vectors, queries, k)
    result = gallery.search(queries, k)
    np.testing.assert_array_equal(result.ids, np.array(ids)[rows])
    np.testing.assert_array_equal(result.distances, distances)


def make_embedder(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.mark.parametrize("ids", [range(100, 150), [f"item {number}" for number in range(50)]])
def test_search_equals_brute_force_before_and_after_changes_and_saving(ids, tmp_path):
    ids, vectors = list(ids), make_vectors(50)
    gallery = Gallery()
    gallery.add(vectors[:20], ids[:20])
    check_search(gallery, vectors[:20], ids[:20])
    gallery.add(vectors[20:], ids[20:])
    check_search(gallery, vectors, ids)
    gallery.save(tmp_path / "gallery")
    loaded = Gallery.load(tmp_path / "gallery")
    check_search(loaded, vectors, ids)
    loaded.remove(ids[3:9])
    vectors, ids = np.delete(vectors, range(3, 9), 0), ids[:3] + ids[9:]
    vectors[5] = 1
    loaded.update([ids[5]], vectors[5:6])
    check_search(loaded, vectors, ids)
    loaded.save(tmp_path / "gallery")
    again = Gallery.load(tmp_path / "gallery")
    check_search(again, vectors, ids)
    again.add(np.ones((1, 6)), [ids[0]], on_conflict="replace")
    vectors[0] = 1
    check_search(again, vectors, ids)
    assert len(list((tmp_path / "gallery").glob("vectors-*.npy"))) == 1


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_search_is_exact_on_stored_vectors(storage, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    gallery = Gallery(storage=storage)
    ids = gallery.add(vectors)
    stored = gallery.vectors(ids)
    tolerance = {"float32": 0, "float16": 2e-3, "int8": np.abs(vectors).max() / 254 + 1e-6}[storage]
    assert np.abs(stored - vectors).max() <= tolerance
    check_search(gallery, stored, ids)
    gallery.save(tmp_path)
    check_search(Gallery.load(tmp_path), stored, ids)


@pytest.mark.parametrize("count", [4, 8, 21])
def test_shards_give_the_same_result(count):
    store = StoredVectors.empty("float32", 6)
    search = ExactSearch(store, shard_rows=4)
    queries = make_vectors(3, seed=1)
    for start in range(0, count, 3):
        search.forget(len(store))
        store.append(make_vectors(count)[start : start + 3])
        k = min(5, len(store))
        rows, squared = search(queries, k)
        expected, distances = brute_force(make_vectors(count)[: len(store)], queries, k)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(np.sqrt(squared), distances)


def test_cosine_distance():
    vectors, queries = np.random.default_rng(0).normal(size=(2, 10, 4)) * 1e3
    gallery = Gallery(distance="cosine")
    gallery.add(vectors)
    result = gallery.search(queries, 10)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    expected = np.sort(1 - queries @ vectors.T / norms, axis=1)
    np.testing.assert_allclose(result.distances, expected, atol=1e-6)


def test_labels_and_metadata_survive(tmp_path):
    gallery = Gallery()
    gallery.add(make_vectors(3), labels=["a", "b", "ü"], metadata=[{"shop": 1}, None, ["x"]])
    gallery.add(make_vectors(1, seed=1))
    gallery.update([1], labels=["c"])
    gallery.remove([3])
    gallery.save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert loaded.labels([0, 1, 2]) == ["a", "c", "ü"]
    assert loaded.metadata([0, 1, 2]) == [{"shop": 1}, None, ["x"]]
    # The id of a removed item is not given again.
    assert loaded.add(make_vectors(1)) == [4]
    assert loaded.labels([4]) == [None] and 3 not in loaded


FILES = ("files", "array of files")


@pytest.mark.parametrize(
    "kind",
    ["images", "labeled", "batches", *(pytest.param(kind, marks=pytest.mark.integration) for kind in FILES)],
)
def test_images_files_and_datasets_give_the_same_vectors(kind, tmp_path):
    embedder = make_embedder()
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    data, ids, labels = {
        "images": (images, [0, 1, 2], [None] * 3),
        "labeled": (LabeledImages(images, [0, 1, 0], ("cat", "dog")), [0, 1, 2], ["cat", "dog", "cat"]),
        "batches": (
            tf.data.Dataset.from_tensor_slices((images / np.float32(255), [0, 1, 0])).batch(2),
            [0, 1, 2],
            [0, 1, 0],
        ),
        "files": (paths, list(map(str, paths)), [None] * 3),
        "array of files": (np.array(list(map(str, paths))), list(map(str, paths)), [None] * 3),
    }[kind]
    gallery = Gallery(embedder)
    assert gallery.add(data) == ids
    expected = embedder(images / np.float32(255)).numpy()
    np.testing.assert_allclose(gallery.vectors(ids), expected, rtol=1e-5, atol=1e-6)
    assert gallery.labels(ids) == labels
    assert gallery.search(gallery.vectors(ids[:1]), k=1).ids.tolist() == [ids[:1]]


def test_an_embedder_may_be_a_function():
    gallery = Gallery(lambda images: tf.reduce_mean(images, axis=(1, 2)))
    images = np.random.default_rng(0).random((3, 4, 4, 2), np.float32)
    np.testing.assert_allclose(gallery.vectors(gallery.add(images)), images.mean(axis=(1, 2)), rtol=1e-5)


def test_vectors_have_the_size_of_the_embedder():
    """The inputs of an embedder of features are not stored as if they were its embeddings."""
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    gallery, features = Gallery(head), np.ones((3, 6), np.float32)
    with pytest.raises(ValueError, match="size 6, which .* as they are. Expected: size 4"):
        gallery.add(features)
    assert gallery.dim is None
    gallery.add(embed(head, features))
    with pytest.raises(ValueError, match="Expected: size 4"):
        gallery.search(features, k=1)
    with pytest.raises(ValueError, match=r"a tuple of 2 \(\(3, 4, 4, 3\), \(3,\)\).* labels="):
        gallery.add((np.ones((3, 4, 4, 3)), np.ones(3)))


def test_another_embedder_or_preprocessing_is_refused(tmp_path):
    gallery = Gallery(make_embedder(), Preprocessing((4, 4), 3))
    gallery.add(np.zeros((1, 4, 4, 3), np.uint8))
    gallery.save(tmp_path)
    assert Gallery.load(tmp_path, make_embedder()).preprocessing == gallery.preprocessing
    assert isinstance(Gallery.load(tmp_path, MetricModel(make_embedder())).embedder, keras.Sequential)
    with pytest.raises(ValueError, match="another embedder"):
        Gallery.load(tmp_path, make_embedder(seed=1))
    with pytest.raises(ValueError, match="another preprocessing"):
        Gallery.load(tmp_path, make_embedder(), Preprocessing((5, 5), 3))


BAD_ADDS = {
    "dimension": ((np.ones((1, 5)),), {}, ValueError, "another size. Received: 5"),
    "NaN": ((np.full((1, 6), np.nan),), {}, ValueError, "not finite"),
    "rank": ((np.ones(6),), {}, ValueError, "wrong shape"),
    "too large": ((np.full((1, 6), 1e300),), {}, ValueError, "range of float32"),
    "images without embedder": ((np.ones((1, 4, 4, 3)),), {}, ValueError, "no embedder"),
    "present id": ((np.ones((1, 6)), [0]), {}, ValueError, "already"),
    "id twice": ((np.ones((2, 6)), [8, 8]), {}, ValueError, "given twice. Received: 8"),
    "type of ids": ((np.ones((1, 6)), [1.5]), {}, TypeError, "Ids have the wrong type"),
    "mixed ids": ((np.ones((1, 6)), ["a"]), {}, TypeError, "all integers or all strings"),
    "number of ids": ((np.ones((1, 6)), [8, 9]), {}, ValueError, "2 ids for 1 items. Expected: 1 ids"),
    "large id": ((np.ones((1, 6)), [2**63]), {}, ValueError, "out of range.*9223372036854775808.*64 bits"),
    "labels": ((np.ones((1, 6)),), {"labels": [0.5]}, TypeError, "Labels"),
    "number of labels": ((np.ones((1, 6)),), {"labels": [1, 2]}, ValueError, "label"),
    "metadata": ((np.ones((1, 6)),), {"metadata": [{1, 2}]}, TypeError, "JSON cannot hold"),
    "metadata NaN": ((np.ones((1, 6)),), {"metadata": [np.nan]}, TypeError, "JSON cannot hold"),
    "number of metadata": ((np.ones((1, 6)),), {"metadata": {}}, ValueError, "one entry of metadata"),
    "conflict": ((np.ones((1, 6)),), {"on_conflict": "x"}, ValueError, "on_conflict='x'"),
}


@pytest.mark.parametrize("case", BAD_ADDS)
def test_a_bad_addition_changes_nothing(case):
    arguments, options, error, message = BAD_ADDS[case]
    gallery = Gallery()
    ids = gallery.add(make_vectors(9))
    with pytest.raises(error, match=message):
        gallery.add(*arguments, **options)
    check_search(gallery, make_vectors(9), ids)
    assert gallery.ids == ids


def test_bad_searches_and_changes():
    gallery = Gallery()
    with pytest.raises(ValueError, match="The gallery is empty"):
        gallery.search(np.ones((1, 6)), k=1)
    gallery.add(make_vectors(3))
    for k, message in ((4, "at most 3"), (0, "k=0")):
        with pytest.raises(ValueError, match=message):
            gallery.search(np.ones((1, 6)), k=k)
    for change in (gallery.remove, gallery.update, gallery.vectors):
        with pytest.raises(KeyError, match="not in the gallery"):
            change([0, 7])
    with pytest.raises(ValueError, match="given twice"):
        gallery.remove([1, 1])
    with pytest.raises(ValueError, match="2 vectors for 1 ids. Expected: 1 vectors"):
        gallery.update([1], np.ones((2, 6)))
    assert gallery.ids == [0, 1, 2]
    with pytest.raises(ValueError, match="norm 0"):
        Gallery(distance="cosine").add(np.zeros((1, 2)))
    half = Gallery(storage="float16")
    with pytest.raises(ValueError, match="range of the storage"):
        half.add(np.full((1, 2), 1e6))
    assert not len(half) and half.dim is None
    with pytest.raises(TypeError, match="cannot be called"):
        Gallery("embedder")
    for options in ({"distance": "dot"}, {"storage": "int4"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Gallery(**options)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    gallery = Gallery(make_embedder())
    with pytest.raises(ValueError, match=r"bad\.png"):
        gallery.add([tmp_path / "bad.png"])
    with pytest.raises(ValueError, match=r"A folder is not an image.*tfdml\.data\.folder"):
        gallery.add(tmp_path)
    with pytest.raises(ValueError, match="size of images is unknown"):
        Image.new("RGB", (2, 2)).save(tmp_path / "good.png")
        Gallery(lambda images: images).add([tmp_path / "good.png"])
    assert not len(gallery)


def test_damaged_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no gallery"):
        Gallery.load(tmp_path)
    gallery = Gallery()
    gallery.save(tmp_path / "empty")
    assert not len(Gallery.load(tmp_path / "empty"))
    gallery.add(make_vectors(9))
    folder = gallery.save(tmp_path / "gallery")
    (path,) = folder.glob("vectors-*.npy")
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + b"x")
    with pytest.raises(ValueError, match="checksum differs"):
        Gallery.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        Gallery.load(folder)
    manifest = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Gallery.load(folder)
    (folder / "gallery.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Gallery.load(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        gallery.save(tmp_path / "other")


@pytest.mark.parametrize("killed_at", range(3))
def test_a_save_that_is_interrupted_leaves_the_previous_gallery(killed_at, tmp_path, monkeypatch):
    gallery = Gallery()
    ids = gallery.add(make_vectors(9))
    gallery.save(tmp_path)
    gallery.add(make_vectors(9, seed=1))
    replace, calls = pathlib.os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gallery.save(tmp_path)
    check_search(Gallery.load(tmp_path), make_vectors(9), ids)
    gallery.save(tmp_path)
    assert len(Gallery.load(tmp_path)) == 18
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("key", ["distance", "fingerprint", "items"])
def test_a_manifest_without_an_entry_is_damaged(key, tmp_path):
    gallery = Gallery()
    gallery.add(make_vectors(3))
    path = gallery.save(tmp_path) / "gallery.json"
    manifest = json.loads(path.read_text())
    (manifest["files"] if key == "items" else manifest).pop(key)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"damaged.*lacks '{key}'.*Expected"):
        Gallery.load(tmp_path)


def test_a_gallery_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    gallery = Gallery()
    gallery.add(make_vectors(3))
    gallery.save(tmp_path)
    described, saved = folders._described, []

    def replaced(path):
        monkeypatch.setattr(folders, "_described", described)
        gallery.add(make_vectors(2))
        saved.append(gallery.save(tmp_path))
        return described(path)

    monkeypatch.setattr(folders, "_described", replaced)
    assert len(Gallery.load(tmp_path)) == 5 and saved
