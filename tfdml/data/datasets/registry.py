"""Datasets by name."""

from __future__ import annotations

from typing import Any

from tfdml._utils.registry import Registry
from tfdml.data.labeled_samples import LabeledSamples

_REGISTRY = Registry("dataset", LabeledSamples)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> LabeledSamples:
    """Loads a dataset.

    `tfdml.data.load` is the same function.

    Args:
        identifier: A name of `names()` in any case; a configuration, as `serialize` gives it; or a labeled set, which
            is returned as it is.
        **options: Arguments of the function of the same name in `tfdml.data`.

    Returns:
        A `LabeledImages`; for the name "features" a `LabeledFeatures`.

    Raises:
        ValueError: If the name or an option is unknown (the nearest right one is suggested), or an option is missing.
        TypeError: If the identifier is none of these.
        FileNotFoundError: If the data are not there; the message says how to get them.

    Example:
        >>> get("digits").images.shape
        (1797, 8, 8, 1)
    """
    return _REGISTRY.get(identifier, **options)


load = get
