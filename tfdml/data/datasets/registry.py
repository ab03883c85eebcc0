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
    """Load a dataset by name.

    Use it if the name comes from a configuration; otherwise call the loader directly. `tfdml.data.load` is the same
    function.

    Args:
        identifier: A name of `names()`, case-insensitive; a configuration returned by `serialize`; or a labeled
            dataset, which is returned unchanged.
        **options: Arguments of the loader of this name in `tfdml.data`.

    Returns:
        `LabeledImages`, or `LabeledFeatures` for the name "features".

    Raises:
        ValueError: If the name or an option is unknown (the message suggests the closest one), or a required option is
            missing.
        TypeError: If the identifier has another type.
        FileNotFoundError: If the dataset is missing; the message says how to get it.

    Example:
        >>> get("digits").images.shape
        (1797, 8, 8, 1)
    """
    return _REGISTRY.get(identifier, **options)


load = get
