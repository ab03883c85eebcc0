"""Checks of arguments that several modules share."""

from __future__ import annotations

import numbers


def check_whole_number(name, value, minimum):
    """Returns `value` as an int, or raises a ValueError that names the argument."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and float(value).is_integer() and value >= minimum:
        return int(value)
    raise ValueError(f"Received: {name}={value!r}; expected an integer >= {minimum}.")


def check_at_most(limits, **values):
    """Raises a ValueError that names the first of the values that is not between 0 and its limit."""
    for name, value in values.items():
        if not 0 <= value <= limits[name]:
            raise ValueError(f"Received: {name}={value!r}; expected 0 <= {name} <= {limits[name]:g}.")
