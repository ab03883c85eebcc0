"""Recipes and command lines: typed values from YAML, with errors of one line.

jsonargparse would read a recipe in 40 ms (the tables have 300), tell types in the words of Python over several lines,
and expand aliases of YAML without a limit. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import inspect
import math
import os
import re
import shutil
import sys
import typing
from collections.abc import Mapping

import numpy as np
import yaml

from tfdml._utils import limited_yaml
from tfdml.experiments import plugins
from tfdml.experiments.errors import InputError, RecipeError, nearest_key, unknown
from tfdml.experiments.recipe import FORMER_KEYS, Recipe
from tfdml.version import __version__

_MAX_INTEGER = 2**63
# What a type accepts in words, and what stands for a value in the help.
_WORDS = {
    int: ("an integer", "N"),
    float: ("a finite number", "NUMBER"),
    bool: ("true or false", "true|false"),
    str: ("text", "TEXT"),
    dict: ("a mapping from names of options to plain values", "YAML"),
    type(None): ("null", ""),
}


def read_value(kind, value, key):
    """A value, as YAML gives it, of an annotation's type: a dataclass, int, str, Union, tuple, …; errors name its key.

    Example:
        >>> read_value(tuple[int, ...], [1, 2], "evaluation.recall_at")
        (1, 2)
    """
    if dataclasses.is_dataclass(kind):
        return _read_section(kind, value, key)
    if isinstance(value, (np.generic, os.PathLike)):
        value = to_mapping(value)
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise RecipeError(f"{key} is too large. Received: {shown(value)}. Expected: less than 2**63.")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{key} is not finite. Received: {value}. Expected: {_expectation(kind)}.")
    try:
        return _read(kind, value)
    except ValueError:
        raise RecipeError(
            f"{key} has the wrong type or value. Received: {shown(value)}. Expected: {_expectation(kind)}."
        ) from None


def read_text(kind, text, key):
    """A value from a command line's text: YAML, but text where text is expected.

    Example:
        >>> read_text(typing.Optional[float], "1e-3", "x"), read_text(str, "007", "x")
        (0.001, '007')
    """
    kinds = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    if str in kinds:
        return None if type(None) in kinds and text == "null" else text
    if any(typing.get_origin(one) is typing.Literal and text in typing.get_args(one) for one in kinds):
        return text
    return read_value(kind, parse_yaml(text, key), key)


def _read(kind, value):
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Union:
        for one in sorted(arguments, key=lambda one: one is float):
            with contextlib.suppress(ValueError):
                return _read(one, value)
    elif origin is typing.Literal:
        if value in arguments and not isinstance(value, bool):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(map(_read, kinds, value))
    elif origin is dict:
        if isinstance(value, Mapping):
            return _read_plain(value)
    elif origin is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and limited_yaml.EXPONENT.fullmatch(value)):
            if math.isfinite(float(value)):
                return float(value)
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return _read_plain(value)
    raise ValueError(value)


def _read_plain(value):
    """Options as they are: nested lists and mappings of plain values."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(value)
        return {key: _read_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_read_plain, value))
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError(value)
    return value


def _read_section(kind, mapping, key):
    prefix, kinds = f"{key}." if key else "", _kinds(kind)
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{key} must be a section with keys of {{{', '.join(kinds)}}}. Received: {shown(mapping)}.")
    for name in mapping:
        if name not in kinds:
            path = f"{prefix}{name}" if isinstance(name, str) else prefix + shown(name)
            raise RecipeError(unknown("key", path, _keys(Recipe)))
    return kind(**{name: read_value(kinds[name], value, prefix + name) for name, value in mapping.items()})


@functools.cache
def _kinds(kind):
    """The annotations of a dataclass by name."""
    return typing.get_type_hints(kind)


def _keys(kind, prefix=""):
    """The dotted keys of all values and sections."""
    for name, field_kind in _kinds(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(field_kind):
            yield from _keys(field_kind, f"{prefix}{name}.")


def missing_keys(mapping, kind=Recipe, prefix=""):
    """The dotted keys of a recipe that a nested mapping does not have, in the order of a recipe."""
    mapping, missing = mapping if isinstance(mapping, Mapping) else {}, []
    for name, field_kind in _kinds(kind).items():
        if dataclasses.is_dataclass(field_kind):
            missing += missing_keys(mapping.get(name), field_kind, f"{prefix}{name}.")
        elif name not in mapping:
            missing.append(prefix + name)
    return missing


def _expectation(kind):
    """What an annotation accepts, in words."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Union:
        return " or ".join(map(_expectation, arguments))
    if origin is typing.Literal:
        return "one of " * (len(arguments) > 1) + ", ".join(map(str, arguments))
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {number}{_ITEMS[arguments[0]]}"
    return _WORDS[origin][0]


_ITEMS = {int: "integers", float: "numbers", str: "names"}


def _metavar(kind):
    """What stands for a value in the help."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Union:
        return "|".join(filter(None, map(_metavar, arguments)))
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    return "[N,…]" if origin is tuple else _WORDS[origin][1]


def shown(value):
    """A value for a message: its `repr`, of limited length."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (Mapping, list, tuple)) and len(value) > 20:
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)} items"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text):,} characters)"


def recipe_from_mapping(mapping):
    """A `Recipe` from nested mappings, with the defaults of `Recipe` for what they leave out.

    Raises:
        RecipeError: If a key is unknown, a value has the wrong type, or the recipe refuses a value.
        InputError: If it names a module that may not be imported (`plugins.require`).
    """
    if isinstance(mapping, Mapping) and isinstance(mapping.get("imports"), (list, tuple)):
        plugins.require(read_value(tuple[str, ...], mapping["imports"], "imports"))
    return read_value(Recipe, with_present_keys(mapping), "")


def with_present_keys(mapping):
    """Nested mappings of a recipe with the keys of `FORMER_KEYS` under their present names."""
    for former, present in FORMER_KEYS.items():
        section, key = former.split(".")
        if isinstance(mapping, Mapping) and isinstance(mapping.get(section), Mapping) and key in mapping[section]:
            of_section = {present.split(".")[1] if name == key else name: v for name, v in mapping[section].items()}
            mapping = {**mapping, section: of_section}
    return mapping


def to_mapping(value):
    """Nested dicts and lists of plain values, as YAML can write them."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_mapping(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return [to_mapping(item) for item in value] if isinstance(value, (list, tuple)) else value


def lay_over(base, changes, merge_sections):
    """The base with the changes; where both have a mapping it is that of `merge_sections`."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_sections(merged[key], value) if both else value
    return merged


def nested(overrides):
    """Dotted keys as nested mappings.

    Example:
        >>> nested({"model.gsp.ratio": 0.5, "model": {"pooling": "gsp"}})
        {'model': {'gsp': {'ratio': 0.5}, 'pooling': 'gsp'}}
    """
    result = {}
    for key, value in overrides.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = _joined(result, value)
    return result


def _joined(one, other):
    return lay_over(one, other, _joined)


def parse_yaml(text, source):
    """Reads YAML within the limits of `limited_yaml`; RecipeError names its `source`."""
    try:
        return limited_yaml.load(text)
    except ValueError as error:
        raise RecipeError(f"{source} is {error}") from error


# Command lines -----------------------------------------------------------------------------------------------------


# The help of --trust.
_IF_KNOWN = "only if you know who made it."
TRUST = (
    "Import the modules that a run's recipe names, and load a SavedModel even if it can reach files, processes or "
    f"Python; {_IF_KNOWN}"
)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size().columns) - 2)


class _MergeAction(argparse.Action):
    """Merges a mapping into that of the same option before it."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, _joined(getattr(namespace, self.dest, {}), values))


class CommandParser(argparse.ArgumentParser):
    """A parser that never guesses an option, reads values as YAML, and ends with 2 and one line if they are wrong."""

    def __init__(self, **kwargs):
        super().__init__(
            allow_abbrev=False, argument_default=argparse.SUPPRESS, formatter_class=_HelpFormatter, **kwargs
        )
        self._mappings = []
        self.add_argument("--version", action="version", version=f"tfdml {__version__}", help="Print the version.")

    def add_argument(self, *names, type=None, group=None, **kwargs):
        """As of argparse, but `type` is an annotation as of a recipe's field, and `group` an argument group."""
        if type is not None:
            kwargs = {"metavar": _metavar(type), "type": functools.partial(_read_argument, type, names[0]), **kwargs}
        if type is dict or typing.get_origin(type) is dict:
            kwargs["action"] = _MergeAction
            self._mappings.append(names[0])
        return (super() if group is None else group).add_argument(*names, **kwargs)

    def add_options(self, options):
        """Adds options: from `--NAME METAVAR` for text, `--NAME` for a flag, to the help, or to a type and the help."""
        for option, text in options.items():
            name, _, metavar = option.partition(" ")
            kind, text = (None, text) if isinstance(text, str) else text
            if kind is not None:
                self.add_argument(name, type=kind, help=text)
            else:
                self.add_argument(name, help=text, **({"metavar": metavar} if metavar else {"action": "store_true"}))

    def parse_given(self, argv):
        """The given arguments as nested dicts, without defaults."""
        given, argv = argv, []
        for argument in given:
            name = argument.partition("=")[0]
            mapping = next((key for key in self._mappings if name.startswith(f"{key}.")), None)
            if mapping is not None and name not in self._option_string_actions:
                read = functools.partial(_read_option, mapping, name[len(mapping) + 1 :])
                super().add_argument(name, dest=name[2:], type=read, help=argparse.SUPPRESS)
            action = self._option_string_actions.get(argv[-1]) if argv else None
            if re.match("-[^-]", argument) and argument != "-h" and action is not None and action.nargs is None:
                # argparse would take the value, as in --scale -1-1, for an option.
                argv[-1] = f"{argv[-1]}={argument}"
            else:
                argv.append(argument)
        return nested(vars(self.parse_args(argv)))

    def error(self, message):
        """Ends the program; an unknown option is answered with the nearest known one."""
        name = re.match(r"unrecognized arguments: --([^\s=]+)", message)
        if name is not None:
            known = [known[2:] for known in self._option_string_actions if known.startswith("--")]
            message = f"Unknown option --{name[1]}. Did you mean --{nearest_key(name[1], known)}?"
        # Errors of values name the option themselves.
        self.refuse(re.sub(r"^argument \S+: (?=--)", "", message))

    def refuse(self, message):
        """Ends the program because of its input."""
        self.exit(2, f"{self.prog}: error: {limited_yaml.one_line(message)}\n")

    @contextlib.contextmanager
    def refusing_input_errors(self):
        """Ends the program, without a traceback, if the input of the block is wrong."""
        try:
            yield
        except InputError as error:
            self.refuse(str(error))


def _read_argument(kind, name, text):
    try:
        return read_text(kind, text, name)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _read_option(mapping, key, text):
    """The value of one option of a mapping; a path stays text, whatever it looks like."""
    try:
        value = text if key.split(".")[-1] in ("path", "root") else parse_yaml(text, f"{mapping}.{key}")
        return read_value(dict, {key: value}, mapping)[key]
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_import_options(parser, trust=f"Import the modules that a recipe names; {_IF_KNOWN}"):
    """Adds `--import`, of which `plugins.import_modules` takes the values, and `--trust` with this help."""
    parser.add_argument(
        "--import", metavar="MODULE", action="append",
        help="Import a module, or a .py file, that registers your own losses, miners, poolings, backbones or datasets. "
        "Repeatable.",
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help=trust)


def add_recipe_options(parser, defaults):
    """Adds an option for every key of a recipe; the help shows the values of the recipe `defaults`."""
    _add_section(parser, Recipe, to_mapping(defaults), "", _field_texts())


def _add_section(parser, kind, defaults, prefix, texts):
    group = parser.add_argument_group(prefix.rstrip(".") or "recipe", inspect.getdoc(kind))
    kinds = _kinds(kind)
    for name in sorted(kinds, key=lambda name: dataclasses.is_dataclass(kinds[name])):
        if dataclasses.is_dataclass(kinds[name]):
            _add_section(parser, kinds[name], defaults[name], f"{prefix}{name}.", texts)
            continue
        if f"{prefix}{name}" == "imports":
            # --import adds to it.
            continue
        default = yaml.safe_dump(defaults[name], default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        text = f"{texts.get((kind.__name__, name), '')} (default: {default})"
        parser.add_argument(f"--{prefix}{name}", type=kinds[name], group=group, help=text.replace("%", "%%").strip())


def _field_texts():
    """The text below each field of a recipe's dataclasses, by the class's and the field's name."""
    classes = []
    with contextlib.suppress(OSError):  # A package without its source has no texts.
        classes = ast.parse(inspect.getsource(sys.modules[Recipe.__module__])).body
    return {
        (kind.name, field.target.id): limited_yaml.one_line(text.value.value)
        for kind in classes
        if isinstance(kind, ast.ClassDef)
        for field, text in zip(kind.body, kind.body[1:])
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
