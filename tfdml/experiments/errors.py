"""Errors of the input, as opposed to the program."""

from __future__ import annotations

import contextlib
import difflib
import re


class InputError(ValueError):
    """Input that cannot be used; the commands show the message without a traceback."""


class RecipeError(InputError):
    """A recipe, or an override of one, that cannot be used."""


class RunFolderError(InputError):
    """A folder that cannot be made, or is not a run's."""


def nearest_key(name, known_names):
    """The known name that was most likely meant: similar as a whole, or in what follows the last dot."""

    def likeness(known):
        whole = difflib.SequenceMatcher(None, name, known).ratio()
        last = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]).ratio()
        return max(whole, last), whole

    return max(known_names, key=likeness)


def line_of(error):
    """The message of TensorFlow's error in one line: that of our own error inside it, if there is one."""
    message = str(getattr(error, "message", error))
    own = re.search(r"Unreadable image\..*", message)
    return own.group() if own else " ".join(message.split())[:300]


def unknown(kind, name, known_names):
    """The message of an unknown name, with the nearest known one."""
    return f"Unknown {kind} {name!r}. Did you mean {nearest_key(str(name), known_names)!r}?"


@contextlib.contextmanager
def recipe_errors(section, **keys):
    """Re-raises errors of a constructor as RecipeError that begins with the recipe's key.

    Args:
        section: The section of the recipe that has the arguments.
        **keys: From an argument's name to the key, where they differ.
    """
    try:
        yield
    except RecipeError:
        raise
    except (ValueError, TypeError) as error:
        argument = re.match(r"(?:.*\W)?Received: (\w+)=", str(error))
        key = f"{section}.{keys.get(argument[1], argument[1])}: " if argument else ""
        raise RecipeError(f"{key}{error}") from error


@contextlib.contextmanager
def input_errors():
    """Re-raises ValueError, TypeError and OSError as InputError."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise InputError(str(error)) from error
