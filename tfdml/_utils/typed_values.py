"""Typed values and dataclasses from YAML and command lines, with one-line errors that name the key."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Callable

import numpy as np

from tfdml._utils import limited_yaml
from tfdml._utils.input_errors import InputError, unknown

_MAX_INTEGER = 2**63
# What a type accepts in words, and its placeholder in help texts.
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "N"),
    float: ("a finite number", "NUMBER"),
    bool: ("true or false", "true|false"),
    str: ("text", "TEXT"),
    dict: ("a mapping from names of options to plain values", "YAML"),
    type(None): ("null", ""),
}
_ITEMS = {int: "integers", float: "numbers", str: "names"}


def read_value(kind: Any, value: Any, key: str, root: Any = None) -> Any:
    """Convert a value from YAML to an annotated type.

    Args:
        kind: type. A dataclass, int, float, bool, str, dict, or a Union, Literal or tuple of these.
        value: The value. Dataclasses are read from mappings that may omit fields with a default.
        key: str. Dotted key of the value, for error messages.
        root: type. Dataclass whose keys the error for an unknown key suggests. Default: `kind`.

    Raises:
        InputError: If the value does not have this type, or a key is unknown.

    Example:
        >>> read_value(tuple[int, ...], [1, 2], "evaluation.recall_at")
        (1, 2)
    """
    if dataclasses.is_dataclass(kind):
        return _read_section(kind, value, key, root or kind)
    if isinstance(value, (np.generic, os.PathLike)):
        value = to_mapping(value)
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise InputError(f"{key} is too large. Received: {shown(value)}. Expected: less than 2**63.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key} is not finite. Received: {value}. Expected: {_expectation(kind)}.")
    try:
        return _read(kind, value)
    except ValueError:
        raise InputError(
            f"{key} has the wrong type or value. Received: {shown(value)}. Expected: {_expectation(kind)}."
        ) from None


def read_text(kind: Any, text: str, key: str) -> Any:
    """Convert the text of a command-line argument: YAML, or the text itself where text is expected.

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


def parse_yaml(text: str, source: Any) -> Any:
    """Read YAML within the limits of `limited_yaml`. The InputError names the `source`."""
    try:
        return limited_yaml.load(text)
    except ValueError as error:
        raise InputError(f"{source} is {error}") from error


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
    """Options of arbitrary names: nested lists and mappings of plain values."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(value)
        return {key: _read_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_read_plain, value))
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError(value)
    return value


def _read_section(kind, mapping, key, root):
    prefix, kinds = f"{key}." if key else "", kinds_of(kind)
    if not isinstance(mapping, Mapping):
        raise InputError(f"{key} must be a section with keys of {{{', '.join(kinds)}}}. Received: {shown(mapping)}.")
    for name in mapping:
        if name not in kinds:
            path = f"{prefix}{name}" if isinstance(name, str) else prefix + shown(name)
            raise InputError(unknown("key", path, keys_of(root, with_sections=True)))
    return kind(**{name: read_value(kinds[name], value, prefix + name, root) for name, value in mapping.items()})


@functools.cache
def kinds_of(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass' fields by name."""
    return typing.get_type_hints(kind)


def keys_of(kind: Any, prefix: str = "", with_sections: bool = False) -> Iterator[str]:
    """Yield the dotted keys of all values of a dataclass and those nested in it, optionally also of the sections."""
    for name, field_kind in kinds_of(kind).items():
        if dataclasses.is_dataclass(field_kind):
            yield from [prefix + name] * with_sections
            yield from keys_of(field_kind, f"{prefix}{name}.", with_sections)
        else:
            yield prefix + name


def value_of(mapping: Any, key: str, default: Any = None) -> Any:
    """Return the value of a dotted key in nested mappings.

    Example:
        >>> value_of({"model": {"pooling": "gsp"}}, "model.pooling")
        'gsp'
    """
    for part in key.split("."):
        if not isinstance(mapping, Mapping) or part not in mapping:
            return default
        mapping = mapping[part]
    return mapping


def _expectation(kind):
    """Describe what a type accepts."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Union:
        return " or ".join(map(_expectation, arguments))
    if origin is typing.Literal:
        return "one of " * (len(arguments) > 1) + ", ".join(map(str, arguments))
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {number}{_ITEMS[arguments[0]]}"
    return _WORDS[origin][0]


def metavar(kind: Any) -> str:
    """Return the placeholder of a type's values in help texts."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Union:
        return "|".join(filter(None, map(metavar, arguments)))
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    return "[N,…]" if origin is tuple else _WORDS[origin][1]


def shown(value: Any) -> str:
    """Return the `repr` of a value, shortened for a message."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (Mapping, list, tuple)) and len(value) > 20:
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)} items"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text):,} characters)"


def to_mapping(value: Any) -> Any:
    """Convert dataclasses, mappings, sequences, paths and NumPy values to the plain values that YAML can write."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_mapping(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return [to_mapping(item) for item in value] if isinstance(value, (list, tuple)) else value


def replace(instance: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of nested dataclasses with other values at dotted keys; `dataclasses.replace` for nested ones."""
    fields: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if rest:
            sections.setdefault(name, {})[rest] = value
        else:
            fields[name] = value
    nested_fields = {name: replace(getattr(instance, name), of_section) for name, of_section in sections.items()}
    return dataclasses.replace(instance, **fields, **nested_fields)


def merge_mappings(
    base: Mapping[str, Any],
    changes: Mapping[str, Any],
    merge: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return `base` updated by `changes`. `merge` (default: this function) combines two mappings at the same key."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = (merge or merge_mappings)(merged[key], value) if both else value
    return merged


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to nested mappings.

    Example:
        >>> nested({"model.gsp.ratio": 0.5, "model": {"pooling": "gsp"}})
        {'model': {'gsp': {'ratio': 0.5}, 'pooling': 'gsp'}}
    """
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge_mappings(result, value)
    return result


# Intervals of numbers ---------------------------------------------------------------------------------------------

_ANY_INTEGER, _ANY = "[-inf, 4294967296]", "[-inf, inf]"


def interval_problem(section: Any, prefix: str = "") -> str | None:
    """Describe the first number outside the interval of its annotation, as in `Annotated[float, "(0, 1]"]`.

    Args:
        section: dataclass instance. Nested dataclasses and tuples of numbers are checked too.
        prefix: str. Start of the keys in the message.

    Returns:
        The message, or None if all numbers are in their intervals.
    """
    for name, (interval, suffix) in _intervals(type(section)).items():  # type: ignore[arg-type]
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            if problem := interval_problem(value, f"{prefix}{name}."):
                return problem
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if expected := _expected(number, interval, name):
                return f"Received: {prefix}{name}={value!r}. Expected: {expected}{suffix}."
    return None


def _expected(number, interval, name):
    """Describe an interval if the number is outside it."""
    low, high = map(float, interval[1:-1].split(", "))
    is_open, is_open_above = interval[0] == "(", interval[-1] == ")"
    if number > high or (number == high and is_open_above):
        text = f"at most {high:,.0f}"
    elif number > low or (number == low and not is_open):
        return None
    else:
        text = f"{'above' if is_open else 'at least'} {low:g}"
    return f"{low:g} {'<' if is_open else '<='} {name} {'<' if is_open_above else '<='} 1" if high == 1 else text


@functools.cache
def _intervals(kind):
    """For each field its interval, and what the error says about null."""
    hints = typing.get_type_hints(kind, include_extras=True).items()
    return {name: (_interval(hint), ", or null" if type(None) in typing.get_args(hint) else "") for name, hint in hints}


def _interval(hint):
    if typing.get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    arguments = typing.get_args(hint)
    return _interval(arguments[0]) if arguments else _ANY_INTEGER if hint is int else _ANY
