"""Names and options: which are known, and the nearest of them."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings

_OF_KERAS = ("name", "dtype", "trainable", "reduction")


def unknown_name(kind, name, known):
    """A ValueError that tells the nearest right name and all of them.

    Args:
        kind: What the name is of, for the message.
        name: The name that was received.
        known: The right names, in lower case.

    Example:
        >>> print(unknown_name("loss", "contrastve", ["c1", "contrastive"]))
        Unknown loss. Received: 'contrastve'; expected one of ['c1', 'contrastive']. Did you mean 'contrastive'?
    """
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"Unknown {kind}. Received: {name!r}; expected one of {sorted(known)}.{hint}")


def accepted_options(factory):
    """The names of the options that a factory takes, those of its own class first.

    Args:
        factory: A class, a function or a `functools.partial` of one. What `**kwargs` of a class takes is looked up in
            its base classes.

    Returns:
        A list of names; `None` if every name is taken.
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
            # Those of the base classes of Keras that are of use here.
            names, is_open = [name for name in names if name in _OF_KERAS], False
        accepted += [name for name in names if name not in accepted]
    return accepted[given:]


def check_options(kind, name, accepted, options):
    """Raises a ValueError that names the right options if one is not among them.

    Args:
        kind: What takes the options, for the message.
        name: Its name, for the message.
        accepted: The names of the right options, or `None` if every name is right.
        options: The options, a dict or names.

    Example:
        >>> check_options("loss", "mine", ["size"], {"siz": 0.5})
        Traceback (most recent call last):
        ValueError: Loss 'mine' does not take these options. Received: 'siz'. Expected: 'size'. Did you mean 'size'?
    """
    if accepted is None:
        return
    unknown = [option for option in options if option not in accepted]
    if unknown:
        nearest = difflib.get_close_matches(str(unknown[0]), accepted, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"{kind[:1].upper()}{kind[1:]} {name!r} does not take these options. Received: {listed(unknown)}. "
            f"Expected: {listed(accepted)}.{hint}"
        )


def _keywords(function):
    """Names of the arguments that can be given by keyword, and whether any other can."""
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def listed(names):
    """Names for a message; `None` stands for any."""
    return "any" if names is None else ", ".join(repr(name) for name in names) or "none"


def former_names(module, **names):
    """A module's `__getattr__` that gives renamed functions by their former names, with a DeprecationWarning.

    Args:
        module: The name of the module.
        **names: From former names to names of the module.
    """

    def getattr_of_module(name):
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {module}.{names[name]}.", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return getattr_of_module
