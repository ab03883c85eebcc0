"""Errors of recipes and run folders."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from tfdml._utils.input_errors import InputError as InputError


class RecipeError(InputError):
    """A recipe, or an override of one, that cannot be used."""


class RunFolderError(InputError):
    """A folder that cannot be created or is not the folder of a run."""


@contextlib.contextmanager
def recipe_errors(section: str, **keys: str) -> Iterator[None]:
    """Re-raise errors of a constructor as RecipeError that starts with the recipe's key.

    Args:
        section: str. Section of the recipe that has the arguments.
        **keys: str. Keys of arguments that have another name in the recipe.
    """
    try:
        yield
    except RecipeError:
        raise
    except (ValueError, TypeError) as error:
        argument = re.match(r"(?:.*\W)?Received: (\w+)=", str(error))
        key = f"{section}.{keys.get(argument[1], argument[1])}: " if argument else ""
        raise RecipeError(f"{key}{error}") from error


def line_of(error: Exception) -> str:
    """Return the message of a TensorFlow error in one line: that of tfdml's own error inside it, if there is one."""
    message = str(getattr(error, "message", error))
    own = re.search(r"Unreadable image\..*", message)
    return own.group() if own else " ".join(message.split())[:300]
