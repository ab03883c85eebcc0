"""Batches of anchors with some of their positives, for relations of labels that are not classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml import relations
from tfdml._utils.arguments import check_positive, check_whole_number
from tfdml._utils.types import ArrayLike, Identifier

# Pairs of labels that are compared at once.
_PAIRS_PER_BLOCK = 2**22
_ANCHORS, _PARTNERS = 0, 1
_logger = logging.getLogger(__name__)


class RelatedSampler:
    """Selects batches of `anchors_per_batch` anchors, each with `samples_per_anchor - 1` of its positives.

    Use it to build your own input pipeline for a loss with a relation; `related_batches` uses it for datasets. Batch t
    is determined by (seed, t).

    **Anchors.** Each epoch visits all samples that have a positive once, in a new random order. With `groups`, it
    visits all groups once, each with a random anchor, so that places with many photographs or frequent tags do not
    dominate: the cells of `position_cells`, the multi-hot tags themselves, or any numbers. If the last batch of an
    epoch is not full, random others fill it.

    **Positives.** Those of an anchor are drawn at random, distinct and not in the batch already if there are enough;
    an anchor with too few repeats them. Other positives and the negatives come from the other anchors of the batch.

    All pairs of labels are compared once, block by block, to find the samples without a positive. They are left out as
    anchors, and a warning counts them; they are never drawn.

    Args:
        labels: Array `(n,)` or `(n, k)`. What the relation compares.
        relation: `tfdml.relations.Relation`, a name or a configuration.
        anchors_per_batch: int, >= 1. Number of distinct anchors in a batch.
        samples_per_anchor: int, >= 2. Number of samples for each anchor, itself included.
        seed: int, at least 0.
        groups: Integers `(n,)`, or a bool or 0/1 matrix `(n, groups)` if a sample is in several groups. `None` visits
            all anchors equally often. Default `None`.

    Attributes:
        steps_per_epoch: Number of batches that visit every anchor, or every group, once.
        batch_size: Number of samples in a batch.

    Raises:
        ValueError: If no sample has a positive, a pair is positive and negative, there are fewer anchors or groups than
            `anchors_per_batch`, a label or a number is invalid, or the groups do not fit the samples.

    Example:
        >>> from tfdml import relations
        >>> sampler = RelatedSampler([0.0, 0.5, 5.0, 5.5], relations.Within(1.0, 2.0), 2, 2, seed=0)
        >>> sorted(sampler.batch(0).tolist()), sampler.steps_per_epoch
        ([0, 1, 2, 3], 2)
    """

    def __init__(
        self,
        labels: ArrayLike,
        relation: Identifier,
        anchors_per_batch: int,
        samples_per_anchor: int,
        seed: int,
        groups: ArrayLike | None = None,
    ) -> None:
        self.relation = relations.get(relation)
        self.anchors_per_batch = check_whole_number("anchors_per_batch", anchors_per_batch, minimum=1)
        self.samples_per_anchor = check_whole_number("samples_per_anchor", samples_per_anchor, minimum=2)
        self.seed = check_whole_number("seed", seed, minimum=0)
        with tf.device("/CPU:0"):
            self._labels = self.relation.encode(labels)
        self._anchors = np.flatnonzero(self._positive_counts())
        count = len(self._labels)
        if not len(self._anchors):
            raise ValueError(
                f"The relation is empty: no sample has a positive. Received: {count} labels with {self.relation!r}. "
                "Expected: at least one positive pair."
            )
        if len(self._anchors) < count:
            _logger.warning("%d of %d samples have no positive and are left out.", count - len(self._anchors), count)
        self._members = None if groups is None else self._members_of(groups)
        units = len(self._anchors if self._members is None else self._members)
        if self.anchors_per_batch > units:
            kind = "anchors" if self._members is None else "groups"
            raise ValueError(
                f"A batch cannot contain more {kind} than the samples have. Received: anchors_per_batch="
                f"{self.anchors_per_batch}. Expected: at most {units}."
            )
        self._units = units
        # The number of an epoch and its anchors, replaced as a whole: batches are computed in threads.
        self._known: tuple[int, np.ndarray] | None = None
        self.steps_per_epoch = math.ceil(units / self.anchors_per_batch)
        self.batch_size = self.anchors_per_batch * self.samples_per_anchor

    def batch(self, number: int) -> np.ndarray:
        """Return the indices of one batch; each anchor is followed by its positives.

        Args:
            number: int. Number of the batch, from 0.

        Returns:
            Integer array `(batch_size,)`.
        """
        epoch, step = divmod(int(number), self.steps_per_epoch)
        anchors = self._anchors_of(epoch)[step]
        rng = np.random.default_rng([self.seed, _PARTNERS, epoch, step])
        is_taken = np.zeros(len(self._labels), bool)
        is_taken[anchors] = True
        rows = np.empty((len(anchors), self.samples_per_anchor), np.int64)
        for row, anchor, is_positive in zip(rows, anchors, self._positives(anchors)):
            row[0] = anchor
            row[1:] = self._partners(np.flatnonzero(is_positive), is_taken, rng)
            is_taken[row] = True
        return rows.reshape(-1)

    def epoch(self, number: int) -> np.ndarray:
        """Return the indices of the batches of one epoch.

        Args:
            number: int. Number of the epoch, from 0.

        Returns:
            Integer array `(steps_per_epoch, batch_size)`.
        """
        first = number * self.steps_per_epoch
        return np.stack([self.batch(first + step) for step in range(self.steps_per_epoch)])

    def _partners(self, positives, is_taken, rng):
        """Draw positives of an anchor: first those that are not in the batch, then the others, then any again."""
        wanted = self.samples_per_anchor - 1
        drawn = rng.permutation(positives)
        drawn = drawn[np.argsort(is_taken[drawn], kind="stable")]
        return np.resize(drawn, wanted)

    def _anchors_of(self, epoch):
        """Return the anchors of each batch of an epoch, `(steps, anchors_per_batch)`. The last ones are kept."""
        known = self._known
        if known is None or known[0] != epoch:
            self._known = known = epoch, self._drawn_anchors(epoch)
        return known[1]

    def _drawn_anchors(self, epoch):
        rng = np.random.default_rng([self.seed, _ANCHORS, epoch])
        units = rng.permutation(self._units)
        missing = self.steps_per_epoch * self.anchors_per_batch - len(units)
        if missing:
            earlier = units[: len(units) - (self.anchors_per_batch - missing)]
            units = np.concatenate([units, rng.choice(earlier, missing, replace=False)])
        units = units.reshape(self.steps_per_epoch, self.anchors_per_batch)
        if self._members is None:
            return self._anchors[units]
        anchors = np.empty_like(units)
        for row, groups in zip(anchors, units):
            for place, group in enumerate(groups):
                members = self._members[group]
                # A sample of several groups serves one of them, if the others have other samples.
                free = members[~np.isin(members, row[:place])]
                row[place] = rng.choice(free if len(free) else members)
        return anchors

    def _positives(self, rows, is_checked=True):
        """Return the masks of the positives of some samples, without themselves, bool `(rows, n)`."""
        with tf.device("/CPU:0"):
            positives, negatives = self.relation.masks(tf.gather(self._labels, rows), self._labels)
            both = 0 if is_checked else int(tf.math.count_nonzero(positives & negatives))
        if both:
            raise ValueError(
                f"Pairs contradict each other. Received: {both} pairs that are positive and negative, of "
                f"{self.relation!r}. Expected: disjoint masks."
            )
        positives = np.array(positives)
        positives[np.arange(len(rows)), rows] = False
        return positives

    def _positive_counts(self):
        count = len(self._labels)
        size = max(1, _PAIRS_PER_BLOCK // max(count, 1))
        blocks = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
        counts = [self._positives(rows, is_checked=False).sum(axis=1) for rows in blocks]
        return np.concatenate(counts or [np.zeros(0, int)])

    def _members_of(self, groups):
        """Return the anchors of each group that has some."""
        groups = np.asarray(groups)
        if groups.shape[:1] != (len(self._labels),) or groups.ndim > 2 or groups.dtype.kind not in "biu":
            raise ValueError(
                f"Groups must be one for each sample. Received: groups of shape {groups.shape} and type "
                f"{groups.dtype}. Expected: integers ({len(self._labels)},), or a matrix ({len(self._labels)}, groups) "
                "of 0 and 1."
            )
        if groups.ndim == 1:
            _, numbers = np.unique(groups[self._anchors], return_inverse=True)
            order = np.argsort(numbers, kind="stable")
            return np.split(self._anchors[order], np.cumsum(np.bincount(numbers))[:-1])
        members = [self._anchors[group] for group in (groups[self._anchors] != 0).T]
        return [group for group in members if len(group)]


def position_cells(positions: ArrayLike, size: float) -> np.ndarray:
    """Number the cells of a grid that positions lie in.

    Use it as `groups` of `related_batches`, so that each place is visited equally often, or as class labels for losses
    that need classes.

    Args:
        positions: `(n,)` or `(n, k)`. Positions of the samples.
        size: float, > 0. Side of a cell.

    Returns:
        int64 array `(n,)`. Numbers of the cells from 0 without gaps, in the order of their coordinates.

    Raises:
        ValueError: If a position is not finite or the size is not positive.

    Example:
        >>> position_cells([[0.1, 0.2], [3.0, 0.0], [0.4, 0.3]], size=0.5).tolist()
        [0, 1, 0]
    """
    size = check_positive("size", size)
    array = np.asarray(positions, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("Positions are not finite. Received: NaN or infinity. Expected: numbers.")
    cells = np.floor(array.reshape(len(array), -1) / size).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def encode_tags(
    tags: Sequence[Sequence[Any]], names: Sequence[Any] | None = None
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Encode lists of tags as a multi-hot matrix, for `tfdml.relations.Overlap`.

    Args:
        tags: Sequence of `n` sequences of tags (strings or integers), in any order.
        names: Sequence of tags returned by an earlier call, to encode other samples consistently. `None` uses the
            distinct tags in sorted order. Default `None`.

    Returns:
        Pair (matrix, names): int64 array `(n, len(names))` of 0 and 1, and a tuple of tags.

    Raises:
        ValueError: If a sample has no tags, or a tag is not in `names`.
        TypeError: If the tags of a sample are a string instead of a sequence of strings.

    Example:
        >>> matrix, names = encode_tags([["sea", "sky"], ["sky"]])
        >>> matrix.tolist(), names
        ([[1, 1], [0, 1]], ('sea', 'sky'))
    """
    for index, some in enumerate(tags):
        if isinstance(some, (str, bytes)):
            raise TypeError(
                f"Tags must be a sequence for each sample. Received: {some!r} of sample {index}. Expected: [{some!r}]."
            )
        if not len(some):
            raise ValueError(
                f"A sample has no tags. Received: an empty sequence for sample {index}. Expected: at least one tag; "
                "leave samples without tags out."
            )
    names = tuple(sorted({tag for some in tags for tag in some}) if names is None else names)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted({repr(tag) for some in tags for tag in some if tag not in numbers})
    if unknown:
        raise ValueError(
            f"Tags are not among the names. Received: {', '.join(unknown[:5])}. Expected: one of {len(names)} names."
        )
    matrix = np.zeros((len(tags), len(names)), np.int64)
    for row, some in zip(matrix, tags):
        row[[numbers[tag] for tag in some]] = 1
    return matrix, names
