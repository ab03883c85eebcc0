"""The examples in docs/ run, and what the pages say of the losses is so."""

import pathlib
import re

import pytest

from tfdml import losses, miners

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_examples_run(page):
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / path).exists(), path


def rows_of(page, columns):
    """The rows of a page's table with so many columns: (names, cells)."""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == columns:
            yield re.findall(r"`([^`]+)`", cells[0]), cells


@pytest.mark.parametrize(
    ("get", "known", "columns", "defaults"),
    [(losses.get, losses.loss_names(), 8, 2), (miners.get, miners.miner_names(), 4, 2)],
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
            # A name of its own, rather than one for a class with other options, states them all.
            if getattr(type(made)(), "name", name) == name:
                assert set(stated) == set(options) - {"name", "reduction", "miner", "dtype"}, name
    assert sorted(found) == known
