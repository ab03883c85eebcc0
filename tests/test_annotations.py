"""The public API is annotated."""

import ast
import builtins
import importlib
import inspect

import pytest

MODULES = [
    "tfdml",
    "tfdml.backbones",
    "tfdml.callbacks",
    "tfdml.data",
    "tfdml.export",
    "tfdml.layers",
    "tfdml.layers.pooling",
    "tfdml.linear",
    "tfdml.losses",
    "tfdml.metrics",
    "tfdml.miners",
    "tfdml.models",
    "tfdml.ops",
    "tfdml.plots",
]
# Special methods that users call. Python defines the others.
SPECIAL = {"__init__", "__call__", "__len__", "__getitem__", "__iter__"}


def _function(member):
    if isinstance(member, property):
        member = member.fget
    return inspect.unwrap(getattr(member, "__func__", member))


def _functions_of(value):
    if not inspect.isclass(value):
        yield _function(value)
        return
    for kind in value.__mro__:
        for name, member in vars(kind).items():
            if kind.__module__.startswith("tfdml.") and (name in SPECIAL or not name.startswith("_")):
                yield _function(member)


def _public_functions(module):
    module = importlib.import_module(module)
    for name in module.__all__:
        yield from (f for f in _functions_of(getattr(module, name)) if inspect.isfunction(f))


def _name(function):
    return f"{function.__module__}.{function.__qualname__}"


def _unannotated(function):
    signature = inspect.signature(function)
    missing = [name for name, given in signature.parameters.items() if given.annotation is inspect.Parameter.empty]
    if missing[:1] in (["self"], ["cls"]):
        missing = missing[1:]
    return missing + ["return"] * (signature.return_annotation is inspect.Signature.empty)


@pytest.mark.parametrize("module", MODULES)
def test_public_signatures_are_annotated(module):
    functions = {_name(f): f for f in _public_functions(module) if f.__module__.startswith("tfdml.")}
    missing = {name: _unannotated(f) for name, f in functions.items() if _unannotated(f)}
    assert not missing


def test_annotations_name_what_exists():
    for function in {_name(f): f for module in MODULES for f in _public_functions(module)}.values():
        for annotation in filter(lambda annotation: isinstance(annotation, str), function.__annotations__.values()):
            for node in ast.walk(ast.parse(annotation)):
                if isinstance(node, ast.Name):
                    assert node.id in function.__globals__ or hasattr(builtins, node.id), _name(function)


def test_a_missing_annotation_is_found():
    def function(self, x: int, y, *, z=None) -> int:
        return x

    assert _unannotated(function) == ["y", "z"]
    assert _unannotated(lambda: None) == ["return"]
