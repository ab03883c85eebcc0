"""Check arguments, and derive the configuration of objects from their attributes."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")


def is_integer(value: Any) -> bool:
    """Return whether this is an integer of Python or NumPy; booleans are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_whole_number(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int, or raise a ValueError that names the argument."""
    is_whole = is_integer(value) or (_is_finite(value) and float(value).is_integer())
    if is_whole and value >= minimum:
        return int(value)
    raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: an integer >= {minimum}.")


def check_at_most(limits: Mapping[str, float], **values: float) -> None:
    """Raise a ValueError that names the first of the values that is not between 0 and its limit."""
    for name, value in values.items():
        if not 0 <= value <= limits[name]:
            raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: 0 <= {name} <= {limits[name]:g}.")


def check_positive(name: str, value: Any) -> float:
    """Return a finite `value` > 0 as a float, or raise a ValueError that names the argument."""
    if _is_finite(value) and value > 0:
        return float(value)
    raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: {name} > 0.")


def check_not_negative(name: str, value: Any) -> float:
    """Return a finite `value` >= 0 as a float, or raise a ValueError that names the argument."""
    if _is_finite(value) and value >= 0:
        return float(value)
    raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: {name} >= 0.")


def check_between(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float if `low <= value <= high`, or raise a ValueError that names the argument."""
    if _is_finite(value) and low <= value <= high:
        return float(value)
    raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: {low:g} <= {name} <= {high:g}.")


def check_choice(name: str, value: _T, choices: Iterable[Any]) -> _T:
    """Return `value` if it is one of the choices, or raise a ValueError that names the argument."""
    if value in choices:
        return value
    raise ValueError(f"Invalid {name}. Received: {name}={value!r}. Expected: one of {tuple(choices)}.")


def configuration(instance: object) -> dict[str, Any]:
    """Return an object's constructor arguments, read from attributes of the same names.

    Keyword collections (`**kwargs`) are left to the base class.
    """
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(type(instance).__init__).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind not in kinds]
    return {name: getattr(instance, name) for name in names if name != "self"}


class FormerNames:
    """Mixin that accepts former names of arguments, also in configurations of earlier versions.

    It must be the first base class of a Keras object. Code that uses a former name causes a DeprecationWarning.

    Attributes:
        former_names: dict from former names of arguments to current names.
    """

    former_names: dict[str, str] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not {"__init__", "former_names"} & vars(cls).keys():
            return
        made, former_names = cls.__init__, cls.former_names

        @functools.wraps(made)
        def init(self: Any, *args: Any, **options: Any) -> None:
            for former in options.keys() & former_names.keys():
                name = former_names[former]
                warnings.warn(
                    f"{type(self).__name__}: the argument {former!r} is now {name!r}.", DeprecationWarning, stacklevel=2
                )
                options[name] = options.pop(former)
            made(self, *args, **options)

        # Keras looks at the arguments in two ways, of which only one follows wrappers.
        init.__signature__ = inspect.signature(made)  # type: ignore[attr-defined]
        cls.__init__ = init  # type: ignore[method-assign]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        renamed = {cls.former_names.get(name, name): value for name, value in config.items()}
        return super().from_config(renamed)  # type: ignore[misc]


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def check_part(part: Sequence[int]) -> tuple[int, int]:
    """Return a pair (index, count) of integers with 0 <= index < count, or raise a ValueError."""
    index, count = part
    if not 0 <= index < count:
        raise ValueError(f"Invalid part. Received: part={part!r}. Expected: (index, count) with 0 <= index < count.")
    return int(index), int(count)
