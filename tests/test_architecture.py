"""Packages import only lower levels, and importing them does not import TensorFlow Addons."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "tfdml"
LEVELS = [
    {"version"},
    {"_utils"},
    {"ops"},
    {"relations"},
    {"layers", "miners", "metrics", "backbones", "data", "plots"},
    {"losses", "linear"},
    {"models"},
    {"callbacks", "export", "gallery"},
    {"experiments"},
]
EXTRAS = {"tensorflow_addons", "faiss", "optuna", "mlxtend"}
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def _sources():
    return sorted(PACKAGE.rglob("*.py"))


def _room(path):
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def _imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_a_level():
    rooms = {_room(path) for path in _sources()} - {"__init__"}
    assert rooms <= set(LEVEL_OF)


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = _room(path)
    if room == "__init__":
        return
    for module in _imported_modules(path):
        parts = module.split(".")
        if parts[0] != "tfdml" or len(parts) < 2:
            continue
        other = parts[1]
        assert other == room or LEVEL_OF[other] < LEVEL_OF[room], f"{path} ({room}) imports {module}"


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_imports_nothing_from_the_clone(path):
    roots = {module.split(".")[0] for module in _imported_modules(path)}
    assert not roots & {"studies", "benchmarks", "tests"}, path


def test_the_check_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from tfdml.models import MetricModel\nimport tfdml.callbacks\n")
    assert list(_imported_modules(wrong)) == ["tfdml.models.MetricModel", "tfdml.callbacks"]
    assert LEVEL_OF["models"] > LEVEL_OF["layers"]


_VERSION_CHECK = re.compile(r"keras\.__version__\s*(\.startswith|[<>=!]=?|\.split)")
_PRIVATE_ATTRIBUTES = re.compile(
    r"\b_(flatten_layers|tracker|loss_scale|use_cached_eval_dataset|maybe_symbolic_build)\b"
)


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_differences_of_the_keras_lines_stand_in_one_module(path):
    text = path.read_text(encoding="utf-8")
    found = bool(_VERSION_CHECK.search(text) or _PRIVATE_ATTRIBUTES.search(text))
    assert found == (path.name == "keras_compat.py")


def _modules_imported_on_import(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module
        elif not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield from _modules_imported_on_import(child)


def test_extras_are_imported_in_functions_only():
    for path in _sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not EXTRAS & {module.split(".")[0] for module in _modules_imported_on_import(tree)}, path
    tree = ast.parse("try:\n    import a.b\nexcept ImportError:\n    from c import d\ndef f():\n    import e")
    assert list(_modules_imported_on_import(tree)) == ["a.b", "c"]


def test_another_backend_is_refused(monkeypatch):
    import importlib

    import keras

    import tfdml

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="Received: 'jax'"):
        importlib.reload(tfdml)
