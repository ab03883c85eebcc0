"""The README's examples run, one after the other, as a reader would paste them."""

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(blocks):
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_the_first_example_runs():
    assert len(BLOCKS) == 3 and ".fit(" not in BLOCKS[0]
    assert run(BLOCKS[:1])["model"].output_shape == (None, 10)


@pytest.mark.integration
def test_python_examples_run():
    namespace = run(BLOCKS)
    assert namespace["model"].metrics[0].name == "loss"
    assert set(namespace["history"].history) >= {"val_map_at_r", "projection", "covering_radius"}
    difference = namespace["vectors"] - namespace["embedder"](namespace["images"])
    assert abs(difference.numpy()).max() < 1e-5
    assert namespace["vector"].shape == (1, 32)


def test_images_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (pathlib.Path(__file__).parents[1] / path).is_file(), path
