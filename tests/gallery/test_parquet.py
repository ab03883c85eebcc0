"""Galleries from Parquet files."""

import json

import keras
import numpy as np
import pytest

from tfdml.data import Preprocessing, parquet_files
from tfdml.data.parquet_files import VectorBlock, write_vectors
from tfdml.gallery import Gallery, add_parquet, gallery_from_parquet

try:
    parquet_files.import_parquet()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


def make_vectors(count=10):
    return np.random.default_rng(0).normal(size=(count, 3)).astype("float32")


def write(folder, vectors, ids=None, classes=None, size=4):
    """Write files of `size` vectors each."""
    ids = [f"{number}.jpg" for number in range(len(vectors))] if ids is None else ids
    for start in range(0, len(vectors), size):
        rows = slice(start, start + size)
        names = None if classes is None else classes[rows]
        write_vectors(folder / f"{start:03d}.parquet", VectorBlock(ids[rows], names, None, None, vectors[rows]), {})
    return ids


def test_a_gallery_of_files_equals_one_of_arrays(tmp_path):
    vectors, classes = make_vectors(), ["cat", "dog", "cat", None, "dog"] * 2
    ids = write(tmp_path, vectors, classes=classes)
    made = gallery_from_parquet(tmp_path, distance="cosine", storage="float16")
    expected = Gallery(distance="cosine", storage="float16")
    expected.add(vectors, ids)
    assert made.ids == ids and made.labels(ids) == classes
    np.testing.assert_array_equal(made.vectors(ids), expected.vectors(ids))
    np.testing.assert_array_equal(made.search(vectors, 3).ids, expected.search(vectors, 3).ids)
    # More files, of integers instead of text, belong to another gallery.
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", vectors[:2], ids=[1, 2])
    with pytest.raises(TypeError, match="all integers or all strings"):
        add_parquet(made, tmp_path / "more")
    assert len(made) == 10


def test_vectors_are_added_to_those_present(tmp_path):
    vectors = make_vectors()
    write(tmp_path, vectors[5:], ids=[5, 6, 7, 8, 9], size=2)
    gallery = Gallery()
    gallery.add(vectors[:5])
    assert add_parquet(gallery, tmp_path) == 5
    np.testing.assert_array_equal(gallery.vectors(range(10)), vectors)


@pytest.mark.parametrize(
    "ids, vectors, message",
    [
        (list(range(9)) + [3], make_vectors(), "given twice. Received: 3"),
        (list(range(91, 101)), make_vectors(), "in the gallery already. Received: 100"),
        (list(range(10)), np.zeros((10, 4), "float32"), "another size. Received: 4"),
        (list(range(10)), np.where(np.arange(30).reshape(10, 3) == 29, np.nan, 1).astype("float32"), "not finite"),
    ],
)
def test_nothing_is_added_if_something_is_wrong(tmp_path, ids, vectors, message):
    write(tmp_path, vectors, ids)
    gallery = Gallery()
    gallery.add(make_vectors(1), ids=[100])
    with pytest.raises(ValueError, match=message):
        add_parquet(gallery, tmp_path)
    assert gallery.ids == [100]


def test_vectors_of_another_embedder_are_refused(tmp_path):
    keras.utils.set_random_seed(0)
    one, other = (
        keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]) for _ in range(2)
    )
    write(tmp_path, make_vectors())
    preprocessing = Preprocessing((4, 4), 1)
    noise = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(np.uint8)
    probe = one.predict(noise.astype("float32") / 255, verbose=0).tolist()
    source = {"model": "runs/one", "probe": probe, "preprocessing": preprocessing.config()}
    (tmp_path / "source.json").write_text(json.dumps(source))
    for options in ({}, {"preprocessing": preprocessing}):
        assert len(gallery_from_parquet(tmp_path, one, **options)) == 10
    with pytest.raises(ValueError, match="Another embedder has made these vectors.*runs/one"):
        gallery_from_parquet(tmp_path, other)
    with pytest.raises(ValueError, match="Another embedder"):
        gallery_from_parquet(tmp_path, one, preprocessing=Preprocessing((4, 4), 1, input_range=(0, 255)))
