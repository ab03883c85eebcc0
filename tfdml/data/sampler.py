"""Which images go into which batch: the m-per-class sampler, in numbers."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Labels
from tfdml.data.labeled_samples import LabeledSamples, check_is_labeled, integer_column

_CLASSES, _IMAGES = 0, 1


class BalancedSampler:
    """Batches of `classes_per_batch` classes × `samples_per_class` images; batch t follows from (seed, t).

    **Classes.** Each epoch goes through a fresh permutation of all classes, so that it visits every class.
    Where the last batch of an epoch is not full, classes of a fixed rotation fill it up, so that extra visits
    are even, too.

    **Images.** The visits of a class walk through shuffled passes over its images: each is used once
    before any is used again, and where a visit lies across two passes, its images still differ. After S /
    gcd(n, S) passes (n images, S in a visit) visits and passes end together, and a new seeded period
    begins. A class with fewer than S images repeats each as evenly as possible.

    How often a class was visited before batch t, and thus which period and visit come next, are formulas:
    going on from any batch costs as much as starting.

    Args:
        labels: Integers `(n,)` or `(n, 1)`, of any type, which number the classes from 0 without gaps; see
            `encode_labels`.
        classes_per_batch: Distinct classes in a batch.
        samples_per_class: Images of each of them.
        seed: Integer of at least 0.
        class_names: Names for messages, or `None`.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If a class has fewer than two images (they are named), labels are negative or leave classes out,
            there are fewer classes than `classes_per_batch`, or a number is out of range.
    """

    def __init__(
        self,
        labels: Labels,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int,
        class_names: Sequence[str] | None = None,
    ) -> None:
        labels = integer_column(labels)
        self.seed = check_whole_number("seed", seed, minimum=0)
        self.samples_per_class = check_whole_number("samples_per_class", samples_per_class, minimum=1)
        self.num_classes = _number_of_classes(labels, class_names)
        self.classes_per_batch = _check_classes_per_batch(classes_per_batch, self.num_classes)
        self.steps_per_epoch = math.ceil(self.num_classes / self.classes_per_batch)

        counts = np.bincount(labels, minlength=self.num_classes)
        _check_counts(counts, class_names)
        # The images of each class, one class after the other.
        self._counts, self._first_member = counts, np.cumsum(counts) - counts
        self._members = np.argsort(labels, kind="stable")
        self._visits_per_period = counts // np.gcd(counts, self.samples_per_class)
        # The visits of each class' current period, one below the other.
        self._first_row = np.cumsum(self._visits_per_period) - self._visits_per_period
        # What a class repeats in each visit stands there for good; the rest is drawn for each period.
        row_class = np.repeat(np.arange(self.num_classes), self._visits_per_period)
        places = np.arange(self.samples_per_class) % counts[row_class][:, np.newaxis]
        self._rows = self._members[self._first_member[row_class][:, np.newaxis] + places]
        self._is_drawn = self.samples_per_class % counts != 0
        self._period = np.full(self.num_classes, -1, np.int64)
        self._lock = threading.Lock()

        self._fill = self.steps_per_epoch * self.classes_per_batch - self.num_classes
        self._rotation = self._generator(_CLASSES).permutation(self.num_classes)
        self._place_in_rotation = np.argsort(self._rotation)

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.classes_per_batch * self.samples_per_class

    def epoch(self, number: int) -> np.ndarray:
        """Indices of one epoch's images, `(steps_per_epoch, batch_size)`; a batch is grouped by class."""
        classes = self._classes_of_epoch(number)
        visits = number + self._extra_visits(number)
        with self._lock:
            # A class that fills the last batch up is met a second time, one visit later.
            rows = self._visit(classes[: self.num_classes], visits)
            fillers = classes[self.num_classes :]
            visits[fillers] += 1
            rows = np.concatenate([rows, self._visit(fillers, visits)])
        return rows.reshape(self.steps_per_epoch, self.batch_size)

    def batch(self, number: int) -> np.ndarray:
        """Indices of the images of batch `number` from 0, `(batch_size,)`."""
        epoch, step = divmod(number, self.steps_per_epoch)
        return self.epoch(epoch)[step]

    def _generator(self, *key):
        return np.random.default_rng([self.seed, *key])

    def _fillers(self, epoch):
        places = np.arange(epoch * self._fill, (epoch + 1) * self._fill) % self.num_classes
        return self._rotation[places]

    def _extra_visits(self, epoch):
        """How often each class was a filler in the epochs before this one."""
        return (epoch * self._fill + self.num_classes - 1 - self._place_in_rotation) // self.num_classes

    def _classes_of_epoch(self, epoch):
        classes = self._generator(_CLASSES, 1, epoch).permutation(self.num_classes)
        if not self._fill:
            return classes
        fillers = self._fillers(epoch)
        # The last batch must not hold a filler twice: those in it change places with classes of earlier
        # batches.
        last = np.arange(self.num_classes - (self.classes_per_batch - self._fill), self.num_classes)
        is_filler = np.zeros(self.num_classes, bool)
        is_filler[fillers] = True
        clashing = last[is_filler[classes[last]]]
        earlier = np.flatnonzero(~is_filler[classes[: last[0]]])
        others = self._generator(_CLASSES, 2, epoch).permutation(earlier)[: len(clashing)]
        classes[clashing], classes[others] = classes[others], classes[clashing]
        return np.concatenate([classes, fillers])

    def _visit(self, classes, visits):
        periods, places = np.divmod(visits[classes], self._visits_per_period[classes])
        is_new = self._is_drawn[classes] & (self._period[classes] != periods)
        if is_new.any():
            self._begin_periods(classes[is_new], periods[is_new])
        return self._rows[self._first_row[classes] + places]

    def _begin_periods(self, classes, periods):
        self._period[classes] = periods
        generators = np.array(self._generators(_IMAGES, classes, periods), object)
        # Classes with as many images are taken together: of 11,318 classes the calls are what costs.
        counts = self._counts[classes]
        order = np.argsort(counts, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(counts[order])) + 1):
            count, labels = int(counts[group[0]]), classes[group]
            visits = _passes(count, self.samples_per_class % count, generators[group])
            rows = self._first_row[labels][:, np.newaxis] + np.arange(visits.shape[1])
            members = self._first_member[labels][:, np.newaxis, np.newaxis] + visits
            self._rows[rows, self.samples_per_class - visits.shape[2] :] = self._members[members]

    def _generators(self, kind, labels, periods):
        """`_generator(kind, label, period)` for each class; a seed of 32-bit words needs no conversion."""
        words = _words(self.seed) + _words(kind)
        keys = np.empty((len(labels), len(words) + 2), np.uint32)
        keys[:, :-2], keys[:, -2], keys[:, -1] = words, labels, periods
        return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))) for key in keys]


def _words(number):
    """The 32-bit words of an integer from the lowest, as NumPy makes them of a seed."""
    words = [number & 0xFFFFFFFF]
    while number := number >> 32:
        words.append(number & 0xFFFFFFFF)
    return words


def _passes(count, visit, generators):
    """For each class shuffled passes over its things, cut into visits of distinct ones; both end together.

    Args:
        count: Things of a class.
        visit: How many of them make a visit; fewer than `count`.
        generators: One for each class.

    Returns:
        `(classes, visits, visit)` integers below `count`.
    """
    number = visit // math.gcd(count, visit)
    things = np.broadcast_to(np.arange(count), (number, count))
    order = np.stack([generator.permuted(things, axis=1) for generator in generators])
    rows = np.arange(len(order))[:, np.newaxis]
    for index in range(1, number):
        behind = index * count % visit
        # The visit across the border has its first images from the pass before: others must come first in
        # this one.
        is_taken = np.zeros((len(order), count), bool)
        is_taken[rows, order[:, index - 1, count - behind :]] = True
        current = order[:, index]
        is_free = ~is_taken[rows, current]
        is_head = is_free & (np.cumsum(is_free, axis=1) <= visit - behind)
        order[:, index] = current[rows, np.argsort(~is_head, axis=1, kind="stable")]
    return order.reshape(len(order), -1, visit)


def _number_of_classes(labels, class_names):
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    # Above the number of samples, some class has none. Arrays as long as that may not fit into memory.
    limit = len(labels) if class_names is None else len(class_names)
    if low < 0 or high >= limit:
        raise ValueError(
            f"Labels must number the classes from 0 without gaps. Received: labels from {low} to {high} of "
            f"{len(labels)} samples{'' if class_names is None else f' with {limit} class names'}. "
            "Pass the integers of `tfdml.data.encode_labels(labels)`."
        )
    return high + 1 if class_names is None else limit


def _check_classes_per_batch(classes_per_batch, num_classes):
    classes_per_batch = check_whole_number("classes_per_batch", classes_per_batch, minimum=1)
    if classes_per_batch > num_classes:
        raise ValueError(
            "A batch cannot hold more classes than there are. "
            f"Received: classes_per_batch={classes_per_batch}; expected at most {num_classes}."
        )
    return classes_per_batch


def _check_counts(counts, class_names):
    poor = np.flatnonzero(counts < 2)
    if len(poor):
        shown = [
            f"{label if class_names is None else class_names[label]!r} ({counts[label]})"
            for label in poor[:10].tolist()
        ]
        more = f" and {len(poor) - 10} more" if len(poor) > 10 else ""
        raise ValueError(
            "Each class needs at least two images to make a positive pair. "
            f"Received: classes with fewer: {', '.join(shown)}{more}."
        )


def steps_per_epoch(dataset: LabeledSamples, classes_per_batch: int) -> int:
    """Batches of `balanced_batches` until every class was visited.

    Args:
        dataset: A `LabeledImages`.
        classes_per_batch: Distinct classes in a batch.

    Returns:
        ⌈number of classes / classes_per_batch⌉.
    """
    check_is_labeled(dataset)
    return math.ceil(dataset.num_classes / _check_classes_per_batch(classes_per_batch, dataset.num_classes))
