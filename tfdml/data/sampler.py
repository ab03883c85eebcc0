"""Balanced sampling: which images are in which batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.data.class_plans import Counted, Hierarchical, InProportion, visit_each
from tfdml.data.labeled_samples import LabeledSamples, check_is_labeled, integer_column
from tfdml.data.visitor import Visitor

_CLASSES, _IMAGES = 0, 1
SmallClasses = Literal["error", "repeat", "skip", "negatives"]
_logger = logging.getLogger(__name__)


class BalancedSampler:
    """Selects batches of `classes_per_batch` classes × `samples_per_class` images.

    Use it to build your own input pipeline with balanced batches; `balanced_batches` uses it for labeled datasets.
    Batch t is determined by (seed, t), so training can resume at any batch at no extra cost. (By instance or with
    super-classes, the visits of earlier epochs are counted first.)

    **Classes.** Each epoch visits all classes in a new random order. If the last batch of an epoch is not full, classes
    of a fixed rotation fill it, so that all classes get the same number of extra visits.

    `sampling="instance"` visits classes in proportion to their numbers of images instead, so that all images are used
    equally often. A class with more than 1 / `classes_per_batch` of all images is in every batch.

    With `superclasses`, each batch has classes of `superclasses_per_batch` super-classes, equally many of each, which
    makes negatives harder. Super-classes are visited in proportion to their numbers of classes, and the visits go
    through their classes in random order, as those of a class go through its images.

    **Images.** The visits of a class go through its images in random order: each image is used once before any is used
    again, and the images of a visit are distinct even if the visit includes the end of one order and the start of the
    next. A class with fewer than `samples_per_class` images repeats them as evenly as possible.

    Args:
        labels: Integers `(n,)` or `(n, 1)` of any type. Class labels from 0 without gaps; see `encode_labels`.
        classes_per_batch: int. Number of distinct classes in a batch.
        samples_per_class: int. Number of images per class.
        seed: int, at least 0.
        class_names: Sequence of str. Names for messages, or `None`. Default `None`.
        small_classes: What happens to classes with a single image, which have no positive pair. `"error"` raises an
            error. `"repeat"` uses the image `samples_per_class` times (with other augmentations). `"skip"` leaves the
            class out. `"negatives"` puts `samples_per_class` such classes in the place of one class: each image is a
            negative of all others, and their proxies are trained. They take at most half of the places, so that in a
            very long tail an epoch has only some of them. (Fewer of them than a place has images repeat theirs.) The
            last two log a warning with their number and names. Default `"error"`.
        sampling: `"class"` visits all classes equally often, `"instance"` all images. Default `"class"`.
        superclasses: Integers or str `(num_classes,)`, or a dict from labels or class names. Super-class of each class.
            Default `None`.
        superclasses_per_batch: int. Number of super-classes in a batch; it divides `classes_per_batch`. Default `None`.

    Attributes:
        num_classes: Number of classes, those left out included.
        steps_per_epoch: Number of batches that visit every class once, or, by instance, as many images as there are.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If a class has fewer than two images (the message names it), labels are negative or have gaps,
            there are fewer classes than `classes_per_batch`, a number is out of range or a choice unknown; if there are
            fewer super-classes than `superclasses_per_batch`, or one has fewer classes than a batch takes of it.

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
        small_classes: SmallClasses = "error",
        sampling: Literal["class", "instance"] = "class",
        superclasses: ArrayLike | Mapping[Any, Any] | None = None,
        superclasses_per_batch: int | None = None,
    ) -> None:
        labels = integer_column(labels)
        self.seed = check_whole_number("seed", seed, minimum=0)
        self.samples_per_class = check_whole_number("samples_per_class", samples_per_class, minimum=1)
        self.num_classes = _number_of_classes(labels, class_names)
        check_choice("small_classes", small_classes, ("error", "repeat", "skip", "negatives"))
        check_choice("sampling", sampling, ("class", "instance"))
        if small_classes == "negatives" and superclasses is not None:
            raise ValueError(
                "Single images that share the place of a class can be of several super-classes. Received: "
                "small_classes='negatives' with superclasses. Expected: small_classes='skip', 'repeat' or 'error'."
            )
        units = self._units(labels, class_names, small_classes)
        self._num_units = int(units.max()) + 1 if len(units) else 0
        self.classes_per_batch = _check_classes_per_batch(classes_per_batch, self._num_units)
        kept = np.flatnonzero(units >= 0)
        self._images = Visitor(units[kept], self.samples_per_class, self.seed, _IMAGES, kept)
        if isinstance(superclasses, Mapping):
            superclasses = _in_order_of_classes(superclasses, self.num_classes, class_names)
        self._plan = self._make_plan(units[kept], labels[kept], sampling, superclasses, superclasses_per_batch)
        if self._plan is not None:
            self.steps_per_epoch, self._visits = self._plan.steps, Counted(self._plan, self._num_units)
            return
        self.steps_per_epoch = math.ceil(self._num_units / self.classes_per_batch)
        self._fill = self.steps_per_epoch * self.classes_per_batch - self._num_units
        self._rotation = self._generator(_CLASSES).permutation(self._num_units)
        self._place_in_rotation = np.argsort(self._rotation)

    def _units(self, labels, class_names, small_classes):
        """Return what is visited for each image: its class, several single images, or nothing (-1)."""
        counts = np.bincount(labels, minlength=self.num_classes)
        if small_classes in ("error", "repeat"):
            _check_counts(counts, class_names, minimum=2 if small_classes == "error" else 1)
            return labels
        is_small = counts < 2
        if is_small.any():
            action = "are left out" if small_classes == "skip" else "serve as negatives"
            _logger.warning("%d classes with fewer than two images %s: %s.", is_small.sum(), action,
                            _named(np.flatnonzero(is_small), counts, class_names))  # fmt: skip
        unit_of_class = np.where(is_small, -1, np.cumsum(~is_small) - 1)
        singles = np.flatnonzero(counts == 1)
        if small_classes == "negatives" and len(singles):
            # As many images as a class has in a batch share its place, each of another class. At most half of the
            # places are theirs; otherwise few batches would have positive pairs.
            number = max(1, min(len(singles) // self.samples_per_class, (~is_small).sum()))
            groups = np.arange(len(singles)) % number
            shuffled = self._generator(_CLASSES, 3).permutation(singles)
            unit_of_class[shuffled] = (~is_small).sum() + groups
        return unit_of_class[labels]

    def _make_plan(self, units, labels, sampling, superclasses, superclasses_per_batch):
        """Return the plan of which units a batch has; `None` for all units equally often."""
        if superclasses is None and superclasses_per_batch is None:
            if sampling == "class":
                return None
            return InProportion(
                np.bincount(units), self.classes_per_batch, self.seed,
                steps=math.ceil(len(units) / (self.classes_per_batch * self.samples_per_class)),
            )  # fmt: skip
        if superclasses is None or superclasses_per_batch is None:
            raise ValueError(
                "Super-classes need their number in a batch, and it needs them. Received: superclasses="
                f"{'None' if superclasses is None else '…'}, superclasses_per_batch={superclasses_per_batch}. "
                "Expected: both of them. (The datasets sop and cifar100 have superclasses; others take an array.)"
            )
        if sampling != "class":
            raise ValueError(
                f"Super-classes are visited by their classes. Received: sampling={sampling!r} with superclasses. "
                "Expected: sampling='class'."
            )
        names, of_class = _checked_superclasses(superclasses, self.num_classes)
        class_of_unit = np.zeros(self._num_units, np.int64)
        class_of_unit[units] = labels
        return Hierarchical(of_class[class_of_unit], names, self.classes_per_batch, superclasses_per_batch, self.seed)

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
        if self._plan is not None:
            return self._planned(number)
        classes = self._classes_of_epoch(number)
        visits = number + self._extra_visits(number)
        # A class that fills the last batch is visited a second time.
        rows = self._images.visit(classes[: self._num_units], visits)
        fillers = classes[self._num_units :]
        visits[fillers] += 1
        rows = np.concatenate([rows, self._images.visit(fillers, visits)])
        return rows.reshape(self.steps_per_epoch, self.batch_size)

    def _planned(self, number):
        units, visits = self._visits.epoch(number)
        return visit_each(self._images, units, visits)

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
        places = np.arange(epoch * self._fill, (epoch + 1) * self._fill) % self._num_units
        return self._rotation[places]

    def _extra_visits(self, epoch):
        """Return how often each class was a filler in earlier epochs."""
        return (epoch * self._fill + self._num_units - 1 - self._place_in_rotation) // self._num_units

    def _classes_of_epoch(self, epoch):
        classes = self._generator(_CLASSES, 1, epoch).permutation(self._num_units)
        if not self._fill:
            return classes
        fillers = self._fillers(epoch)
        # Fillers must not occur twice in the last batch: swap those already in it with classes of earlier batches.
        last = np.arange(self._num_units - (self.classes_per_batch - self._fill), self._num_units)
        is_filler = np.zeros(self._num_units, bool)
        is_filler[fillers] = True
        clashing = last[is_filler[classes[last]]]
        earlier = np.flatnonzero(~is_filler[classes[: last[0]]])
        others = self._generator(_CLASSES, 2, epoch).permutation(earlier)[: len(clashing)]
        classes[clashing], classes[others] = classes[others], classes[clashing]
        return np.concatenate([classes, fillers])


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
            f"Received: classes_per_batch={classes_per_batch}. Expected: at most {num_classes}."
        )
    return classes_per_batch


def _check_counts(counts, class_names, minimum):
    poor = np.flatnonzero(counts < minimum)
    if len(poor):
        raise ValueError(
            "Each class needs at least two images to make a positive pair. "
            f"Received: classes with fewer: {_named(poor, counts, class_names)}."
            + (" Pass small_classes='skip', 'negatives' or 'repeat' to train without." if minimum == 2 else "")
        )


def _named(classes, counts, class_names):
    shown = [
        f"{label if class_names is None else class_names[label]!r} ({counts[label]})" for label in classes[:10].tolist()
    ]
    return ", ".join(shown) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")


def _in_order_of_classes(superclasses, num_classes, class_names):
    """Return the super-class of each class from a dict by label or name."""
    names = range(num_classes) if class_names is None else class_names
    keys = [label if label in superclasses else name for label, name in enumerate(names)]
    missing = [repr(key) for key in keys if key not in superclasses]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ValueError(
            f"Classes have no super-class. Received: no super-class of {', '.join(missing[:10])}{more}. Expected: "
            "one of each class, by its label or name."
        )
    return [superclasses[key] for key in keys]


def without_small_classes(dataset):
    """Return a dataset without classes of fewer than two images, which a warning counts and names.

    Raises:
        ValueError: If no class has two images.
    """
    counts = dataset.class_counts
    small = np.flatnonzero(counts < 2)
    if not len(small):
        return dataset
    if len(small) == len(counts):
        raise ValueError(f"No class has two images. Received: {dataset!r}. Expected: classes with positive pairs.")
    _logger.warning(
        "%d of %d classes with fewer than two images are left out: %s.", len(small), len(counts),
        _named(small, counts, dataset.class_names),
    )  # fmt: skip
    return dataset.subset(np.flatnonzero(counts >= 2))


def _checked_superclasses(superclasses, num_classes):
    """Return the names of the super-classes, and the number of that of each class, from 0."""
    superclasses = np.asarray(superclasses)
    if superclasses.shape != (num_classes,):
        raise ValueError(
            f"Each class has one super-class. Received: superclasses of shape {superclasses.shape}. Expected: "
            f"({num_classes},), in the order of the classes."
        )
    names, numbers = np.unique(superclasses, return_inverse=True)
    return names, numbers.reshape(-1)


def sampler_of(
    dataset,
    classes_per_batch,
    samples_per_class,
    seed,
    small_classes="error",
    sampling="class",
    superclasses_per_batch=None,
):
    """Return the `BalancedSampler` of a labeled dataset, with its superclasses if there are to be few in a batch."""
    superclasses = dataset.superclasses if superclasses_per_batch is not None else None
    if superclasses_per_batch is not None and superclasses is None:
        raise ValueError(
            f"The dataset has no superclasses. Received: superclasses_per_batch={superclasses_per_batch} with "
            f"{dataset!r}. Expected: LabeledImages(…, superclasses=…), or superclasses_per_batch=None."
        )
    return BalancedSampler(
        dataset.labels, classes_per_batch, samples_per_class, seed, dataset.class_names, small_classes, sampling,
        superclasses, superclasses_per_batch,
    )  # fmt: skip


def steps_per_epoch(dataset: LabeledSamples, classes_per_batch: int) -> int:
    """Return the number of batches of `balanced_batches` that visit every class once.

    Pass it to `fit(steps_per_epoch=…)`: batches are endless, and Keras needs the length of an epoch. With
    `small_classes="skip"` or `"negatives"`, or `sampling="instance"`, an epoch has another length:
    `BalancedSampler(…).steps_per_epoch` with the same options.

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
