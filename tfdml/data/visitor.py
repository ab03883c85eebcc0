"""Visits to groups: the members of a group in random order, some of them at each visit."""

from __future__ import annotations

import math
import threading

import numpy as np


class Visitor:
    """Draws members of groups: each member once before any is drawn again, and distinct ones at each visit.

    After S / gcd(n, S) orders (n members, S per visit), a visit ends exactly at the end of an order, and a new seeded
    period begins. A group with fewer than S members repeats them as evenly as possible.

    Args:
        groups: int array `(m,)`. Group of each member, from 0 without gaps.
        size: int. Number of members at a visit.
        seed: int, at least 0.
        kind: int. Distinguishes the random numbers of several visitors.
        members: int array `(m,)`. What a visit returns for each member. `None` means 0, 1, … Default `None`.
    """

    def __init__(self, groups, size, seed, kind, members=None):
        self._size, self._seed, self._kind = size, seed, kind
        counts = np.bincount(groups)
        # The members of each group, one group after the other.
        self._counts, self._first_member = counts, np.cumsum(counts) - counts
        self._members = np.argsort(groups, kind="stable")
        if members is not None:
            self._members = members[self._members]
        self._visits_per_period = counts // np.gcd(counts, size)
        # One row per visit: the visits of each group's current period.
        self._first_row = np.cumsum(self._visits_per_period) - self._visits_per_period
        # Members that a group repeats in every visit are fixed; the others are drawn for each period.
        row_group = np.repeat(np.arange(len(counts)), self._visits_per_period)
        places = np.arange(size) % counts[row_group][:, np.newaxis]
        self._rows = self._members[self._first_member[row_group][:, np.newaxis] + places]
        self._is_drawn = size % counts != 0
        self._period = np.full(len(counts), -1, np.int64)
        self._lock = threading.Lock()

    def __getstate__(self):
        # Processes that load data receive copies, but a lock cannot be copied.
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._lock = threading.Lock()

    def visit(self, groups, visits):
        """Return the members of some groups at a visit.

        Args:
            groups: Distinct integers `(g,)`.
            visits: Integers `(number of groups,)`. Number of the visit of each group, from 0.

        Returns:
            Integer array `(g, size)`.
        """
        with self._lock:
            return self._visit(groups, visits)

    def _visit(self, classes, visits):
        periods, places = np.divmod(visits[classes], self._visits_per_period[classes])
        is_new = self._is_drawn[classes] & (self._period[classes] != periods)
        if is_new.any():
            self._begin_periods(classes[is_new], periods[is_new])
        return self._rows[self._first_row[classes] + places]

    def _begin_periods(self, classes, periods):
        self._period[classes] = periods
        generators = np.array(self._generators(classes, periods), object)
        # Process classes with the same number of images together: with 11,318 classes, calls dominate the cost.
        counts = self._counts[classes]
        order = np.argsort(counts, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(counts[order])) + 1):
            count, labels = int(counts[group[0]]), classes[group]
            visits = _passes(count, self._size % count, generators[group])
            rows = self._first_row[labels][:, np.newaxis] + np.arange(visits.shape[1])
            members = self._first_member[labels][:, np.newaxis, np.newaxis] + visits
            self._rows[rows, self._size - visits.shape[2] :] = self._members[members]

    def _generators(self, labels, periods):
        """Return a generator by (seed, kind, group, period) for each group."""
        # Seeds of 32-bit words avoid a slow conversion.
        words = _words(self._seed) + _words(self._kind)
        keys = np.empty((len(labels), len(words) + 2), np.uint32)
        keys[:, :-2], keys[:, -2], keys[:, -1] = words, labels, periods
        return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))) for key in keys]


def _words(number):
    """Return the 32-bit words of an integer, lowest first, as NumPy derives them from a seed."""
    words = [number & 0xFFFFFFFF]
    while number := number >> 32:
        words.append(number & 0xFFFFFFFF)
    return words


def _passes(count, visit, generators):
    """Shuffle the images of each class several times, and cut the sequence into visits of distinct images.

    Args:
        count: int. Number of images per class.
        visit: int. Number of images per visit, fewer than `count`.
        generators: One generator per class.

    Returns:
        Integer array `(classes, visits, visit)`, below `count`.
    """
    number = visit // math.gcd(count, visit)
    things = np.broadcast_to(np.arange(count), (number, count))
    order = np.stack([generator.permuted(things, axis=1) for generator in generators])
    rows = np.arange(len(order))[:, np.newaxis]
    for index in range(1, number):
        behind = index * count % visit
        # A visit across the border starts with images of the previous order, so this order must start with others.
        is_taken = np.zeros((len(order), count), bool)
        is_taken[rows, order[:, index - 1, count - behind :]] = True
        current = order[:, index]
        is_free = ~is_taken[rows, current]
        is_head = is_free & (np.cumsum(is_free, axis=1) <= visit - behind)
        order[:, index] = current[rows, np.argsort(~is_head, axis=1, kind="stable")]
    return order.reshape(len(order), -1, visit)
