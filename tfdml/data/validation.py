"""Checks of arguments that several modules share."""

from __future__ import annotations

import difflib
import numbers


def check_whole_number(name, value, minimum):
    """Returns `value` as an int, or raises a ValueError that names the argument."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and float(value).is_integer() and value >= minimum:
        return int(value)
    raise ValueError(f"Received: {name}={value!r}; expected an integer >= {minimum}.")


def unknown_name(kind, name, known):
    """A ValueError that tells the nearest right name and all of them."""
    nearest = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"Unknown {kind}. Received: {name!r}; expected one of {sorted(known)}.{hint}")
