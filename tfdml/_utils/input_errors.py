"""Errors of the input, as opposed to errors of the program."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


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


def nearest_key(name: str, known_names: Iterable[str]) -> str:
    """Return the known name most similar to `name` as a whole or in the part after the last dot.

    Example:
        >>> nearest_key("learning_rat", ["optimizer.learning_rate", "seed"])
        'optimizer.learning_rate'
    """

    def similarity(known):
        whole = difflib.SequenceMatcher(None, name, known).ratio()
        last = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]).ratio()
        return max(whole, last), whole

    return max(known_names, key=similarity)


def unknown(kind: str, name: str, known_names: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one."""
    return f"Unknown {kind} {name!r}. Did you mean {nearest_key(str(name), known_names)!r}?"
