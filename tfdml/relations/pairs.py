"""Pairs that are given: a matrix, a function of ids, or lists of pairs or triplets."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Set
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_choice
from tfdml._utils.types import ArrayLike, Config
from tfdml.ops.pair_masks import PairMasks
from tfdml.relations.base import Relation, outer

_POSITIVE, _NEGATIVE, _NOTHING = 1, -1, 0
_SHOWN = 5


@keras.saving.register_keras_serializable(package="tfdml")
class Pairs(Relation):
    """Pairs of samples that are given one by one. Labels are the ids of the samples.

    Use it if you know which samples belong together, but no classes: a query and the items that were clicked, two
    photographs of one place, judgments of people. There are four ways to state the pairs:

    - `Pairs(matrix)`: the entry `[i, j]` is for the pair of the ids i and j, which number the samples from 0.
    - `Pairs(function)`: a function of two tensors of ids, called with a column `(batch, 1)` and a row `(1, others)`.
    - `Pairs.from_pairs(positives, negatives)`: lists of pairs of ids, which can be any integers.
    - `Pairs.from_triplets(triplets)`: a list of (anchor, positive, negative).

    Relations are not transitive: if (i, j) and (j, k) are positive, (i, k) is only if it is given. Equal ids are the
    same sample: other views of it in a batch and its past embeddings in a memory are positive.

    Args:
        pairs: A matrix `(n, n)`: bool, where `True` is positive and `False` negative, or of 1 (positive), -1 (negative)
            and 0 (counts for nothing). Or a function of (ids, other ids) that returns such values for all pairs; to
            save a model with it, register it with `keras.saving.register_keras_serializable`.

    Raises:
        ValueError: If the matrix is not square, has other values, or has no positive or no negative pair; or if a pair
            of a sample with itself is negative.
        TypeError: If `pairs` is neither a matrix nor a function.

    Example:
        >>> import numpy as np
        >>> from tfdml import relations
        >>> clicked = relations.Pairs.from_pairs([(0, 10), (1, 11)])  # all other pairs are negative
        >>> clicked.masks([0, 1], [10, 11, 12]).positives.numpy().astype(int).tolist()
        [[1, 0, 0], [0, 1, 0]]
        >>> neighbors = relations.Pairs(lambda frame, other: abs(frame - other) <= 2)
        >>> neighbors.masks([7], [5, 8, 99]).negatives.numpy().astype(int).tolist()
        [[0, 0, 1]]
    """

    _problem = "Labels must be ids of samples that the pairs name"

    def __init__(self, pairs: ArrayLike | Callable[..., Any]) -> None:
        if isinstance(pairs, (_Matrix, _Lists, _Function)):
            self._pairs: Any = pairs
        elif callable(pairs):
            self._pairs = _Function(pairs)
        else:
            self._pairs = _Matrix(_checked_matrix(pairs))

    @classmethod
    def from_pairs(
        cls,
        positives: ArrayLike,
        negatives: ArrayLike | None = None,
        others: Literal["negative", "ignore"] | None = None,
        symmetric: bool = True,
    ) -> Pairs:
        """Create a relation from lists of pairs of ids.

        Args:
            positives: Integers `(p, 2)`, or a set of pairs. The ids of the positive pairs.
            negatives: Integers `(q, 2)`, a set of pairs, or `None`. The ids of the negative pairs. Default: `None`.
            others: `"negative"` or `"ignore"`: whether pairs in neither list are negative or count for nothing. `None`
                ignores them if `negatives` is given. Default: `None`.
            symmetric: bool. Whether (i, j) also stands for (j, i). Default: `True`.

        Returns:
            `Pairs`.

        Raises:
            ValueError: If there is no positive pair, no pair can be negative, a pair is in both lists or joins a sample
                with itself, or a list is not one of pairs of integers.

        Example:
            >>> from tfdml import relations
            >>> known = relations.Pairs.from_pairs([(1, 2)], negatives=[(1, 3)])
            >>> positives, negatives = known.masks([1], [2, 3, 4])
            >>> positives.numpy().astype(int).tolist(), negatives.numpy().astype(int).tolist()
            ([[1, 0, 0]], [[0, 1, 0]])
        """
        if others is None:
            others = "negative" if negatives is None else "ignore"
        check_choice("others", others, ("negative", "ignore"))
        return cls(_Lists(_id_rows(positives, 2, "positives"),
                          _id_rows([] if negatives is None else negatives, 2, "negatives"), others,
                          bool(symmetric)))  # fmt: skip

    @classmethod
    def from_triplets(cls, triplets: ArrayLike, symmetric: bool = False) -> Pairs:
        """Create a relation from triplets of ids: (anchor, positive) is positive and (anchor, negative) negative.

        All other pairs count for nothing. A loss on triplets compares each positive of an anchor with each of its
        negatives, also of other given triplets of the same anchor.

        Args:
            triplets: Integers `(t, 3)`. Ids of (anchor, positive, negative).
            symmetric: bool. Whether (i, j) also stands for (j, i), so that positives and negatives are anchors, too.
                Default: `False`.

        Returns:
            `Pairs`.

        Raises:
            ValueError: If there are no triplets, a pair is positive in one and negative in another, or a sample is its
                own positive or negative.

        Example:
            >>> from tfdml import relations
            >>> judged = relations.Pairs.from_triplets([(0, 1, 2), (0, 3, 4)])
            >>> judged.masks([0, 1], [1, 2, 3]).positives.numpy().astype(int).tolist()
            [[1, 0, 1], [1, 0, 0]]
        """
        rows = _id_rows(triplets, 3, "triplets")
        return cls(_Lists(rows[:, :2], rows[:, [0, 2]], "ignore", bool(symmetric)))

    @property
    def _expected(self):  # type: ignore[override]
        return self._pairs.expected

    def masks(self, labels: tf.Tensor, others: tf.Tensor) -> PairMasks:
        ids, other_ids = tf.cast(labels, tf.int64), tf.cast(others, tf.int64)
        return self._pairs.masks(ids, other_ids)

    def sound(self, labels: tf.Tensor) -> tf.Tensor:
        return super().sound(labels) & self._pairs.sound(labels)

    def get_config(self) -> Config:
        return self._pairs.config()

    @classmethod
    def from_config(cls, config: Config) -> Pairs:
        kinds: dict[str, Any] = {kind.kind: kind for kind in (_Matrix, _Lists, _Function)}
        config = dict(config)
        kind = check_choice("kind", config.pop("kind", None), tuple(kinds))
        return cls(kinds[kind].from_config(**config))

    def __repr__(self) -> str:
        return f"Pairs({self._pairs})"


class _Matrix:
    """Codes of all pairs of ids from 0."""

    kind = "matrix"

    def __init__(self, codes):
        self.codes = codes

    @property
    def expected(self):
        return f"integers from 0 to {len(self.codes) - 1}, the rows of the matrix"

    def sound(self, ids):
        return (ids >= 0) & (ids < len(self.codes))

    def masks(self, ids, others):
        # Ids that are wrong have no pair; `encode` reports them.
        last = len(self.codes) - 1
        rows = tf.gather(tf.constant(self.codes), tf.clip_by_value(ids, 0, last))
        codes = tf.gather(rows, tf.clip_by_value(others, 0, last), axis=1)
        known = self.sound(ids)[:, None] & self.sound(others)[None, :]
        return PairMasks((codes == _POSITIVE) & known, (codes == _NEGATIVE) & known)

    def config(self):
        packed = base64.b64encode(zlib.compress(self.codes.tobytes())).decode("ascii")
        return {"kind": self.kind, "size": len(self.codes), "codes": packed}

    @classmethod
    def from_config(cls, size, codes):
        # The limit keeps a small file from filling the memory; 0 would mean none.
        data = zlib.decompressobj().decompress(base64.b64decode(codes), max(size * size, 1))
        return cls(_checked_matrix(np.frombuffer(data, np.int8).reshape(size, size).copy()))

    def __str__(self):
        return f"matrix of {len(self.codes)} samples"


class _Function:
    """A function of ids."""

    kind = "function"
    expected = "integer ids"

    def __init__(self, function):
        self.function = function

    def sound(self, ids):
        return tf.ones(tf.shape(ids), tf.bool)

    def masks(self, ids, others):
        column, row = outer(ids, others)
        found = tf.convert_to_tensor(self.function(column, row))
        shape = (tf.shape(ids)[0], tf.shape(others)[0])
        if found.shape.rank not in (None, 0, 2):
            raise ValueError(
                f"The function of the pairs returns a wrong shape. Received: {found.shape} for ids (batch, 1) and "
                "(1, others). Expected: (batch, others). Use operations that broadcast."
            )
        if found.dtype == tf.bool:
            positives = tf.broadcast_to(found, shape)
            negatives = ~positives
        else:
            found = tf.broadcast_to(found, shape)
            positives, negatives = found > 0, found < 0
        same = column == row
        return PairMasks(positives | same, negatives & ~same)

    def config(self):
        return {"kind": self.kind, "function": keras.saving.get_registered_name(self.function)}

    @classmethod
    def from_config(cls, function):
        found = keras.saving.get_registered_object(function)
        if found is None:
            raise ValueError(
                f"The function of the pairs is not registered. Received: {function!r}. Expected: the name of a "
                "function registered with `keras.saving.register_keras_serializable`. Import the module that registers "
                "it first; a lambda cannot be loaded."
            )
        return cls(found)

    def __str__(self):
        return getattr(self.function, "__name__", repr(self.function))


class _Lists:
    """Lists of positive and negative pairs of any ids, found by binary search."""

    kind = "lists"
    expected = "integer ids"

    def __init__(self, positives, negatives, others, symmetric):
        self.positives, self.negatives, self.others, self.symmetric = positives, negatives, others, symmetric
        if not len(positives) or (not len(negatives) and others == "ignore"):
            kind = "positive" if not len(positives) else "negative"
            raise ValueError(
                f"The relation is empty: no pair is {kind}. Received: {len(positives)} positive and {len(negatives)} "
                f"negative pairs, others={others!r}. Expected: positive pairs, and negative ones or others='negative'."
            )
        for name, rows in (("positive", positives), ("negative", negatives)):
            alone = rows[rows[:, 0] == rows[:, 1]]
            if len(alone):
                raise ValueError(
                    f"A pair joins a sample with itself. Received: the {name} pair {tuple(alone[0].tolist())}. "
                    "Expected: two ids; a sample is always positive to other views of itself."
                )
        self.ids = np.unique(np.concatenate([positives, negatives]))
        self.keys = self._keys(positives), self._keys(negatives)
        both = [divmod(int(key), len(self.ids)) for key in np.intersect1d(*self.keys)]
        both = [pair for pair in both if not self.symmetric or pair[0] < pair[1]]
        if both:
            named = [tuple(self.ids[list(pair)].tolist()) for pair in both[:_SHOWN]]
            raise ValueError(
                f"{len(both)} pairs contradict each other. Received: {named} as positive and negative. Expected: each "
                "pair in one of the lists."
            )

    def _keys(self, rows):
        """One sorted number per pair."""
        first, second = np.searchsorted(self.ids, rows).T.astype(np.int64)
        keys = first * len(self.ids) + second
        if self.symmetric:
            keys = np.concatenate([keys, second * len(self.ids) + first])
        return np.unique(keys)

    def sound(self, ids):
        return tf.ones(tf.shape(ids), tf.bool)

    def masks(self, ids, others):
        first, is_first = _find(self.ids, ids)
        second, is_second = _find(self.ids, others)
        keys = first[:, None] * len(self.ids) + second[None, :]
        known = is_first[:, None] & is_second[None, :]
        same = ids[:, None] == others[None, :]
        positives = (_find(self.keys[0], keys)[1] & known) | same
        if self.others == "negative":
            return PairMasks(positives, ~positives)
        return PairMasks(positives, _find(self.keys[1], keys)[1] & known & ~same)

    def config(self):
        return {
            "kind": self.kind,
            "positives": self.positives.tolist(),
            "negatives": self.negatives.tolist(),
            "others": self.others,
            "symmetric": self.symmetric,
        }

    @classmethod
    def from_config(cls, positives, negatives, others, symmetric):
        return cls(_id_rows(positives, 2, "positives"), _id_rows(negatives, 2, "negatives"), others, symmetric)

    def __str__(self):
        return f"{len(self.positives)} positive and {len(self.negatives)} negative, others={self.others!r}"


def _find(ordered, values):
    """The place of each value in a sorted array, and whether it is there."""
    if not len(ordered):
        return tf.zeros(tf.shape(values), tf.int64), tf.zeros(tf.shape(values), tf.bool)
    last, ordered = len(ordered) - 1, tf.constant(ordered, tf.int64)
    flat = tf.reshape(values, (-1,))
    place = tf.minimum(tf.searchsorted(ordered, flat, out_type=tf.int64), last)
    found = tf.gather(ordered, place) == flat
    return tf.reshape(place, tf.shape(values)), tf.reshape(found, tf.shape(values))


def _id_rows(rows, width, name):
    """Return a list or set of pairs or triplets as an int64 array."""
    array = np.asarray(list(rows) if isinstance(rows, (Set, Iterator)) else rows)
    if array.size == 0:
        return np.zeros((0, width), np.int64)
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} is not a list of {'pairs' if width == 2 else 'triplets'} of ids. Received: an array of shape "
            f"{array.shape} and type {array.dtype}. Expected: integers (n, {width})."
        )
    return array.astype(np.int64)


def _checked_matrix(matrix):
    """Return the codes of a matrix of pairs, int8 `(n, n)` with ones on the diagonal."""
    array = np.asarray(matrix)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"This does not state pairs. Received: {matrix!r:.80}. Expected: a matrix (n, n) or a function of ids. Use "
            "`Pairs.from_pairs` for lists of pairs."
        )
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(
            f"The matrix of pairs is not square. Received: shape {array.shape}. Expected: (n, n), one row and column "
            "per sample. Use `Pairs.from_pairs` for lists of pairs."
        )
    if array.dtype == bool:
        codes = np.where(array, _POSITIVE, _NEGATIVE).astype(np.int8)
        np.fill_diagonal(codes, _POSITIVE)
    else:
        wrong = array[~np.isin(array, (_POSITIVE, _NEGATIVE, _NOTHING))]
        if wrong.size:
            raise ValueError(
                f"The matrix of pairs has other values. Received: {wrong.reshape(-1)[0]}. Expected: 1 for positive "
                "pairs, -1 for negative ones and 0 for others, or a bool matrix."
            )
        codes = array.astype(np.int8)
        if (np.diagonal(codes) == _NEGATIVE).any():
            place = int(np.argmax(np.diagonal(codes) == _NEGATIVE))
            raise ValueError(
                f"The matrix of pairs contradicts itself: a sample is its own negative. Received: -1 at [{place}, "
                f"{place}]. Expected: 0 or 1 on the diagonal."
            )
        np.fill_diagonal(codes, _POSITIVE)
    off_diagonal = ~np.eye(len(codes), dtype=bool)
    for code, name in ((_POSITIVE, "positive"), (_NEGATIVE, "negative")):
        if not (codes[off_diagonal] == code).any():
            raise ValueError(
                f"The relation is empty: no pair is {name}. Received: a matrix of type {array.dtype} without such a "
                "pair. Expected: 1 for positive pairs and -1 for negative ones; a bool matrix is negative where it is "
                "False."
            )
    return codes
