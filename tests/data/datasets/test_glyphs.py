import importlib
import logging
import os
import pathlib

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tfdml.data import glyphs

LETTERS = "AGRagrÄ7Я"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def letters(cache):
    return glyphs(characters=LETTERS, cache_dir=cache)


def test_classes_are_characters_by_code_point(letters):
    assert letters.class_names == tuple(sorted(LETTERS))
    assert letters.image_shape == (32, 32, 1)
    counts = dict(zip(letters.class_names, letters.class_counts))
    # Twelve typefaces of DejaVu and four of STIX; five of Computer Modern join in for plain letters and
    # digits.
    assert counts["Ä"] == counts["Я"] == 16
    assert counts["A"] == counts["7"] == 21
    assert (np.diff(letters.labels) >= 0).all()


def test_images_are_white_on_black_with_ink_inside(letters):
    images = letters.images[..., 0].astype(int)
    assert (images.max((1, 2)) > 120).all()
    shares = images.mean((1, 2)) / 255
    assert 0.02 < shares.min() and shares.max() < 0.4
    border = np.concatenate([images[:, [0, -1]].max((1, 2)), images[:, :, [0, -1]].max((1, 2))])
    assert (border < 100).mean() > 0.98


def test_images_show_their_characters(letters, cache):
    """The nearest of some images drawn apart from the package tells the class."""
    still = glyphs(characters=LETTERS, rotation=0, scale=0, shear=0, translation=0, cache_dir=cache)
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    templates = []
    for name in ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono-Oblique", "STIXGeneral"):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 21)
        for character in letters.class_names:
            canvas = Image.new("L", (32, 32))
            ImageDraw.Draw(canvas).text((16, 23), character, font=font, fill=255, anchor="ms")
            templates.append(np.asarray(canvas, float).ravel())
    templates = np.stack(templates) / np.linalg.norm(templates, axis=1, keepdims=True)
    for dataset, share in ((still, 0.85), (letters, 0.6)):
        nearest = (dataset.images.reshape(len(dataset), -1) @ templates.T).argmax(1) % dataset.num_classes
        assert (nearest == dataset.labels).mean() > share


def test_every_sample_has_its_own_warp(cache):
    twice = glyphs(characters="R", samples_per_typeface=2, cache_dir=cache)
    assert len(twice) == 42
    assert len(np.unique(twice.images.reshape(42, -1), axis=0)) == 42
    still = glyphs(characters="R", rotation=0, scale=0, shear=0, translation=0, cache_dir=cache)
    again = glyphs(characters="R", rotation=0, scale=0, shear=0, translation=0, seed=9, cache_dir=cache)
    np.testing.assert_array_equal(still.images, again.images)


def test_shift_moves_the_image(cache):
    still = glyphs(characters="I", rotation=0, scale=0, shear=0, translation=0, cache_dir=cache).images[
        ..., 0
    ]
    moved = glyphs(characters="I", rotation=0, scale=0, shear=0, translation=0.1, cache_dir=cache).images[
        ..., 0
    ]

    def centers(images):
        images = images.astype(float)
        rows, columns = np.mgrid[:32, :32]
        mass = images.sum((1, 2))
        return np.stack([(images * rows).sum((1, 2)), (images * columns).sum((1, 2))], 1) / mass[:, None]

    shifts = centers(moved) - centers(still)
    assert np.abs(shifts).max() < 0.1 * 32 + 0.1
    assert np.abs(shifts).max() > 0.07 * 32


def test_a_sample_does_not_depend_on_the_other_characters(letters, cache):
    alone = glyphs(characters="g", cache_dir=cache)
    of_all = letters.subset([letters.class_names.index("g")])
    np.testing.assert_array_equal(alone.images, of_all.images)


def test_seeds(letters, cache):
    other = glyphs(characters=LETTERS, seed=1, cache_dir=cache)
    assert other.class_names == letters.class_names
    assert (other.images != letters.images).any()


def test_look_alikes_are_kept_once(cache):
    # Latin, Greek and Cyrillic A, then two of B, hyphens, and letters that differ from them.
    dataset = glyphs(characters="A\u0391\u0410B\u0392-\u2010\u2011ÁÀБ", cache_dir=cache)
    assert dataset.class_names == tuple(sorted("AB-ÁÀБ"))


def test_blank_and_undrawable_characters_are_left_out(cache):
    dataset = glyphs(characters="A \u00a0\u00ad\u0301\ue000\t", cache_dir=cache, min_typefaces=2)
    assert dataset.class_names == ("A",)


def test_computer_modern_draws_no_wrong_symbols(cache):
    # Its code for "<" holds another sign, so its typefaces do not count for it.
    assert glyphs(characters="<", cache_dir=cache).class_counts.tolist() == [16]


def test_other_sizes(cache):
    for size in (28, 48):
        dataset = glyphs(characters="AW", size=size, cache_dir=cache)
        assert dataset.image_shape == (size, size, 1)
        assert dataset.num_classes == 2


def test_cache_is_used_and_a_damaged_one_renewed(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TFDML_CACHE", str(tmp_path / "cache"))
    first = glyphs(characters="Ab")
    (path,) = (tmp_path / "cache").iterdir()
    stored = path.read_bytes()
    assert path.suffix == ".npz"

    monkeypatch.setattr(importlib.import_module("tfdml.data.datasets.glyphs"), "_render_all", None)
    again = glyphs(characters="bA")
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.class_names == again.class_names
    monkeypatch.undo()

    monkeypatch.setenv("TFDML_CACHE", str(tmp_path / "cache"))
    for damage in (stored[: len(stored) // 2], b"", b"rubbish"):
        path.write_bytes(damage)
        with caplog.at_level(logging.WARNING, "tfdml"):
            renewed = glyphs(characters="Ab")
        assert str(path) in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(first.images, renewed.images)
        with np.load(path) as archive:
            assert set(archive) == {"images", "labels", "code_points"}
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [path.name]


def test_goes_on_without_a_cache(tmp_path, caplog, letters):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING, "tfdml"):
        dataset = glyphs(characters=LETTERS, cache_dir=blocked / "cache")
    assert "cannot be" in caplog.text
    np.testing.assert_array_equal(dataset.images, letters.images)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 4}, "size=4"),
        ({"min_typefaces": 1}, "min_typefaces=1"),
        ({"seed": -1}, "seed=-1"),
        ({"samples_per_typeface": 0}, "samples_per_typeface=0"),
        ({"rotation": -3}, "rotation=-3"),
        ({"scale": 1.0}, "scale=1.0"),
        ({"translation": 0.6}, "translation=0.6"),
        ({"characters": ""}, "No character is left"),
        ({"characters": "A", "min_typefaces": 99}, "min_typefaces=99"),
        ({"characters": "漢"}, "No character is left"),
    ],
)
def test_refuses(options, message, cache):
    with pytest.raises(ValueError, match=message):
        glyphs(cache_dir=cache, **options)


@pytest.mark.slow
def test_the_whole_set(cache):
    dataset = glyphs(cache_dir=cache)
    assert dataset.num_classes > 600
    assert dataset.class_counts.min() >= 16
