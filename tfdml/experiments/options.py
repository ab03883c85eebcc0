"""Command-line options that several commands share."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import sys

import yaml

from tfdml._utils.command_line import CommandParser
from tfdml._utils.limited_yaml import one_line
from tfdml._utils.typed_values import kinds_of, to_mapping
from tfdml.experiments.recipe import Recipe

# The help of --trust.
_IF_KNOWN = "only if you know who made it."
TRUST = (
    "Import the modules that a run's recipe names, and load a SavedModel even if it can access files, processes or "
    f"Python; {_IF_KNOWN}"
)


def add_import_options(
    parser: CommandParser, trust: str = f"Import the modules that a recipe names; {_IF_KNOWN}"
) -> None:
    """Add `--import`, whose values are for `plugins.import_modules`, and `--trust` with the given help."""
    parser.add_argument(
        "--import", metavar="MODULE", action="append",
        help="Import a module or .py file that registers your own losses, miners, poolings, backbones or datasets. "
        "Repeatable.",
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help=trust)


def add_recipe_options(parser: CommandParser, defaults: Recipe) -> None:
    """Add an option for each key of a recipe. The help shows the values of the recipe `defaults`."""
    _add_section(parser, Recipe, to_mapping(defaults), "", _field_texts())


def _add_section(parser, kind, defaults, prefix, texts):
    group = parser.add_argument_group(prefix.rstrip(".") or "recipe", (inspect.getdoc(kind) or "").split("\n")[0])
    kinds = kinds_of(kind)
    for name in sorted(kinds, key=lambda name: dataclasses.is_dataclass(kinds[name])):
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(kinds[name]):
            _add_section(parser, kinds[name], defaults[name], f"{key}.", texts)
        elif key != "imports":  # Its option is --import.
            default = yaml.safe_dump(defaults[name], default_flow_style=True, width=1000).removesuffix("\n...\n")
            text = f"{texts.get((kind.__name__, name), '')} (default: {default.strip()})".strip()
            parser.add_argument(f"--{key}", type=kinds[name], group=group, help=text.replace("%", "%%"))


def _field_texts():
    """The string below each field of the recipe's dataclasses, by the names of class and field."""
    classes: list[ast.stmt] = []
    with contextlib.suppress(OSError):  # A package without its source has no texts.
        classes = ast.parse(inspect.getsource(sys.modules[Recipe.__module__])).body
    return {
        (kind.name, field.target.id): one_line(text.value.value)  # type: ignore[attr-defined, union-attr]
        for kind in classes
        if isinstance(kind, ast.ClassDef)
        for field, text in zip(kind.body, kind.body[1:])
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
