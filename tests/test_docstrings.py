"""Public classes and functions have docstrings with an example, which runs as a doctest."""

import importlib
import inspect

import pytest

# Extend this with each package whose docstrings are complete.
MODULES = [
    "tfdml.layers",
    "tfdml.layers.pooling",
    "tfdml.linear",
    "tfdml.losses",
    "tfdml.metrics",
    "tfdml.miners",
    "tfdml.ops",
]


def _without_example(module):
    module = importlib.import_module(module)
    members = {name: getattr(module, name) for name in module.__all__}
    documented = {name: value for name, value in members.items() if callable(value)}
    return [name for name, value in documented.items() if "Example:" not in (inspect.getdoc(value) or "")]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_an_example(module):
    assert not _without_example(module)
