"""Recipes and command lines: typed values from YAML, with errors of one line.

A recipe is read by this module rather than by jsonargparse, which takes 40 ms for each recipe and tells types in the
words of Python. Nothing here imports TensorFlow.
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

from tfdml.experiments.errors import InputError, RecipeError, nearest_key
from tfdml.experiments.recipe import Recipe
from tfdml.version import __version__

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_MAX_INTEGER = 2**63


# Values ------------------------------------------------------------------------------------------------------------


def read_value(kind, value, key):
    """A value of an annotation's type.

    Args:
        kind: The annotation: int, float, bool, str, dict, Literal, Optional, Union, tuple, or a dataclass, which is
            read from a mapping.
        value: As YAML gives it.
        key: What the error calls it.

    Raises:
        RecipeError: If the value is not of this type, or a key of a mapping is unknown.

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
    if isinstance(value, float) and not math.isfinite(value) and not _is_mapping(kind):
        raise RecipeError(f"{key} is not finite. Received: {value}. Expected: {_expectation(kind)}.")
    try:
        return _read(kind, value)
    except (TypeError, ValueError):
        raise RecipeError(
            f"{key} has the wrong type or value. Received: {shown(value)}. Expected: {_expectation(kind)}."
        ) from None


def read_text(kind, text, key):
    """A value from a command line's text: YAML, but text where text is expected.

    Args:
        kind: As for `read_value`.
        text: The text.
        key: What the error calls it.

    Example:
        >>> read_text(typing.Optional[float], "1e-3", "x"), read_text(str, "007", "x")
        (0.001, '007')
    """
    kinds = _alternatives(kind)
    if str in kinds:
        return None if type(None) in kinds and text == "null" else text
    if text in _choices(kind):
        return text
    return read_value(kind, parse_yaml(text, key), key)


def _read(kind, value):
    if typing.get_origin(kind) is typing.Union:
        for one in sorted(typing.get_args(kind), key=lambda one: one is float):
            with contextlib.suppress(TypeError, ValueError):
                return _read(one, value)
        raise TypeError(value)
    if typing.get_origin(kind) is typing.Literal:
        if isinstance(value, bool) or value not in typing.get_args(kind):
            raise ValueError(value)
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(value)
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise ValueError(value)
        return tuple(_read(one, item) for one, item in zip(kinds, value))
    if _is_mapping(kind):
        return _read_plain(value) if isinstance(value, Mapping) else _wrong(value)
    if kind is float:
        # YAML takes 1e-3, without a point, for text.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_text = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
        number = float(value) if is_number or is_text else _wrong(value)
        return number if math.isfinite(number) else _wrong(value)
    if kind is int:
        is_integer = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INTEGER
        return value if is_integer else _wrong(value)
    return value if isinstance(value, kind) else _wrong(value)


def _read_plain(value):
    """Options as they are: nested lists and mappings of plain values."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _wrong(key): _read_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_read_plain(item) for item in value)
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError(value)
    return value


def _wrong(value):
    raise TypeError(value)


def _read_section(kind, mapping, key):
    prefix = f"{key}." if key else ""
    kinds = _kinds(kind)
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{key} must be a section with keys of {{{', '.join(kinds)}}}. Received: {shown(mapping)}.")
    for name in mapping:
        if name not in kinds:
            path = f"{prefix}{name}" if isinstance(name, str) else prefix + shown(name)
            raise RecipeError(f"Unknown key {path!r}. Did you mean {nearest_key(path, _paths(Recipe))!r}?")
    return kind(**{name: read_value(kinds[name], value, prefix + name) for name, value in mapping.items()})


@functools.cache
def _kinds(kind):
    """The annotations of a dataclass by name."""
    return typing.get_type_hints(kind)


def _alternatives(kind):
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)


def _choices(kind):
    """The names among which an annotation chooses, if it does."""
    literals = [one for one in _alternatives(kind) if typing.get_origin(one) is typing.Literal]
    return [name for one in literals for name in typing.get_args(one)]


def _is_mapping(kind):
    return kind is dict or typing.get_origin(kind) is dict


def _expectation(kind):
    """What an annotation accepts, in words."""
    words = [_WORDS[one] for one in _alternatives(kind) if one in _WORDS]
    if names := _choices(kind):
        words.append(f"one of {', '.join(map(str, names))}" if len(names) > 1 else str(names[0]))
    for one in _alternatives(kind):
        if typing.get_origin(one) is tuple:
            item, last = typing.get_args(one)[0], typing.get_args(one)[-1]
            number = "" if last is Ellipsis else f"{len(typing.get_args(one))} "
            words.append(f"a list of {number}{'integers' if item is int else 'numbers'}")
    if any(map(_is_mapping, _alternatives(kind))):
        words.append("a mapping from names of options to plain values")
    return " or ".join([*words, *["null"] * (type(None) in _alternatives(kind))])


_WORDS = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}


def shown(value):
    """A value for a message: its `repr`, of limited length."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (Mapping, list, tuple)) and len(value) > 20:
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)} items"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text):,} characters)"


def recipe_from_mapping(mapping):
    """Makes a recipe of nested mappings; what they leave out has the default of `Recipe`.

    Args:
        mapping: As YAML gives it.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: If a key is unknown (the nearest right one is named), a value has the wrong type, or the recipe
            refuses a value.
    """
    return read_value(Recipe, mapping, "")


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


# YAML --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; dates are text, 1e-3 is a number, and numbers that Python cannot hold are errors."""

    yaml_implicit_resolvers = {
        character: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token):
        # The scanner looks far ahead of a bracket.
        if self.flow_level > _MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, f"it is nested deeper than {_MAX_DEPTH} levels", None)
        super().fetch_flow_collection_start(token)

    def construct_yaml_int(self, node):
        if len(node.value) > 40:
            raise yaml.constructor.ConstructorError(None, None, "an integer is too large", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node):
        number = super().construct_yaml_float(node)
        if math.isinf(number) and "inf" not in node.value.lower():
            raise yaml.constructor.ConstructorError(None, None, f"{node.value} is too large", node.start_mark)
        return number


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def parse_yaml(text, source):
    """Reads YAML.

    Args:
        text: The text.
        source: What the error calls it.

    Raises:
        RecipeError: If it is no YAML, gives a key twice, is nested more than 32 deep, or has, aliases expanded, more
            than 100,000 values.
    """
    if len(text) > _MAX_CHARACTERS:
        raise RecipeError(
            f"{source} is too long. Received: {len(text):,} characters. Expected: at most {_MAX_CHARACTERS:,}."
        )
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, 0, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise RecipeError(f"{source} is nested too deeply. Expected: at most {_MAX_DEPTH} levels.") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        message = one_line(error).replace(' in "<unicode string>",', " in")
        raise RecipeError(f"{source} is not valid YAML: {message}") from error


def _expanded_size(node, depth, known):
    """The number of values of a node with its aliases expanded; refuses what is too much, and keys given twice."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels, or an alias refers to itself")
    if id(node) in known:
        return known[id(node)]
    children = []
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in keys:
                raise ValueError(f"the key {key.value!r} is given twice, again in line {key.start_mark.line + 1}")
            keys.add(name)
            children += [key, value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    size = 1 + sum(_expanded_size(child, depth + 1, known) for child in children)
    if size > _MAX_NODES:
        raise ValueError(f"it has more than {_MAX_NODES:,} values when its aliases are expanded")
    known[id(node)] = size
    return size


def one_line(error):
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


# Command lines -----------------------------------------------------------------------------------------------------

# Between an option of a mapping and its value, inside one argument.
_OPTION_END = "\0"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size().columns) - 2)


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
        add = super().add_argument if group is None else group.add_argument
        if type is not None:
            key = names[0].lstrip("-")
            kwargs["type"] = functools.partial(_read_argument, type, key)
            kwargs.setdefault("metavar", _metavar(type))
            if _is_mapping(type):
                kwargs.update(action="append", dest=key)
                self._mappings.append(key)
        return add(*names, **kwargs)

    def parse_given(self, argv):
        """What the arguments say, as nested dicts, without the defaults of what they do not say.

        Args:
            argv: The arguments, without the program's name.
        """
        given = {}
        for path, value in vars(self.parse_args(self._joined(argv))).items():
            if path in self._mappings:
                value = functools.reduce(_merged, value, {})
            *sections, name = path.split(".")
            section = given
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = value
        return given

    def _joined(self, argv):
        """The arguments with `--data.options.path X` as one, of the option `--data.options`."""
        joined, argv = [], list(argv)
        while argv:
            argument = argv.pop(0)
            name, equals, value = argument.partition("=")
            mapping = next((key for key in self._mappings if name.startswith(f"--{key}.")), None)
            if mapping is None:
                joined.append(argument)
                continue
            if not equals:
                if not argv:
                    self.refuse(f"argument {name}: expected one argument")
                value = argv.pop(0)
            joined.append(f"--{mapping}={name[len(mapping) + 3 :]}{_OPTION_END}{value}")
        return joined

    def error(self, message):
        """Ends the program; an unknown option is answered with the nearest known one."""
        unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message)
        if unknown is not None:
            known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            message = f"Unknown option --{unknown[1]}. Did you mean --{nearest_key(unknown[1], known)}?"
        # Errors of values name the option themselves.
        self.refuse(re.sub(r"^argument \S+: (?=--)", "", message))

    def refuse(self, message):
        """Ends the program because of its input."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")

    @contextlib.contextmanager
    def refusing_input_errors(self):
        """Ends the program, without a traceback, if the input of the block is wrong."""
        try:
            yield
        except InputError as error:
            self.refuse(str(error))


def _read_argument(kind, key, text):
    try:
        if _is_mapping(kind) and _OPTION_END in text:
            *names, name = text.partition(_OPTION_END)[0].split(".")
            value = text.partition(_OPTION_END)[2]
            # A path stays text, whatever it looks like.
            value = {name: value if name == "path" else parse_yaml(value, f"--{key}.{name}")}
            for outer in reversed(names):
                value = {outer: value}
            return read_value(kind, value, f"--{key}")
        return read_text(kind, text, f"--{key}")
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _merged(one, other):
    both = {key: _merged(one[key], other[key]) for key in other if isinstance(one.get(key), dict)}
    return {**one, **other, **{key: value for key, value in both.items() if isinstance(other[key], dict)}}


def _metavar(kind):
    """What stands for a value in the help."""
    if names := _choices(kind):
        others = [one for one in _alternatives(kind) if one is not type(None) and typing.get_origin(one) is None]
        return "|".join([*("NUMBER" for _ in others), *map(str, names)])
    if bool in _alternatives(kind):
        return "true|false"
    names = {int: "N", float: "NUMBER", str: "TEXT"}
    found = [names[one] for one in _alternatives(kind) if one in names]
    found += ["[N,…]" for one in _alternatives(kind) if typing.get_origin(one) is tuple]
    return "|".join(found) or "YAML"


def add_recipe_options(parser, defaults):
    """Adds an option for every key of a recipe.

    Args:
        parser: A `CommandParser`.
        defaults: The recipe whose values the help shows.
    """
    _add_section(parser, Recipe, to_mapping(defaults), "", "recipe", _field_texts())


def _add_section(parser, kind, defaults, prefix, title, texts):
    group = parser.add_argument_group(title, inspect.getdoc(kind))
    sections = []
    for name, field_kind in _kinds(kind).items():
        if dataclasses.is_dataclass(field_kind):
            sections.append((name, field_kind))
            continue
        default = yaml.safe_dump(defaults[name], default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        text = f"{texts.get((kind.__name__, name), '')} (default: {default})"
        parser.add_argument(f"--{prefix}{name}", type=field_kind, group=group, help=text.replace("%", "%%").strip())
    for name, field_kind in sections:
        path = f"{prefix}{name}"
        _add_section(parser, field_kind, defaults[name], f"{path}.", path, texts)


def _field_texts():
    """The text below each field of a recipe's dataclasses, by the class's and the field's name."""
    texts = {}
    try:
        module = ast.parse(inspect.getsource(sys.modules[Recipe.__module__]))
    except OSError:  # A package without its source has no texts.
        return texts
    for kind in [node for node in module.body if isinstance(node, ast.ClassDef)]:
        for field, text in zip(kind.body, kind.body[1:]):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and is_text:
                texts[kind.name, field.target.id] = one_line(text.value.value)
    return texts


def _paths(kind, prefix=""):
    """The dotted keys of all values and sections."""
    for name, field_kind in _kinds(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(field_kind):
            yield from _paths(field_kind, f"{prefix}{name}.")


def missing_keys(mapping):
    """The dotted keys of a recipe that a nested mapping does not have, in the order of a recipe.

    Args:
        mapping: As YAML gives it.
    """

    def lacks(path):
        part = mapping
        for key in path.split("."):
            if not isinstance(part, Mapping) or key not in part:
                return True
            part = part[key]
        return False

    return [path for path in _leaves(Recipe) if lacks(path)]


def _leaves(kind):
    paths = list(_paths(kind))
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
