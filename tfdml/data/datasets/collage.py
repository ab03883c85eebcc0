"""Collages of one target and three backgrounds, which are both split by class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.naming import unknown_name
from tfdml._utils.types import Config, PathLike
from tfdml.data.batches import evaluation_batches
from tfdml.data.datasets.cifar import read_cifar100
from tfdml.data.datasets.registry import load
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.labeled_samples import LabeledSamples
from tfdml.data.preprocessing import Preprocessing

# The thesis does not name the four superclasses that all classes share.
_SHARED = ("flowers", "large_man-made_outdoor_things", "large_natural_outdoor_scenes", "trees")
_TILES_AT_ONCE = 256


class Collages(LabeledImages):
    """Dataset of images of 2×2 tiles: a target, which determines the class, and three backgrounds.

    Use it to study whether a pooling learns to ignore irrelevant local features, and whether this transfers to unseen
    classes: all classes share the same backgrounds. `split_classes` splits the classes of targets and backgrounds by
    the same shares, so validation and test contain no tile of a class, target or background, that occurs in training.
    `subset` selects images with all their backgrounds.

    The position of the target and the background images are drawn uniformly. Collage i is determined by the seed and i.
    The images are created when `images` is first accessed, and kept in memory.

    Args:
        targets: `LabeledImages`, stretched to the size of a tile.
        backgrounds: `LabeledImages` of other classes. If targets or backgrounds are in color or in files, collages are
            in color.
        tile: int, pixels. Height and width of a tile; the image is twice as large. Default 32.
        per_target: int. Number of collages per target image, each with its own position and backgrounds. Default 1.
        seed: int, at least 0. Default 0.
        distilled: bool. Return only the targets, each once, in the size of a tile: the same task without irrelevant
            features, for comparison. Default `False`.
        name: str. Name of the dataset in messages and tables. Default `"collage"`.

    Raises:
        ValueError: If there are no targets or no backgrounds, or a number is out of range.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.3.2.

    Example:
        >>> def toys(value, names):
        ...     return LabeledImages(np.full((len(names), 8, 8, 1), value, np.uint8), np.arange(len(names)), names)
        >>> collages = Collages(toys(255, "abcd"), toys(0, "wxyz"), tile=8, per_target=2)
        >>> collages.images.shape, collages.class_names
        ((8, 16, 16, 1), ('a', 'b', 'c', 'd'))
        >>> from tfdml.data.splits import split_classes
        >>> train = split_classes(collages, validation=0.25, test=0.25).train
        >>> train.class_names, train.backgrounds.class_names
        (('a', 'b'), ('w', 'x'))
    """

    def __init__(
        self,
        targets: LabeledImages,
        backgrounds: LabeledImages,
        tile: int = 32,
        per_target: int = 1,
        seed: int = 0,
        distilled: bool = False,
        name: str | None = "collage",
    ) -> None:
        for kind, dataset in (("targets", targets), ("backgrounds", backgrounds)):
            if not isinstance(dataset, LabeledImages):
                raise TypeError(
                    f"Collages are made of images. Received: {kind} of type {type(dataset).__name__}. Expected: "
                    "LabeledImages."
                )
            if not len(dataset):
                raise ValueError(f"Collages need {kind}. Received: {kind}={dataset!r}. Expected: at least one image.")
        self.targets, self.backgrounds = targets, backgrounds
        self.tile = check_whole_number("tile", tile, minimum=1)
        self.per_target = check_whole_number("per_target", per_target, minimum=1)
        self.seed = check_whole_number("seed", seed, minimum=0)
        self.distilled = bool(distilled)
        labels = targets.labels if self.distilled else np.repeat(targets.labels, self.per_target)
        # Skip LabeledImages.__init__, which requires the images.
        LabeledSamples.__init__(self, labels, targets.class_names, name, targets.num_train_classes)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Collages, uint8 `(n, height, width, channels)`."""
        side, channels = self.tile, self.image_shape[-1]
        targets = _tiles(self.targets, side, channels)
        if self.distilled:
            return targets
        backgrounds = _tiles(self.backgrounds, side, channels)
        images = np.empty((len(self), *self.image_shape), np.uint8)
        # A view with separate axes for the four tiles.
        quarters = images.reshape(len(self), 2, side, 2, side, channels)
        every, places = np.arange(len(self)), self.places
        quarters[every, places // 2, :, places % 2] = targets[every // self.per_target]
        for step, drawn in enumerate(self._drawn_backgrounds.T, start=1):
            other_places = (places + step) % 4
            quarters[every, other_places // 2, :, other_places % 2] = backgrounds[drawn]
        return images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        shapes = [self.targets.image_shape, self.backgrounds.image_shape]
        is_grey = all(shape is not None and shape[-1] <= 2 for shape in shapes)
        side = self.tile if self.distilled else 2 * self.tile
        return (side, side, 1 if is_grey else 3)

    @property
    def holds_paths(self) -> bool:
        return False

    @property
    def places(self) -> np.ndarray:
        """Positions of the targets, integers `(n,)`: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
        if self.distilled:
            raise ValueError("Distilled images have one tile. Received: distilled=True. Expected: distilled=False.")
        return (4 * self._draws[:, 0]).astype(np.int64)

    @property
    def _drawn_backgrounds(self):
        return (len(self.backgrounds) * self._draws[:, 1:]).astype(np.int64)

    @property
    def _draws(self):
        # Each uniform number consumes the same part of the stream, so row i does not depend on the number of rows.
        return np.random.default_rng(self.seed).random((len(self), 4))

    def split(self, partition: Callable[[LabeledSamples], Sequence[np.ndarray | None]]) -> list[Any]:
        targets = self.targets.split(partition)
        try:
            backgrounds = self.backgrounds.split(partition)
        except ValueError as error:
            raise ValueError(f"The backgrounds cannot be split like the targets. {error}") from error
        options = (self.tile, self.per_target, self.seed, self.distilled, self.name)
        return [
            None if of_targets is None or of_backgrounds is None else Collages(of_targets, of_backgrounds, *options)
            for of_targets, of_backgrounds in zip(targets, backgrounds)
        ]


def collage(
    targets: str = "glyphs",
    backgrounds: str = "digits",
    target_options: Config | None = None,
    background_options: Config | None = None,
    tile: int = 32,
    per_target: int = 1,
    seed: int = 0,
    distilled: bool = False,
) -> Collages:
    """Make collages of two datasets: one target, which determines the class, and three backgrounds in 2×2 tiles.

    By default, these are rendered characters among handwritten digits, which need no download. Classes with the same
    name in both datasets, such as digits among the characters, are removed from the dataset with more classes.
    `split_classes` splits the classes of the backgrounds, too.

    Args:
        targets: str. Name of a dataset, one of `tfdml.data.names()`. Default `"glyphs"`.
        backgrounds: str. Name of another dataset. Default `"digits"`.
        target_options: dict. Options of the dataset of targets. Default `None`.
        background_options: dict. Options of the dataset of backgrounds. Default `None`.
        tile: int, pixels. Height and width of a tile; the image is twice as large. Default 32.
        per_target: int. Number of collages per target image. Default 1.
        seed: int. Seed of the positions and backgrounds. Default 0.
        distilled: bool. Return only the targets, in the size of a tile. Default `False`.

    Returns:
        `Collages`, which are `LabeledImages`.

    Raises:
        ValueError: If a name or an option is unknown, a number is out of range, or no class is left.
        FileNotFoundError: If a dataset is missing; the message says how to get it.

    Example:
        `splits = split_classes(collage("glyphs", "digits"), seed=0)`
    """
    parts: list[Any] = [load(targets, **(target_options or {})), load(backgrounds, **(background_options or {}))]
    larger = 0 if parts[0].num_classes > parts[1].num_classes else 1
    taken = set(parts[1 - larger].class_names)
    left = [index for index, name in enumerate(parts[larger].class_names) if name not in taken]
    if not left:
        raise ValueError(
            "Targets and backgrounds have all classes in common. "
            f"Received: targets={targets!r}, backgrounds={backgrounds!r}. Expected: datasets of different classes."
        )
    parts[larger] = parts[larger].subset(left)
    return Collages(parts[0], parts[1], tile, per_target, seed, distilled)


def cifar_collage(
    path: PathLike,
    shared: Sequence[str] = _SHARED,
    part: str = "all",
    tile: int = 32,
    per_target: int = 1,
    seed: int = 0,
    distilled: bool = False,
) -> Collages:
    """Make Cifar Collage: targets of 16 superclasses of CIFAR-100 among backgrounds of the other 4.

    The classes are those of CIFAR-100, five per superclass, ordered as the first of every superclass, then the second,
    and so on. `split_classes(validation=0.2, test="published")` therefore assigns two classes of every superclass to
    training, one to validation and two to test, for targets and backgrounds.

    Args:
        path: str or `os.PathLike`. Folder of the binary version of CIFAR-100, as for `cifar100`.
        shared: Sequence of str. Superclasses of the backgrounds.
        part: `"train"`, `"test"` or `"all"` parts of CIFAR-100, which have the same classes. Default `"all"`.
        tile: int, pixels. Height and width of a tile; the image is twice as large. Default 32.
        per_target: int. Number of collages per target image. Default 1.
        seed: int. Seed of the positions and backgrounds. Default 0.
        distilled: bool. Return only the targets, in the size of a tile. Default `False`.

    Returns:
        `Collages`, which are `LabeledImages`.

    Raises:
        FileNotFoundError: If the files are missing; the message says how to get them.
        ValueError: If a superclass is unknown, a file is damaged, or a number is out of range.

    Example:
        `collages = cifar_collage("~/datasets/cifar-100-binary")`

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.3.2.
    """
    files = read_cifar100(path, part)
    for name in shared:
        if name not in files.superclass_names:
            raise unknown_name("super-class", name, files.superclass_names)
    classes = np.unique(files.labels)
    superclasses = files.superclass_of_class[classes]
    ranks = [np.sum(superclasses[:index] == superclass) for index, superclass in enumerate(superclasses)]
    order = classes[np.lexsort((superclasses, ranks))]
    names = [files.superclass_names[index] for index in files.superclass_of_class[order]]
    is_shared = np.isin(names, list(shared))
    dataset = LabeledImages(files.images, files.labels, files.class_names)
    parts = [dataset.subset(order[~is_shared]), dataset.subset(order[is_shared])]
    # Three of five classes are for training (two) and validation (one).
    parts = [dataclasses.replace(of_part, num_train_classes=of_part.num_classes * 3 // 5) for of_part in parts]
    return Collages(parts[0], parts[1], tile, per_target, seed, distilled, name="cifar_collage")


def _tiles(dataset, side, channels):
    """Return all images as squares, uint8 `(n, side, side, channels)`."""
    if dataset.image_shape == (side, side, channels):
        return dataset.images
    tiles = np.empty((len(dataset), side, side, channels), np.uint8)
    start = 0
    for images, _ in evaluation_batches(dataset, _TILES_AT_ONCE, Preprocessing((side, side), channels)):
        tiles[start : start + len(images)] = np.rint(255.0 * images.numpy())
        start += len(images)
    return tiles
