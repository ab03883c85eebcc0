"""Relations by name."""

from __future__ import annotations

from typing import Any

from tfdml._utils.registry import Registry
from tfdml.relations.base import Relation
from tfdml.relations.overlap import Overlap
from tfdml.relations.pairs import Pairs
from tfdml.relations.same_class import SameClass
from tfdml.relations.within import Within

_REGISTRY = Registry(
    "relation", Relation, {"overlap": Overlap, "pairs": Pairs, "same_class": SameClass, "within": Within}
)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> Relation:
    """Create a relation from an identifier.

    Args:
        identifier: One of: a name from `names()` or of a class (`"Within"`); a class; a configuration from `serialize`;
            or a `Relation`, which is returned unchanged.
        **options: Arguments of the relation, if the identifier is a name or a class.

    Returns:
        A `Relation`.

    Raises:
        ValueError: If the name is unknown (the message suggests the closest one) or does not accept an option.
        TypeError: If the identifier is none of these.

    Example:
        >>> from tfdml import relations
        >>> relations.get("within", positive=1.0, negative=2.0).negative
        2.0
    """
    return _REGISTRY.get(identifier, **options)
