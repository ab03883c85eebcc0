"""The examples in docs/ run, and what the pages say of the losses is so. Pages that train are integration tests."""

import importlib
import math
import pathlib
import re

import numpy as np
import pytest

from tfdml import losses, miners
from tfdml.layers import pooling as poolings

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Blocks of a page share their variables, so a page runs as a whole.
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES}


# Pages whose networks have fewer blocks here; tests/backbones has the networks as they are.
SHORTER = {"finetuning", "gsp", "index"}


@pytest.fixture
def shorter_networks(monkeypatch):
    """Function that leaves ResNet-20 and EfficientNet-Lite one block per stage."""

    def shorten():
        monkeypatch.setattr(importlib.import_module("tfdml.backbones.resnet20"), "BLOCKS_PER_STAGE", 1)
        networks = importlib.import_module("tfdml.backbones.efficientnet_lite")
        monkeypatch.setattr(networks, "STAGES", [(*stage[:-1], 1) for stage in networks.STAGES])

    return shorten


def with_tier(page):
    trains = any(".fit(" in block for block in BLOCKS[page])
    return pytest.param(page, id=page.stem, marks=[pytest.mark.integration] if trains else [])


@pytest.mark.parametrize("page", [with_tier(page) for page in PAGES if BLOCKS[page]])
def test_python_examples_run(page, registries, shorter_networks):
    if page.stem in SHORTER:
        shorter_networks()
    namespace = {}
    for block in BLOCKS[page]:
        exec(compile(block, page.name, "exec"), namespace)


def test_python_examples_are_found():
    assert sum(map(len, BLOCKS.values())) == sum(
        len(re.findall("^```py", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / path).exists(), path


def rows_of(page, columns):
    """Rows of the tables of a page with this number of columns: (names, cells)."""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == columns:
            yield re.findall(r"`([^`]+)`", cells[0]), cells


@pytest.mark.parametrize(
    ("get", "known", "columns", "defaults"),
    [(losses.get, losses.names(), 8, 2), (miners.get, miners.names(), 4, 2)],
    ids=["losses", "miners"],
)
def test_table_has_all_with_their_defaults(get, known, columns, defaults):
    found = []
    for names, cells in rows_of("losses.md", columns):
        stated = dict(text.split("=") for text in cells[defaults].split(", "))
        for name in names:
            found.append(name)
            made = get(name)
            options = {key: str(value) for key, value in made.get_config().items()}
            assert {key: options[key] for key in stated} == stated, name
            # A separate name, rather than an alias with options, states all options.
            if getattr(type(made)(), "name", name) == name:
                assert set(stated) == set(options) - {"name", "reduction", "miner", "dtype"}, name
    assert sorted(found) == known


def test_table_has_all_poolings_with_their_defaults_and_sizes():
    features, found = np.zeros((1, 3, 3, 24), "float32"), []
    for (name,), cells in rows_of("poolings.md", 7):
        found.append(name)
        made = poolings.get(name)
        layer, *marks = cells[1].split()
        assert layer == type(made).__name__, name
        assert marks == ["*"] * made.maps_only + ["+"] * made.rectifies, name
        stated = {} if cells[4] == "–" else dict(text.split("=") for text in cells[4].split(", "))
        options = {key: str(value) for key, value in made.get_config().items()}
        assert {key: options[key] for key in stated} == stated, name
        # A separate name, rather than an alias with options, states all options.
        if "the same, " not in cells[2]:
            assert set(stated) == set(options) - {"name", "dtype", "trainable", "prototypes_initializer"}, name
        sizes = {"d": 24, "prototypes": getattr(made, "prototypes", None)}
        size = math.prod(sizes.get(factor) or int(factor) for factor in cells[3].split(" × "))
        assert made(features).shape == (1, size), name
    assert sorted(found) == poolings.names()
