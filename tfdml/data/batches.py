"""Batches of images or features as `tf.data`: for training, for evaluation, and as a pool of samples of each class.

Batches of `LabeledFeatures` are (float32 features `(batch, dim)`, labels), without preprocessing and augmentation.
"""

from __future__ import annotations

import math
from typing import Callable, Literal

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_part, check_whole_number
from tfdml._utils.types import ArrayLike, Identifier, InputRange
from tfdml.data.augmentation import Augmentation
from tfdml.data.image_files import (
    decode_whole,
    has_exif,
    is_jpeg,
    jpeg_size,
    read_in_graph,
    size_and_orientation,
    with_named_errors,
)
from tfdml.data.labeled_features import LabeledFeatures
from tfdml.data.labeled_samples import LabeledSamples, check_is_labeled
from tfdml.data.preprocessing import Preprocessing
from tfdml.data.related_sampler import RelatedSampler
from tfdml.data.sampler import SmallClasses, sampler_of
from tfdml.ops import MAX_PIXELS, UNIT_RANGE, orient, stored_window, upright_size

# A call into Python costs more than a short epoch, so several epochs are computed per call, up to this many batches.
_BATCHES_PER_CALL = 64
# Factors by which libjpeg can downscale an image while decoding it.
_DECODING_RATIOS = (1, 2, 4, 8)


def balanced_batches(
    dataset: LabeledSamples,
    classes_per_batch: int,
    samples_per_class: int,
    seed: int,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation | None = None,
    input_range: InputRange | None = None,
    small_classes: SmallClasses = "error",
    sampling: Literal["class", "instance"] = "class",
    superclasses_per_batch: int | None = None,
) -> tf.data.Dataset:
    """Return endless training batches with the same number of images of each class.

    Use it to train with losses that compare samples within the batch: every sample has a positive. Pass
    `steps_per_epoch=steps_per_epoch(dataset, classes_per_batch)` to `fit`; such an epoch contains every class (see
    `BalancedSampler`). Batch t, including its augmentation, is determined by (seed, t).

    For images in files, a random crop (`crop_area`) is cut before resizing and stretched to the final size; the center
    crop of `short_side` applies to evaluation only. Only the crop of a JPEG is decoded, and a crop at least twice as
    large as the final size is decoded at a reduced resolution, which changes pixels by less than three of 256 gray
    levels on average.

    Args:
        dataset: `LabeledImages` or `LabeledFeatures`.
        classes_per_batch: int. Number of distinct classes in a batch.
        samples_per_class: int. Number of images per class; they are distinct if the class has enough.
        seed: int, at least 0.
        preprocessing: `Preprocessing`. `None` is allowed for features, and for gray or color images in memory, which
            keep their size and channels. Default `None`.
        augmentation: `Augmentation` or `None`. Default `None`.
        input_range: tuple (low, high) or str, as for `Preprocessing`. `None` uses that of `preprocessing`. Default
            `None`.
        small_classes: `"error"`, `"repeat"`, `"skip"` or `"negatives"`: what happens to classes with a single image, as
            for `BalancedSampler`. Default `"error"`.
        sampling: `"class"` or `"instance"`: whether classes or images are used equally often. Default `"class"`.
        superclasses_per_batch: int. Number of super-classes (`dataset.superclasses`) in a batch. Default `None`, any.

    Returns:
        Infinite `tf.data.Dataset` of (float32 images `(batch, height, width, channels)` in the input range, int64
        labels `(batch,)`), where batch = classes_per_batch · samples_per_class. The images of a class are adjacent.

    Raises:
        ValueError: If a class has fewer than two images (the message names it), there are fewer classes than
            `classes_per_batch`, a number is out of range, or the dataset has no superclasses for a batch of few.

    Example:
        >>> import numpy as np
        >>> from tfdml.data import LabeledImages
        >>> images, labels = np.zeros((6, 8, 8, 3), "uint8"), ["cat", "dog", "cat", "emu", "emu", "dog"]
        >>> train = LabeledImages.from_arrays(images, labels)
        >>> batch, batch_labels = next(iter(balanced_batches(train, classes_per_batch=2, samples_per_class=2, seed=0)))
        >>> batch.shape, len(set(batch_labels.numpy()))
        (TensorShape([4, 8, 8, 3]), 2)
    """
    return balanced_share(
        dataset, classes_per_batch, samples_per_class, seed, preprocessing, augmentation, input_range, small_classes,
        sampling, superclasses_per_batch,
    )  # fmt: skip


def balanced_share(
    dataset,
    classes_per_batch,
    samples_per_class,
    seed,
    preprocessing=None,
    augmentation=None,
    input_range=None,
    small_classes="error",
    sampling="class",
    superclasses_per_batch=None,
    *,
    start_batch=0,
    part=None,
):
    """Return `balanced_batches` from a later batch on, or one worker's part of each batch, bit for bit.

    Skipped batches and images of other workers are not read.

    Args:
        dataset, classes_per_batch, samples_per_class, seed, preprocessing, augmentation, input_range, small_classes,
        sampling, superclasses_per_batch: As for `balanced_batches`.
        start_batch: int. Number of the first batch. Default 0.
        part: Pair (index, count). Return only rows ⌊index · b / count⌋ to ⌊(index + 1) · b / count⌋ of each batch of
            b rows. `None` returns whole batches. Default `None`.

    Returns:
        As for `balanced_batches`.
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    sampler = sampler_of(
        dataset, classes_per_batch, samples_per_class, seed, small_classes, sampling, superclasses_per_batch
    )
    start_batch = check_whole_number("start_batch", start_batch, minimum=0)
    epochs_per_call = math.ceil(_BATCHES_PER_CALL / sampler.steps_per_epoch)
    batches_per_call = epochs_per_call * sampler.steps_per_epoch
    first_call, skipped = divmod(start_batch, batches_per_call)

    def indices_of_call(call):
        first = int(call) * epochs_per_call
        return np.concatenate([sampler.epoch(epoch) for epoch in range(first, first + epochs_per_call)])

    def indices(call):
        result = tf.numpy_function(indices_of_call, [call], tf.int64, stateful=False)
        return tf.ensure_shape(result, (batches_per_call, sampler.batch_size))

    batches = tf.data.Dataset.counter(first_call).map(indices).prefetch(1)
    batches = batches.unbatch().skip(skipped)
    batches = _with_images(
        batches,
        dataset,
        sampler.batch_size,
        preprocessing,
        augmentation,
        sampler.seed,
        start_batch,
        is_endless=True,
        part=part,
    )
    return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def related_batches(
    dataset: LabeledSamples,
    relation: Identifier,
    anchors_per_batch: int,
    samples_per_anchor: int,
    seed: int,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation | None = None,
    input_range: InputRange | None = None,
    groups: ArrayLike | None = None,
    start_batch: int = 0,
) -> tf.data.Dataset:
    """Return endless training batches of anchors with some of their positives, for a loss with a relation.

    Pass `steps_per_epoch=RelatedSampler(…).steps_per_epoch` with the same arguments, or any number, to `fit`. Batch t,
    including its augmentation, is determined by (seed, t).

    Args:
        dataset: `LabeledImages` or `LabeledFeatures` with `annotations`.
        relation: `tfdml.relations.Relation`. Compares the annotations.
        anchors_per_batch: int. Number of distinct anchors in a batch.
        samples_per_anchor: int, at least 2. Number of samples for each anchor, itself included.
        seed: int, at least 0.
        preprocessing: `Preprocessing`, as for `balanced_batches`. Default `None`.
        augmentation: `Augmentation` or `None`. Default `None`.
        input_range: tuple (low, high) or str, as for `Preprocessing`. `None` uses that of `preprocessing`. Default
            `None`.
        groups: Integers `(n,)` or a matrix `(n, groups)`, as for `RelatedSampler`: anchors are visited equally often in
            each of them. For example `position_cells(dataset.annotations, size)`, or multi-hot tags. `None` visits all
            anchors equally often. Default `None`.
        start_batch: int. Number of the first batch, to resume. Default 0.

    Returns:
        Infinite `tf.data.Dataset` of (float32 images `(batch, height, width, channels)` in the input range, annotations
        `(batch,)` or `(batch, k)`), where batch = anchors_per_batch · samples_per_anchor.

    Raises:
        ValueError: If the dataset has no annotations, no sample has a positive, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> from tfdml import relations
        >>> from tfdml.data import LabeledImages
        >>> images, places = np.zeros((4, 8, 8, 3), "uint8"), np.array([0.0, 0.1, 5.0, 5.1])
        >>> photos = LabeledImages.from_arrays(images, annotations=places)
        >>> _, annotations = next(iter(related_batches(photos, relations.Within(1.0, 2.0), 2, 2, seed=0)))
        >>> sorted(annotations.numpy().tolist())
        [0.0, 0.1, 5.0, 5.1]
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    sampler = RelatedSampler(
        annotations_of(dataset), relation, anchors_per_batch, samples_per_anchor, seed, groups
    )
    return related_share(dataset, sampler, preprocessing, augmentation, start_batch)


def related_share(dataset, sampler, preprocessing, augmentation=None, start_batch=0, part=None):
    """Return the batches of a sampler, as `related_batches`, or one worker's part of each batch, bit for bit.

    Args:
        dataset, preprocessing, augmentation, start_batch: As for `related_batches`.
        sampler: `RelatedSampler` of the annotations of the dataset.
        part: Pair (index, count), as for `balanced_share`. Default `None`, whole batches.

    Returns:
        As for `related_batches`.
    """
    start_batch = check_whole_number("start_batch", start_batch, minimum=0)

    def indices(number):
        result = tf.numpy_function(sampler.batch, [number], tf.int64, stateful=False)
        return tf.ensure_shape(result, (sampler.batch_size,))

    batches = tf.data.Dataset.counter(start_batch).map(indices).prefetch(2)
    batches = _with_images(
        batches, dataset, sampler.batch_size, preprocessing, augmentation, sampler.seed, start_batch, is_endless=True,
        part=part, labels=dataset.annotations,
    )  # fmt: skip
    return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def annotations_of(dataset):
    """Return the annotations of a dataset, or raise a ValueError if it has none."""
    if dataset.annotations is None:
        raise ValueError(
            f"The dataset has no annotations. Received: {dataset!r}. Expected: one with annotations, such as "
            "`LabeledImages.from_arrays(images, annotations=positions)` or a CSV file with `annotation_columns`."
        )
    return dataset.annotations


def evaluation_batches(
    dataset: LabeledSamples,
    batch_size: int,
    preprocessing: Preprocessing | None = None,
    input_range: InputRange | None = None,
    annotations: bool = False,
) -> tf.data.Dataset:
    """Return batches of all images of a dataset, each once and in order.

    Use it for `validation_data`, `evaluate` and `embed`.

    Args:
        dataset: `LabeledImages` or `LabeledFeatures` with at least one sample.
        batch_size: int. Images per batch; the last batch may have fewer.
        preprocessing: `Preprocessing`. `None` is allowed for features, and for gray or color images in memory, which
            keep their size and channels. Default `None`.
        input_range: tuple (low, high) or str, as for `Preprocessing`. `None` uses that of `preprocessing`. Default
            `None`.
        annotations: bool. Return the annotations of the dataset instead of class labels. Default `False`.

    Returns:
        Finite `tf.data.Dataset` of (float32 images `(batch, height, width, channels)` in the input range, int64 labels
        `(batch,)` or annotations).

    Raises:
        ValueError: If the dataset is empty or has no annotations, or the batch size is not a positive integer.

    Example:
        >>> from tfdml.data import LabeledImages
        >>> test = LabeledImages.from_arrays(np.zeros((3, 8, 8, 3), "uint8"), ["cat", "dog", "cat"])
        >>> [labels.numpy().tolist() for _, labels in evaluation_batches(test, batch_size=2)]
        [[0, 1], [0]]
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    labels = annotations_of(dataset) if annotations else None
    return _finite_batches(dataset, np.arange(len(dataset)), batch_size, preprocessing, labels=labels)


def evaluation_share(dataset, batch_size, preprocessing=None, *, part, annotations=False):
    """Return one worker's share of `evaluation_batches`; images of other workers are not read.

    Args:
        dataset, batch_size, preprocessing, annotations: As for `evaluation_batches`.
        part: Pair (index, count). Return every count-th batch, starting with the index-th.

    Returns:
        Finite `tf.data.Dataset` with the auto-shard policy OFF, which marks it as one worker's share.
    """
    check_is_labeled(dataset)
    labels = annotations_of(dataset) if annotations else None
    indices = np.arange(len(dataset))
    batches = _finite_batches(dataset, indices, batch_size, preprocessing, check_part(part), labels=labels)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


def class_pool(
    dataset: LabeledSamples,
    pool_size: int,
    seed: int,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 256,
    input_range: InputRange | None = None,
    augmentation: Augmentation | None = None,
) -> Callable[[int], tf.data.Dataset]:
    """Return a function that draws random samples of each class, for `AlternatingProjections`.

    Each problem of chance-constrained programming selects its proxies from a new draw.

    Args:
        dataset: `LabeledImages` or `LabeledFeatures`.
        pool_size: int. Number of images per class; a class with fewer contributes all of them.
        seed: int, at least 0.
        preprocessing: `Preprocessing`. `None` is allowed for features, and for gray or color images in memory, which
            keep their size and channels. Default `None`.
        batch_size: int. Images per batch. Default 256.
        input_range: tuple (low, high) or str, as for `Preprocessing`. `None` uses that of `preprocessing`. Default
            `None`.
        augmentation: `Augmentation` or `None`. Random changes of the images, determined by (seed, number of the draw).
            Default `None`.

    Returns:
        Function from the number of the draw (from 0) to a finite `tf.data.Dataset` of (float32 images
        `(batch, height, width, channels)` in the input range, int64 labels `(batch,)`), ordered by class. The samples
        are determined by (seed, number).

    Raises:
        ValueError: If the dataset is empty or a number is out of range.

    Example:
        >>> from tfdml.data import LabeledImages
        >>> train = LabeledImages.from_arrays(np.zeros((5, 8, 8, 3), "uint8"), [0, 0, 0, 1, 1])
        >>> pool = class_pool(train, pool_size=2, seed=0)
        >>> [labels.numpy().tolist() for _, labels in pool(0)]
        [[0, 0, 1, 1]]
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    pool_size = check_whole_number("pool_size", pool_size, minimum=1)
    seed = check_whole_number("seed", seed, minimum=0)
    check_whole_number("batch_size", batch_size, minimum=1)
    _check_not_empty(dataset)
    counts = dataset.class_counts
    starts = np.cumsum(counts) - counts

    def pool(projection):
        projection = check_whole_number("projection", projection, minimum=0)
        order = np.random.default_rng([seed, projection]).permutation(len(dataset))
        # A stable sort keeps the images of a class in random order; the first of them are drawn.
        order = order[np.argsort(dataset.labels[order], kind="stable")]
        rank = np.arange(len(order)) - starts[dataset.labels[order]]
        # Batches of different draws differ in their augmentation.
        number = projection * math.ceil(len(order) / batch_size)
        return _finite_batches(
            dataset, order[rank < pool_size], batch_size, preprocessing, (0, 1), augmentation, seed, number
        )

    return pool


def _finite_batches(
    dataset, indices, batch_size, preprocessing, part=(0, 1), augmentation=None, seed=0, start_batch=0, labels=None
):
    _check_not_empty(dataset)
    batch_size = check_whole_number("batch_size", batch_size, minimum=1)
    batches = tf.data.Dataset.from_tensor_slices(indices.astype(np.int64)).batch(batch_size)
    index, count = part
    number = len(range(index, math.ceil(len(indices) / batch_size), count))
    batches = _with_images(
        batches.shard(count, index), dataset, batch_size, preprocessing, augmentation, seed, start_batch, labels=labels
    )
    return batches.apply(tf.data.experimental.assert_cardinality(number))


def _in_range(dataset, preprocessing, input_range):
    if input_range is None:
        return preprocessing
    if isinstance(dataset, LabeledFeatures):
        raise ValueError(f"Features have no input range. Received: input_range={input_range!r} with {dataset!r}.")
    return (preprocessing or _preprocessing_of(dataset)).with_input_range(input_range)


def _preprocessing_of(dataset):
    """Return the preprocessing that keeps the size and channels of images in memory."""
    if dataset.holds_paths or dataset.image_shape[-1] not in (1, 3):
        raise ValueError(
            f"These images need a preprocessing. Received: preprocessing=None with {dataset!r}. Expected: a "
            "Preprocessing, which sets their size and channels."
        )
    return Preprocessing(dataset.image_shape[:2], dataset.image_shape[-1])


def _check_not_empty(dataset):
    if not len(check_is_labeled(dataset)):
        raise ValueError(f"The dataset is empty. Received: {dataset!r}. Expected: at least one sample.")


def _with_images(
    batches, dataset, batch_size, preprocessing, augmentation=None, seed=0, start_batch=0, is_endless=False, part=None,
    labels=None,
):  # fmt: skip
    """Map batches of indices to batches of images and labels (by default those of classes), in the same order."""
    labels = dataset.labels if labels is None else labels
    index, count = (0, 1) if part is None else check_part(part)
    # Rows of each batch to return. The last of finite batches can be smaller, but those are not split into parts.
    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)
    if isinstance(dataset, LabeledFeatures):
        if part is not None:
            batches = batches.map(lambda indices: indices[rows])
        return _with_features(batches, dataset, preprocessing, augmentation, labels)
    if preprocessing is None:
        preprocessing = _preprocessing_of(dataset)
    # Augment images in 0–1, where 0 (uncovered pixels) is black.
    to_input_range, is_unit = preprocessing.to_input_range, preprocessing.input_range == UNIT_RANGE
    preprocessing = preprocessing.with_input_range(UNIT_RANGE)
    # One copy on the host, captured by the pipeline's functions as an input rather than as a constant of their graph.
    with tf.device("cpu:0"):
        images = tf.constant(dataset.encoded_paths if dataset.holds_paths else dataset.images)
        labels = tf.constant(labels)

    @tf.autograph.experimental.do_not_convert
    def gather(number, indices):
        if augmentation is None:
            indices = indices[rows]
        batch = preprocessing(tf.gather(images, indices))
        if augmentation is not None:
            # Random numbers are drawn for the whole batch, so that parts equal rows of the whole.
            batch, indices = augmentation(batch, (seed, number))[rows], indices[rows]
        return batch, tf.gather(labels, indices)

    crops = augmentation is not None and augmentation.crop_area is not None
    # If flips are the only transformation, flip single images: flipping batches would copy them twice.
    flips = augmentation is not None and augmentation.horizontal_flip and augmentation.is_flip_at_most

    def read(number, index):
        path = tf.gather(images, index)
        if crops:
            image = _cropped(path, preprocessing, augmentation, (seed, number), dataset.max_pixels)
        else:
            image = preprocessing(read_in_graph(path, max_pixels=dataset.max_pixels))
        if flips:
            is_mirrored = augmentation.is_mirrored(batch_size, (seed, number // batch_size))[number % batch_size]
            image = tf.cond(is_mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        return image, tf.gather(labels, index)

    @tf.autograph.experimental.do_not_convert
    def rows_of_batch(number, indices):
        mine = indices[rows]
        numbers = (number * batch_size + tf.range(tf.size(indices, tf.int64), dtype=tf.int64))[rows]
        # -1 stands for no file: after the last one, and before the first.
        end = tf.constant([-1], tf.int64)
        return tf.concat([numbers, end], 0), tf.concat([mine, end], 0), tf.concat([end, mine], 0)

    @tf.autograph.experimental.do_not_convert
    def change(number, batch_and_labels):
        batch, batch_labels = batch_and_labels
        # Random numbers are drawn for the whole batch, so that parts equal rows of the whole.
        batch = tf.pad(batch, [[rows.start, batch_size - rows.stop], [0, 0], [0, 0], [0, 0]])
        return augmentation.after_crop(batch, (seed, number))[rows], batch_labels

    if dataset.holds_paths:
        samples = batches.enumerate(start_batch).map(rows_of_batch).unbatch()
        spec = (tf.TensorSpec(preprocessing.image_shape, tf.float32), tf.TensorSpec(labels.shape[1:], labels.dtype))
        samples = with_named_errors(samples, images, read, spec, dataset.max_pixels)
        batches = samples.batch(rows.stop - rows.start, drop_remainder=is_endless)
        if augmentation is not None and not augmentation.is_flip_at_most:
            batches = batches.enumerate(start_batch).map(change, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        batches = batches.enumerate(start_batch).map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    if not is_unit:
        batches = batches.map(
            lambda batch, batch_labels: (to_input_range(batch), batch_labels), num_parallel_calls=tf.data.AUTOTUNE
        )
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(2)


def _with_features(batches, dataset, preprocessing, augmentation, labels):
    for name, value in (("preprocessing", preprocessing), ("augmentation", augmentation)):
        if value is not None:
            raise ValueError(
                f"{name} does not apply to features. Received: {name}={value!r} with {dataset!r}. Expected: None."
            )
    with tf.device("cpu:0"):
        labels = tf.constant(labels)

    def read(indices):
        features = tf.numpy_function(dataset.read, [indices], tf.float32, stateful=False)
        return tf.ensure_shape(features, (*indices.shape, dataset.feature_size)), tf.gather(labels, indices)

    return batches.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


@tf.autograph.experimental.do_not_convert
def _cropped(path, preprocessing, augmentation, seed, max_pixels=MAX_PIXELS):
    """Return a random crop of an image, stretched to the final size; decode only what is needed of a JPEG.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the crop still has at least as many pixels as the result; its
    edges are then at multiples of 2, 4 or 8 pixels. Resized photographs differ from those decoded at full size by one
    or two of 256 gray levels on average, about as much as between anti-aliasing filters (bilinear, box). The crop is
    drawn in the upright image and mapped to the stored one.
    """
    # A random crop replaces the center crop.
    to_size = Preprocessing(preprocessing.size, preprocessing.channels)
    # The decoder may repeat gray channels, but only the preprocessing converts color to gray.
    channels = 3 if to_size.channels == 3 else 0

    def decode(contents):
        return tf.cond(is_jpeg(contents), lambda: jpeg(contents), lambda: crop(decode_whole(contents, max_pixels)))

    def jpeg(contents):
        # Most files have no EXIF orientation; skip its cost for them.
        return tf.cond(has_exif(contents), lambda: turned(contents), lambda: upright(contents))

    def upright(contents):
        window = augmentation.crop_window(jpeg_size(contents, max_pixels), seed)
        return decoded(contents, window, window)

    def turned(contents):
        size, orientation = size_and_orientation(contents, max_pixels)
        window = augmentation.crop_window(upright_size(size, orientation), seed)
        return orient(decoded(contents, window, stored_window(window, size, orientation)), orientation)

    def decoded(contents, window, stored):
        is_enough = [tf.reduce_all(window[2:] // ratio >= to_size.size) for ratio in _DECODING_RATIOS[1:]]
        # The number of ratios that leave enough pixels is the index of the largest such ratio.
        place = tf.reduce_sum(tf.cast(is_enough, tf.int32))

        def decoder(ratio):
            return lambda: tf.io.decode_and_crop_jpeg(contents, stored // ratio, channels=channels, ratio=ratio)

        return tf.switch_case(place, [decoder(ratio) for ratio in _DECODING_RATIOS])

    def crop(image):
        return augmentation.crop(image, seed)

    # Resize after the branches; otherwise resizing would be traced in each of them.
    return to_size(read_in_graph(path, decode, crop, max_pixels))
