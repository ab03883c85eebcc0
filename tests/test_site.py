"""The API reference lists every public name, and the site's navigation every page."""

import importlib
import pathlib
import pkgutil
import re
import types

import pytest

import tfdml

ROOT = pathlib.Path(__file__).parents[1]
LISTED = {
    path
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
}


def public_packages():
    for module in pkgutil.walk_packages(tfdml.__path__, "tfdml."):
        if module.ispkg and "._" not in module.name:
            yield module.name


def value_of(path):
    """The object of a dotted path. The part before the last is a module."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def key_of(value, path):
    """What two names of the same object share. Numbers and text have no identity, so their paths stand for them."""
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    return value if callable(value) else path


@pytest.mark.parametrize("package", ["tfdml", *public_packages()])
def test_reference_lists_every_public_name(package):
    listed = {key_of(value_of(path), path) for path in LISTED}
    module = importlib.import_module(package)
    values = {f"{package}.{name}": getattr(module, name) for name in module.__all__ if name != "__version__"}
    missing = [
        path
        for path, value in values.items()
        if not isinstance(value, types.ModuleType) and key_of(value, path) not in listed
    ]
    assert not missing, "Add these names to a page in docs/reference."


def test_reference_lists_nothing_private():
    for path in LISTED:
        value_of(path)
        assert not any(part.startswith("_") for part in path.split(".")), path


def test_navigation_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nexclude_docs")[0]
    named = set(re.findall(r"[\w/-]+\.md$", navigation, re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")} - {"package.md"}
    pages |= {f"tutorials/{script.stem}.md" for script in (ROOT / "docs" / "tutorials").glob("*.py")}
    assert not pages - named
