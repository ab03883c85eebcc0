"""Plans of which classes are in which batch: in proportion to their sizes, or from few super-classes."""

from __future__ import annotations

import math

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.arrays import occurrence_numbers
from tfdml.data.visitor import Visitor

_DRAW, _SUPERCLASSES = 2, 3


class InProportion:
    """Draws classes in proportion to integer weights; the classes of a batch are distinct.

    A class of weight n is drawn V n / N times per epoch on average, where N is the sum of the weights and V the number
    of places, and never differs from that by one or more. A class that would be in a batch more than once is in every
    batch once, and the others share the rest.

    Args:
        weights: int array `(classes,)`, at least 1 each.
        per_batch: int. Classes per batch, at most the number of classes.
        seed: int, at least 0.
        steps: int. Batches per epoch.
    """

    def __init__(self, weights, per_batch, seed, steps):
        self.weights, self.per_batch, self.seed, self.steps = weights.astype(np.int64), per_batch, seed, steps
        always = np.zeros(len(weights), bool)
        while True:
            places, rest = per_batch - always.sum(), self.weights[~always].sum()
            new = ~always & (places * self.weights > rest)
            if not new.any():
                break
            always |= new
        self._always, self._others = np.flatnonzero(always), np.flatnonzero(~always)

    def epoch(self, number):
        """Return the classes of each batch, integers `(steps, per_batch)`."""
        places = self.per_batch - len(self._always)
        rng = np.random.default_rng([self.seed, _DRAW, number])
        others = rng.permutation(self._others)
        # Systematic sampling, in integers: points at equal distances on a line of intervals as long as the weights.
        ends = np.cumsum(self.weights[others]) * self.steps * places
        total = int(self.weights[others].sum())
        points = rng.integers(total) + total * np.arange(self.steps * places) if places else np.zeros(0, np.int64)
        drawn = others[np.searchsorted(ends, points, side="right")]
        always = np.broadcast_to(self._always, (self.steps, len(self._always)))
        return np.concatenate([always, _dealt(drawn.reshape(places, self.steps), rng)], axis=1)


def _dealt(rows, rng):
    """Deal classes to batches at random, so that no batch has a class twice.

    Args:
        rows: Integers `(places, steps)`. One row per place in a batch. Equal classes follow each other, at most `steps`
            of them, so that a class is in at most two rows.
        rng: Generator.

    Returns:
        Integers `(steps, places)`.
    """
    places, steps = rows.shape
    batches = np.full((steps, places + 1), -1)
    for place, row in enumerate(rows):
        order = rng.permutation(steps)
        # The first class of a row goes to batches that do not have it from the row before.
        is_taken = batches[order, place - 1] == row[0]
        order = np.concatenate([order[~is_taken], order[is_taken]])
        first = np.count_nonzero(row == row[0])
        order[first:] = rng.permutation(order[first:])
        batches[order, place] = row
    return batches[:, :places]


class Hierarchical:
    """Draws the classes of a batch from a few super-classes, equally many from each.

    Args:
        superclasses: int array `(classes,)`. Super-class of each class, from 0 without gaps.
        names: Names of the super-classes, for messages.
        per_batch: int. Classes per batch.
        superclasses_per_batch: int. Super-classes per batch.
        seed: int, at least 0.

    Raises:
        ValueError: If the numbers do not divide, or there are too few super-classes, or classes of one.
    """

    def __init__(self, superclasses, names, per_batch, superclasses_per_batch, seed):
        counts = np.bincount(superclasses)
        # Super-classes can be left without classes.
        present = np.flatnonzero(counts)
        number = check_whole_number("superclasses_per_batch", superclasses_per_batch, minimum=1)
        if per_batch % number or number > len(present):
            raise ValueError(
                f"A batch cannot be divided among these super-classes. Received: superclasses_per_batch={number} with "
                f"{per_batch} classes per batch and {len(present)} super-classes. Expected: a divisor of {per_batch}, "
                f"at most {len(present)}."
            )
        size = per_batch // number
        if counts[present].min() < size:
            small = present[counts[present] < size]
            raise ValueError(
                f"Some super-classes have too few classes. Received: super-classes {names[small[:10]].tolist()} with "
                f"{counts[small[:10]].tolist()} classes. Expected: at least {size}, the classes per batch divided by "
                "superclasses_per_batch."
            )
        self.steps = math.ceil(len(superclasses) / per_batch)
        self._superclasses = Counted(InProportion(counts[present], number, seed, self.steps), len(present))
        self._classes = Visitor(np.searchsorted(present, superclasses), size, seed, _SUPERCLASSES)

    def epoch(self, number):
        """Return the classes of each batch, integers `(steps, per_batch)`."""
        drawn, visits = self._superclasses.epoch(number)
        return visit_each(self._classes, drawn, visits)


class Counted:
    """Counts how often the classes of a plan were visited before an epoch.

    Counting starts from the last epoch asked for, or from the beginning if that is later.

    Args:
        plan: `InProportion` or `Hierarchical`.
        size: int. Number of classes.
    """

    def __init__(self, plan, size):
        self._plan, self._size = plan, size
        # The number of an epoch and the visits before it, replaced as a whole: batches are computed in threads.
        self._known = (0, np.zeros(size, np.int64))

    def epoch(self, number):
        """Return the classes of each batch, and the number of earlier visits of each class."""
        known, visits = self._known
        if known > number:
            known, visits = 0, np.zeros(self._size, np.int64)
        for earlier in range(known, number):
            visits = visits + np.bincount(self._plan.epoch(earlier).reshape(-1), minlength=self._size)
        self._known = (number, visits)
        return self._plan.epoch(number), visits


def visit_each(visitor, drawn, visits):
    """Return the members of the groups of each batch.

    Args:
        visitor: `Visitor`.
        drawn: Integers `(steps, per_batch)`. Groups of each batch.
        visits: Integers `(groups,)`. Number of earlier visits of each group.

    Returns:
        Integers `(steps, per_batch · size)`.
    """
    flat = drawn.reshape(-1)
    nth = occurrence_numbers(flat)
    order = np.argsort(nth, kind="stable")
    # The first visits of all groups, then the second ones, …
    members = [
        visitor.visit(flat[places], visits + turn)
        for turn, places in enumerate(np.split(order, np.cumsum(np.bincount(nth))[:-1]))
    ]
    rows = np.empty((len(flat), members[0].shape[1]), np.int64)
    rows[order] = np.concatenate(members)
    return rows.reshape(len(drawn), -1)
