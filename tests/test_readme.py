"""The README's examples run each by itself, as a reader would paste them."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfdml

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(blocks):
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_the_first_screen_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.integration
def test_the_examples_for_addons_and_research_run():
    assert len(BLOCKS) == 3
    assert 0 <= run(BLOCKS[:1])["history"].history["val_map_at_r"][0] <= 1
    namespace = run(BLOCKS[2:])
    assert namespace["embedder"].output_shape == (None, 32)
    assert len(namespace["projections"].projections) == 0


@pytest.mark.integration
def test_a_folder_of_photos_becomes_neighbors_and_a_saved_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, color in enumerate(rng.integers(0, 200, (8, 3))):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = (color + rng.integers(0, 56, (40, 50, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    namespace = run(BLOCKS[1:2])
    assert len(namespace["gallery"]) == 32
    served = tf.saved_model.load("saved_model").signatures["serving_encoded"]
    encoded = tf.constant([(tmp_path / "photos" / "class0" / "0.png").read_bytes()])
    stored = namespace["gallery"].vectors(["photos/class0/0.png"])
    np.testing.assert_allclose(served(encoded=encoded)["embedding"], stored, atol=1e-4)


def test_links_and_images_lead_somewhere():
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", README):
        assert (ROOT / path).exists(), path


def test_anchors_exist():
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
                for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_the_citation_has_the_version():
    assert f"\nversion: {tfdml.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
