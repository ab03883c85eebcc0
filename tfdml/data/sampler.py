"""Balanced sampling: which images are in which batch."""

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
    """Selects batches of `classes_per_batch` classes × `samples_per_class` images.

    Use it to build your own input pipeline with balanced batches; `balanced_batches` uses it for labeled datasets.
    Batch t is determined by (seed, t), so training can resume at any batch at no extra cost.

    **Classes.** Each epoch visits all classes in a new random order. If the last batch of an epoch is not full, classes
    of a fixed rotation fill it, so that all classes get the same number of extra visits.

    **Images.** The visits of a class go through its images in random order: each image is used once before any is used
    again, and the images of a visit are distinct even if the visit includes the end of one order and the start of the
    next. After S / gcd(n, S) orders (n images, S per visit), a visit ends exactly at the end of an order, and a new
    seeded period begins. A class with fewer than S images repeats them as evenly as possible.

    Args:
        labels: Integers `(n,)` or `(n, 1)` of any type. Class labels from 0 without gaps; see `encode_labels`.
        classes_per_batch: int. Number of distinct classes in a batch.
        samples_per_class: int. Number of images per class.
        seed: int, at least 0.
        class_names: Sequence of str. Names for messages, or `None`. Default `None`.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If a class has fewer than two images (the message names it), labels are negative or have gaps,
            there are fewer classes than `classes_per_batch`, or a number is out of range.

    Example:
        >>> sampler = BalancedSampler([0, 1, 0, 2, 1, 2], classes_per_batch=2, samples_per_class=2, seed=0)
        >>> sampler.batch(0).shape, sampler.steps_per_epoch
        ((4,), 2)
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
        # One row per visit: the visits of each class' current period.
        self._first_row = np.cumsum(self._visits_per_period) - self._visits_per_period
        # Images that a class repeats in every visit are fixed; the others are drawn for each period.
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
        """Number of images in a batch."""
        return self.classes_per_batch * self.samples_per_class

    def epoch(self, number: int) -> np.ndarray:
        """Return the indices of one epoch's images; the images of a class are adjacent.

        Args:
            number: int. Number of the epoch, from 0.

        Returns:
            Integer array `(steps_per_epoch, batch_size)`.
        """
        classes = self._classes_of_epoch(number)
        visits = number + self._extra_visits(number)
        with self._lock:
            # A class that fills the last batch is visited a second time.
            rows = self._visit(classes[: self.num_classes], visits)
            fillers = classes[self.num_classes :]
            visits[fillers] += 1
            rows = np.concatenate([rows, self._visit(fillers, visits)])
        return rows.reshape(self.steps_per_epoch, self.batch_size)

    def batch(self, number: int) -> np.ndarray:
        """Return the indices of one batch's images.

        Args:
            number: int. Number of the batch, from 0.

        Returns:
            Integer array `(batch_size,)`.
        """
        epoch, step = divmod(number, self.steps_per_epoch)
        return self.epoch(epoch)[step]

    def _generator(self, *key):
        return np.random.default_rng([self.seed, *key])

    def _fillers(self, epoch):
        places = np.arange(epoch * self._fill, (epoch + 1) * self._fill) % self.num_classes
        return self._rotation[places]

    def _extra_visits(self, epoch):
        """Return how often each class was a filler in earlier epochs."""
        return (epoch * self._fill + self.num_classes - 1 - self._place_in_rotation) // self.num_classes

    def _classes_of_epoch(self, epoch):
        classes = self._generator(_CLASSES, 1, epoch).permutation(self.num_classes)
        if not self._fill:
            return classes
        fillers = self._fillers(epoch)
        # Fillers must not occur twice in the last batch: swap those already in it with classes of earlier batches.
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
        # Process classes with the same number of images together: with 11,318 classes, calls dominate the cost.
        counts = self._counts[classes]
        order = np.argsort(counts, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(counts[order])) + 1):
            count, labels = int(counts[group[0]]), classes[group]
            visits = _passes(count, self.samples_per_class % count, generators[group])
            rows = self._first_row[labels][:, np.newaxis] + np.arange(visits.shape[1])
            members = self._first_member[labels][:, np.newaxis, np.newaxis] + visits
            self._rows[rows, self.samples_per_class - visits.shape[2] :] = self._members[members]

    def _generators(self, kind, labels, periods):
        """Return `_generator(kind, label, period)` for each class; seeds of 32-bit words avoid a slow conversion."""
        words = _words(self.seed) + _words(kind)
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


def _number_of_classes(labels, class_names):
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    # Larger labels imply classes without samples, and arrays that may not fit into memory.
    limit = len(labels) if class_names is None else len(class_names)
    if low < 0 or high >= limit:
        raise ValueError(
            f"Labels must number the classes from 0 without gaps. Received: labels from {low} to {high} of "
            f"{len(labels)} samples{'' if class_names is None else f' with {limit} class names'}. "
            "Expected: 0, 1, … Pass the integers returned by `tfdml.data.encode_labels(labels)`."
        )
    return high + 1 if class_names is None else limit


def _check_classes_per_batch(classes_per_batch, num_classes):
    classes_per_batch = check_whole_number("classes_per_batch", classes_per_batch, minimum=1)
    if classes_per_batch > num_classes:
        raise ValueError(
            "A batch cannot contain more classes than the dataset. "
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
    """Return the number of batches of `balanced_batches` that visit every class once.

    Pass it to `fit(steps_per_epoch=…)`: batches are endless, and Keras needs the length of an epoch.

    Args:
        dataset: `LabeledImages` or `LabeledFeatures`.
        classes_per_batch: int. Number of distinct classes in a batch.

    Returns:
        int, ⌈number of classes / classes_per_batch⌉.

    Raises:
        ValueError: If there are fewer classes than `classes_per_batch`.

    Example:
        >>> from tfdml.data import LabeledImages
        >>> dataset = LabeledImages.from_arrays(np.zeros((10, 8, 8, 1), "uint8"), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
        >>> steps_per_epoch(dataset, classes_per_batch=2)
        3
    """
    check_is_labeled(dataset)
    return math.ceil(dataset.num_classes / _check_classes_per_batch(classes_per_batch, dataset.num_classes))
