"""Check names and options, and suggest the closest valid ones."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings

_OF_KERAS = ("name", "dtype", "trainable", "reduction")


def nearest_name(name, known, cutoff=0.0):
    """Return the known name most similar to another, as a whole or in the part after the last dot.

    Args:
        name: str. The name.
        known: Known names.
        cutoff: float from 0 to 1. Similarity below which nothing is returned. Default 0.

    Returns:
        str, or `None` if no name is similar enough.

    Example:
        >>> nearest_name("learning_rat", ["optimizer.learning_rate", "seed"])
        'optimizer.learning_rate'
    """

    def similarity(other):
        whole = difflib.SequenceMatcher(None, name, other).ratio()
        last = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], other.rsplit(".", 1)[-1]).ratio()
        return max(whole, last), whole

    nearest = max(known, key=similarity, default=None)
    return None if nearest is None or similarity(nearest)[0] < cutoff else nearest


def suggestion(name, known):
    """Return the question whether the most similar name was meant, after a space, or "" if none is similar."""
    nearest = nearest_name(name, known, cutoff=0.6)
    return "" if nearest is None else f" Did you mean {nearest!r}?"


def unknown_name(kind, name, known):
    """Return a ValueError that suggests the closest valid name and lists all of them.

    Args:
        kind: str. Kind of object that is named, for the message.
        name: The unknown name.
        known: Valid names, in lower case.

    Example:
        >>> print(unknown_name("loss", "contrastve", ["c1", "contrastive"]))
        Unknown loss. Received: 'contrastve'. Expected: one of ['c1', 'contrastive']. Did you mean 'contrastive'?
    """
    hint = suggestion(str(name).lower(), known)
    return ValueError(f"Unknown {kind}. Received: {name!r}. Expected: one of {sorted(known)}.{hint}")


def accepted_options(factory):
    """Return the names of the options that a factory accepts, those of its own class first.

    Args:
        factory: Class, function or `functools.partial`. Options accepted by `**kwargs` of a class are looked up in its
            base classes.

    Returns:
        List of names, or `None` if any name is accepted.
    """
    given = 0
    while isinstance(factory, functools.partial):
        given += len(factory.args)
        factory = factory.func
    if not inspect.isclass(factory):
        names, is_open = _keywords(factory)
        return None if is_open else names[given:]
    accepted, is_open = [], True
    for kind in factory.__mro__:
        if not is_open or kind is object:
            break
        if "__init__" not in vars(kind):
            continue
        names, is_open = _keywords(vars(kind)["__init__"])
        if kind is not factory and kind.__module__.partition(".")[0] == "keras":
            # Only some options of Keras' base classes are useful here.
            names, is_open = [name for name in names if name in _OF_KERAS], False
        accepted += [name for name in names if name not in accepted]
    return accepted[given:]


def check_options(kind, name, accepted, options):
    """Raise a ValueError that lists the valid options if an option is unknown.

    Args:
        kind: str. Kind of object that has the options, for the message.
        name: str. Its name, for the message.
        accepted: Names of the valid options, or `None` if any name is valid.
        options: dict of options, or their names.

    Example:
        >>> check_options("loss", "mine", ["size"], {"siz": 0.5})
        Traceback (most recent call last):
        ValueError: Loss 'mine' does not take these options. Received: 'siz'. Expected: 'size'. Did you mean 'size'?
    """
    if accepted is None:
        return
    unknown = [option for option in options if option not in accepted]
    if unknown:
        hint = suggestion(str(unknown[0]), accepted)
        raise ValueError(
            f"{kind[:1].upper()}{kind[1:]} {name!r} does not take these options. Received: {listed(unknown)}. "
            f"Expected: {listed(accepted)}.{hint}"
        )


def _keywords(function):
    """Return the names of keyword arguments, and whether arbitrary keywords are accepted."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def listed(names):
    """Format names for a message; `None` means any name."""
    return "any" if names is None else ", ".join(repr(name) for name in names) or "none"


def former_names(module, **names):
    """Return a module's `__getattr__` that resolves former names of functions with a DeprecationWarning.

    Args:
        module: str. Name of the module.
        **names: Former names and the current names in the module.
    """

    def getattr_of_module(name):
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {module}.{names[name]}.", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return getattr_of_module
