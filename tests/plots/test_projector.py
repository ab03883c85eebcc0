"""The files of the projector, read back."""

import re

import numpy as np
import pytest
from PIL import Image

from tfdml import Gallery
from tfdml.plots import save_projector


def images_of(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_vectors_are_read_back(dtype, tmp_path):
    vectors = (100 * np.random.default_rng(0).normal(size=(5, 3))).astype(dtype)
    config = save_projector(tmp_path / "new" / "folder", vectors)
    assert config == tmp_path / "new" / "folder" / "projector_config.pbtxt"
    np.testing.assert_array_equal(np.loadtxt(config.parent / "vectors.tsv", dtype=np.float32), vectors)
    assert sorted(path.name for path in config.parent.iterdir()) == ["projector_config.pbtxt", "vectors.tsv"]


def test_long_files_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("tfdml.plots.projector._BLOCK_ROWS", 2)
    save_projector(tmp_path, np.arange(10).reshape(5, 2))
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "vectors.tsv"), np.arange(10).reshape(5, 2))


def test_metadata(tmp_path):
    save_projector(tmp_path, np.eye(3), {"label": ["cat", "a\tb", "ü"]})
    # A single column has no header.
    assert (tmp_path / "metadata.tsv").read_text(encoding="utf-8") == "cat\na b\nü\n"
    save_projector(tmp_path, np.eye(3), {"id": np.arange(3), "the\tlabel": ["x\ny\r", None, 2.5]})
    rows = (tmp_path / "metadata.tsv").read_text(encoding="utf-8").split("\n")
    assert rows == ["id\tthe label", "0\tx y ", "1\t", "2\t2.5", ""]


def test_the_sprite_has_the_images_row_by_row(tmp_path):
    images = [*images_of(4), np.full((4, 8), 100, np.uint8)]
    save_projector(tmp_path, np.eye(5), images=iter(images), image_size=8)
    sprite = np.asarray(Image.open(tmp_path / "sprite.png"))
    assert sprite.shape == (24, 24, 3)
    for number in range(4):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(sprite[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], images[number])
    # The last one is centered and keeps its proportions.
    last = sprite[8:16, 8:16]
    assert (last[2:6] == 100).all() and (last[:2] == 255).all() and (last[6:] == 255).all()
    assert (sprite[16:] == 255).all()


def test_the_sprite_is_bounded(tmp_path):
    images = images_of(1).repeat(30, axis=0)
    save_projector(tmp_path, np.ones((30, 2)), images=images, max_sprite_size=60)
    assert Image.open(tmp_path / "sprite.png").size == (60, 60)
    assert re.findall(r"single_image_dim: (\d+)", (tmp_path / "projector_config.pbtxt").read_text()) == ["10", "10"]
    with pytest.raises(ValueError, match=r"too many images.*Received: 30 images. Expected: at most 25"):
        save_projector(tmp_path, np.ones((30, 2)), images=images, max_sprite_size=40)


def test_tensorboard_reads_the_configuration(tmp_path):
    config_pb2 = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    path = save_projector(tmp_path, np.eye(2), {"label": [1, 2]}, images_of(2), name='my "photos"\\', image_size=16)
    (embedding,) = text_format.Parse(path.read_text(encoding="utf-8"), config_pb2.ProjectorConfig()).embeddings
    assert embedding.tensor_name == 'my "photos"\\'
    assert (embedding.tensor_path, embedding.metadata_path) == ("vectors.tsv", "metadata.tsv")
    assert (embedding.sprite.image_path, list(embedding.sprite.single_image_dim)) == ("sprite.png", [16, 16])


def test_a_gallery(tmp_path):
    gallery = Gallery(distance="cosine")
    gallery.add(np.eye(3) * 5, ids=["a", "b", "c"], labels=[0, 1, 1])
    ids = gallery.ids
    save_projector(tmp_path, gallery.vectors(ids), {"id": ids, "label": gallery.labels(ids)})
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "vectors.tsv"), np.eye(3))
    assert (tmp_path / "metadata.tsv").read_text() == "id\tlabel\na\t0\nb\t1\nc\t1\n"


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((np.eye(3)[0],), {}, r"shape \(3,\)"),
        ((np.zeros((0, 3)),), {}, r"shape \(0, 3\)"),
        ((np.array([["a"]]),), {}, "wrong shape or type. Received: <U1"),
        ((np.full((2, 2), np.nan),), {}, "not finite"),
        ((np.full((2, 2), 1e300),), {}, "not finite"),
        ((np.eye(3), {"label": [1, 2]}), {}, "2 values of 'label'. Expected: 3"),
        ((np.eye(3), None, images_of(2)), {}, "Received: 2 images. Expected: 3"),
        ((np.eye(3), None, images_of(4)), {}, "Received: more images. Expected: 3"),
        ((np.eye(3), None, []), {}, "Received: 0 images. Expected: 3"),
        ((np.eye(1), None, [np.zeros((2, 2, 2), np.uint8)]), {}, r"images\[0\] is not an image"),
        ((np.eye(3),), {"image_size": 7}, "image_size=7. Expected: an integer >= 8"),
        ((np.eye(3),), {"max_sprite_size": 8193}, "Expected: at most 8192"),
        ((np.eye(3),), {"max_sprite_size": 0}, "max_sprite_size=0"),
    ],
)
def test_errors_change_no_file(arguments, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_projector(tmp_path / "folder", *arguments, **options)
    assert not (tmp_path / "folder").exists()
