"""The README's examples run, one after the other, as a reader would paste them."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["model"].metrics[0].name == "loss"
    assert set(namespace["history"].history) >= {"val_map_at_r", "projection", "covering_radius"}
    difference = namespace["vectors"] - namespace["embedder"](namespace["pictures"])
    assert abs(difference.numpy()).max() < 1e-5
    assert namespace["vector"].shape == (1, 32)


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (pathlib.Path(__file__).parents[1] / path).is_file(), path
