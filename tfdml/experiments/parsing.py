"""Recipes and command lines, read by jsonargparse; an unknown key is answered with the nearest right one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import typing
from collections.abc import Mapping

import jsonargparse
import numpy as np
import yaml

from tfdml.experiments.errors import InputError, RecipeError, nearest_key
from tfdml.experiments.recipe import Recipe
from tfdml.version import __version__


class CommandParser(jsonargparse.ArgumentParser):
    """jsonargparse's parser that never guesses an option and ends the program with 2 and one line if it is wrong."""

    def __init__(self, **kwargs):
        # The text below a field is its help.
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(exit_on_error=False, allow_abbrev=False, version=f"tfdml {__version__}", **kwargs)

    def parse_given(self, argv):
        """What the arguments say, as nested dicts, without the defaults of what they do not say.

        Args:
            argv: The arguments, without the program's name.
        """
        try:
            return self.parse_args(argv, defaults=False).as_dict()
        except jsonargparse.ArgumentError as error:
            self.refuse(self._with_nearest(one_line(error)))

    def refuse(self, message):
        """Ends the program because of its input."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    @contextlib.contextmanager
    def refusing_input_errors(self):
        """Ends the program, without a traceback, if the input of the block is wrong."""
        try:
            yield
        except InputError as error:
            self.refuse(str(error))

    def _with_nearest(self, message):
        unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message, flags=re.IGNORECASE)
        if unknown is None:
            return message
        known = [name for name in self.get_defaults().keys() if name != "cfg"]
        return f"Unknown option --{unknown[1]}. Did you mean --{nearest_key(unknown[1], known)}?"


def add_recipe_options(parser, defaults):
    """Adds an option for every key of a recipe.

    Args:
        parser: A `CommandParser`.
        defaults: The recipe whose values the help shows.
    """
    parser.add_class_arguments(Recipe, None)
    sections = to_mapping(defaults)
    parser.set_defaults({path: _lookup(sections, path) for path in _leaves(Recipe)})


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
    _check_keys(mapping, Recipe, "")
    parser = _recipe_parser()
    try:
        values = parser.instantiate(parser.parse_object(dict(mapping)))
        return Recipe(**{field.name: values[field.name] for field in dataclasses.fields(Recipe)})
    except jsonargparse.ArgumentError as error:
        raise RecipeError(one_line(error)) from error
    except RecipeError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


@functools.cache
def _recipe_parser():
    """Making it takes much longer than using it."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, None)
    return parser


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


def parse_yaml(text, source):
    """Reads YAML.

    Args:
        text: The text.
        source: What the error calls it.

    Raises:
        RecipeError: If it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {one_line(error)}") from error


def one_line(error):
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def _check_keys(mapping, kind, prefix):
    # jsonargparse passes over a section that is no mapping, and over an unknown one that is empty.
    kinds = typing.get_type_hints(kind)
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if key not in kinds:
            raise RecipeError(f"Unknown key {path!r}. Did you mean {nearest_key(path, _paths(Recipe))!r}?")
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                names = ", ".join(field.name for field in dataclasses.fields(kinds[key]))
                raise RecipeError(f"{path} must be a section with keys of {{{names}}}. Received: {value!r}.")
            _check_keys(value, kinds[key], f"{path}.")


def _paths(kind, prefix=""):
    """The dotted keys of all values and sections."""
    for name, field_kind in typing.get_type_hints(kind).items():
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


def _lookup(mapping, path):
    for key in path.split("."):
        mapping = mapping[key]
    return mapping
