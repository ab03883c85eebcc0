"""Data sets by name."""

from __future__ import annotations

import inspect

from tfdml._utils.naming import unknown_name

_LOADERS = {}


def dataset_names():
    """The names that `load` knows, sorted."""
    return sorted(_LOADERS)


def dataset_options(name):
    """The options of a data set with their defaults; `inspect.Parameter.empty` where one must be given.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _LOADERS:
        raise unknown_name("data set", name, _LOADERS)
    return {
        option: parameter.default
        for option, parameter in inspect.signature(_LOADERS[name]).parameters.items()
    }


def load(name, **options):
    """Loads a data set.

    Args:
        name: One of `dataset_names()`.
        **options: Arguments of the function of the same name in `tfdml.data`.

    Returns:
        A `LabeledImages`; for the name "features" a `LabeledFeatures`.

    Raises:
        ValueError: If the name or an option is unknown (the nearest right one is suggested), or an option is
            missing.
        FileNotFoundError: If the data are not there; the message says how to get them.

    Example:
        >>> load("digits").images.shape
        (1797, 8, 8, 1)
    """
    known = dataset_options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the data set {name!r}", option, known)
    missing = [
        option
        for option, default in known.items()
        if default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise ValueError(f"The data set {name!r} needs the option {missing[0]!r}. Received: {options!r}.")
    return _LOADERS[name](**options)
