"""Errors of the input, as opposed to errors of the program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from tfdml._utils.naming import nearest_name


class InputError(ValueError):
    """Input that cannot be used. Commands show the message without a traceback."""


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Re-raise ValueError, TypeError and OSError as InputError."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise InputError(str(error)) from error


def unknown(kind: str, name: str, known_names: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one."""
    return f"Unknown {kind} {name!r}. Did you mean {nearest_name(str(name), known_names)!r}?"
