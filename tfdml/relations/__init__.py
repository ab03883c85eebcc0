"""Which pairs are positive: same class, common tags, close positions, or pairs that are given."""

from tfdml.relations.base import Relation
from tfdml.relations.overlap import Overlap
from tfdml.relations.pairs import Pairs
from tfdml.relations.registry import deserialize, get, names, register, serialize
from tfdml.relations.same_class import SameClass
from tfdml.relations.within import Within

__all__ = [
    "Overlap",
    "Pairs",
    "Relation",
    "SameClass",
    "Within",
    "deserialize",
    "get",
    "names",
    "register",
    "serialize",
]
