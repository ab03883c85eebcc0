"""Batches of images or features as tf.data: for training, for evaluation, and as a pool of samples of each class.

Of `LabeledFeatures` the batches are (float32 features `(b, d)`, labels); there is no preprocessing (`None`) and no
augmentation of them.
"""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_part, check_whole_number
from tfdml._utils.types import InputRange
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
from tfdml.data.sampler import BalancedSampler
from tfdml.ops import MAX_PIXELS, UNIT_RANGE, orient, stored_window, upright_size

# Epochs are asked for together until they make so many batches: a call into Python costs more than a short
# epoch.
_BATCHES_PER_CALL = 64
# By how much libjpeg can make an image smaller while it decodes it, leaving out what is too fine.
_DECODING_RATIOS = (1, 2, 4, 8)


def balanced_batches(
    dataset: LabeledSamples,
    classes_per_batch: int,
    samples_per_class: int,
    seed: int,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation | None = None,
    input_range: InputRange | None = None,
) -> tf.data.Dataset:
    """Endless training batches with the same number of images of each of their classes.

    An epoch of `steps_per_epoch(dataset, classes_per_batch)` batches visits every class; see
    `BalancedSampler`. Batch t follows from (seed, t) alone, augmentation included.

    Of images in files a random crop (`crop_area`) is cut out before they are resized, and is stretched to the size:
    `short_side`, with its crop of the centre, is for evaluation only. Of a JPEG no more than the crop is decoded, and
    of a crop at least twice as large as the size no more than every other pixel of a side, averaged; what that changes
    is below three of 256 grey levels on average.

    Args:
        dataset: A `LabeledImages` or `LabeledFeatures`.
        classes_per_batch: Distinct classes in a batch.
        samples_per_class: Images of each of them, distinct where the class has enough.
        seed: Integer of at least 0.
        preprocessing: A `Preprocessing`; `None` for features, and for gray or color images in memory, whose size and
            channels are kept.
        augmentation: An `Augmentation`, or `None`.
        input_range: As for `Preprocessing`; `None` for that of `preprocessing`.

    Returns:
        An infinite `tf.data.Dataset` of (float32 images `(b, h, w, c)` in the input range, int64 labels `(b,)`), where
        b = classes_per_batch · samples_per_class; the images of a class are next to each other.

    Example:
        >>> import numpy as np
        >>> from tfdml.data import LabeledImages
        >>> images, labels = np.zeros((6, 8, 8, 3), "uint8"), ["cat", "dog", "cat", "emu", "emu", "dog"]
        >>> train = LabeledImages.from_arrays(images, labels)
        >>> batch, batch_labels = next(iter(balanced_batches(train, classes_per_batch=2, samples_per_class=2, seed=0)))
        >>> batch.shape, len(set(batch_labels.numpy()))
        (TensorShape([4, 8, 8, 3]), 2)

    Raises:
        ValueError: If a class has fewer than two images (named), there are too few classes, or a number is
            out of range.
    """
    return balanced_share(
        dataset, classes_per_batch, samples_per_class, seed, preprocessing, augmentation, input_range
    )


def balanced_share(
    dataset,
    classes_per_batch,
    samples_per_class,
    seed,
    preprocessing=None,
    augmentation=None,
    input_range=None,
    *,
    start_batch=0,
    part=None,
):
    """`balanced_batches` from a later batch on, or one worker's part of each batch, bit for bit.

    Skipped batches and the images of other workers are not read.

    Args:
        dataset, classes_per_batch, samples_per_class, seed, preprocessing, augmentation, input_range: As for
            `balanced_batches`.
        start_batch: int. The number of the first batch.
        part: Pair `(index, count)`. Of each batch of b rows only those from ⌊index · b / count⌋ to
            ⌊(index + 1) · b / count⌋. `None` gives whole batches.

    Returns:
        As for `balanced_batches`.
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    sampler = BalancedSampler(dataset.labels, classes_per_batch, samples_per_class, seed, dataset.class_names)
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


def evaluation_batches(
    dataset: LabeledSamples,
    batch_size: int,
    preprocessing: Preprocessing | None = None,
    input_range: InputRange | None = None,
) -> tf.data.Dataset:
    """All images of a set once, in their order.

    Args:
        dataset: A `LabeledImages` or `LabeledFeatures` with at least one sample.
        batch_size: Images in a batch; the last one may have fewer.
        preprocessing: A `Preprocessing`; `None` for features, and for gray or color images in memory, whose size and
            channels are kept.
        input_range: As for `Preprocessing`; `None` for that of `preprocessing`.

    Returns:
        A finite `tf.data.Dataset` of (float32 images `(b, h, w, c)` in the input range, int64 labels `(b,)`).

    Raises:
        ValueError: If the set is empty, or the batch size is no positive integer.
    """
    check_is_labeled(dataset)
    preprocessing = _in_range(dataset, preprocessing, input_range)
    return _finite_batches(dataset, np.arange(len(dataset)), batch_size, preprocessing)


def evaluation_share(dataset, batch_size, preprocessing=None, *, part):
    """One worker's share of `evaluation_batches`; the images of other workers are not read.

    Args:
        dataset, batch_size, preprocessing: As for `evaluation_batches`.
        part: Pair `(index, count)`: every count-th batch from the index-th on.

    Returns:
        A finite `tf.data.Dataset`, whose auto-shard policy OFF says that it is a worker's share already.
    """
    check_is_labeled(dataset)
    batches = _finite_batches(dataset, np.arange(len(dataset)), batch_size, preprocessing, check_part(part))
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
) -> Callable[[int], tf.data.Dataset]:
    """Random samples of each class, drawn anew for each projection of chance constrained programming.

    Args:
        dataset: A `LabeledImages` or `LabeledFeatures`.
        pool_size: Images of each class; a class with fewer gives all it has.
        seed: Integer of at least 0.
        preprocessing: A `Preprocessing`; `None` for features, and for gray or color images in memory, whose size and
            channels are kept.
        batch_size: Images in a batch.
        input_range: As for `Preprocessing`; `None` for that of `preprocessing`.

    Returns:
        A function from the number of the projection (from 0) to a finite `tf.data.Dataset` of (float32 images
        `(b, h, w, c)` in the input range, int64 labels `(b,)`), ordered by class. The samples follow from (seed,
        number) alone.

    Raises:
        ValueError: If the set is empty or a number is out of range.
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
        # Stable: the images of a class stay in random order, and the first of them are drawn.
        order = order[np.argsort(dataset.labels[order], kind="stable")]
        rank = np.arange(len(order)) - starts[dataset.labels[order]]
        return _finite_batches(dataset, order[rank < pool_size], batch_size, preprocessing)

    return pool


def _finite_batches(dataset, indices, batch_size, preprocessing, part=(0, 1)):
    _check_not_empty(dataset)
    batch_size = check_whole_number("batch_size", batch_size, minimum=1)
    batches = tf.data.Dataset.from_tensor_slices(indices.astype(np.int64)).batch(batch_size)
    index, count = part
    number = len(range(index, math.ceil(len(indices) / batch_size), count))
    batches = _with_images(batches.shard(count, index), dataset, batch_size, preprocessing)
    return batches.apply(tf.data.experimental.assert_cardinality(number))


def _in_range(dataset, preprocessing, input_range):
    if input_range is None:
        return preprocessing
    if isinstance(dataset, LabeledFeatures):
        raise ValueError(f"Features have no input range. Received: input_range={input_range!r} with {dataset!r}.")
    return (preprocessing or _preprocessing_of(dataset)).with_input_range(input_range)


def _preprocessing_of(dataset):
    """The preprocessing that keeps size and channels of images in memory."""
    if dataset.holds_paths or dataset.image_shape[-1] not in (1, 3):
        raise ValueError(f"Received: preprocessing=None with {dataset!r}; expected a Preprocessing.")
    return Preprocessing(dataset.image_shape[:2], dataset.image_shape[-1])


def _check_not_empty(dataset):
    if not len(check_is_labeled(dataset)):
        raise ValueError(f"There is nothing to make batches of. Received: {dataset!r}.")


def _with_images(
    batches, dataset, batch_size, preprocessing, augmentation=None, seed=0, start_batch=0, is_endless=False, part=None
):
    """From batches of indices to batches of images and labels, in the same order."""
    index, count = (0, 1) if part is None else check_part(part)
    # The rows of each batch that are given; only the last of finite batches has fewer, and these have no part.
    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)
    if isinstance(dataset, LabeledFeatures):
        if part is not None:
            batches = batches.map(lambda indices: indices[rows])
        return _with_features(batches, dataset, preprocessing, augmentation)
    if preprocessing is None:
        preprocessing = _preprocessing_of(dataset)
    # Augmentation is of images in 0–1: what it uncovers is black.
    to_input_range, is_unit = preprocessing.to_input_range, preprocessing.input_range == UNIT_RANGE
    preprocessing = preprocessing.with_input_range(UNIT_RANGE)
    # One copy on the host, which the pipeline's functions take as an input rather than as a constant of their
    # graph.
    with tf.device("cpu:0"):
        images = tf.constant(dataset.encoded_paths if dataset.holds_paths else dataset.images)
        labels = tf.constant(dataset.labels)

    @tf.autograph.experimental.do_not_convert
    def gather(number, indices):
        if augmentation is None:
            indices = indices[rows]
        batch = preprocessing(tf.gather(images, indices))
        if augmentation is not None:
            # Changes are drawn for the whole batch.
            batch, indices = augmentation(batch, (seed, number))[rows], indices[rows]
        return batch, tf.gather(labels, indices)

    crops = augmentation is not None and augmentation.crop_area is not None
    # Images are mirrored one by one, where that is all: a batch would be copied twice for it.
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
        # No file at the end, and before the first.
        end = tf.constant([-1], tf.int64)
        return tf.concat([numbers, end], 0), tf.concat([mine, end], 0), tf.concat([end, mine], 0)

    @tf.autograph.experimental.do_not_convert
    def change(number, batch_and_labels):
        batch, batch_labels = batch_and_labels
        # Changes are drawn for the whole batch.
        batch = tf.pad(batch, [[rows.start, batch_size - rows.stop], [0, 0], [0, 0], [0, 0]])
        return augmentation.after_crop(batch, (seed, number))[rows], batch_labels

    if dataset.holds_paths:
        samples = batches.enumerate(start_batch).map(rows_of_batch).unbatch()
        spec = (tf.TensorSpec(preprocessing.image_shape, tf.float32), tf.TensorSpec((), tf.int64))
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


def _with_features(batches, dataset, preprocessing, augmentation):
    for name, value in (("preprocessing", preprocessing), ("augmentation", augmentation)):
        if value is not None:
            raise ValueError(f"Features are taken as they are. Received: {name}={value!r} with {dataset!r}.")
    with tf.device("cpu:0"):
        labels = tf.constant(dataset.labels)

    def read(indices):
        features = tf.numpy_function(dataset.read, [indices], tf.float32, stateful=False)
        return tf.ensure_shape(features, (*indices.shape, dataset.feature_size)), tf.gather(labels, indices)

    return batches.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


@tf.autograph.experimental.do_not_convert
def _cropped(path, preprocessing, augmentation, seed, max_pixels=MAX_PIXELS):
    """The random crop of an image, stretched to the size; of a JPEG no other part is decoded, nor pixels of no use.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least as many pixels of the crop as the result
    has, whose edges then are at multiples of 2, 4 or 8 pixels. The resized photographs then differ from those decoded
    in full by one or two of 256 gray levels on average, as they do between anti-aliasing filters (bilinear, box).
    The crop is drawn in the upright image, and found again in the stored one.
    """
    # A random crop takes the place of the central one.
    to_size = Preprocessing(preprocessing.size, preprocessing.channels)
    # The decoder repeats gray where color is asked for; how color becomes gray is for the preprocessing to say.
    channels = 3 if to_size.channels == 3 else 0

    def decode(contents):
        return tf.cond(is_jpeg(contents), lambda: jpeg(contents), lambda: crop(decode_whole(contents, max_pixels)))

    def jpeg(contents):
        # Most files have no orientation, and need none of what follows from one.
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
        # The number of ratios that leave enough is the place of the largest.
        place = tf.reduce_sum(tf.cast(is_enough, tf.int32))

        def decoder(ratio):
            return lambda: tf.io.decode_and_crop_jpeg(contents, stored // ratio, channels=channels, ratio=ratio)

        return tf.switch_case(place, [decoder(ratio) for ratio in _DECODING_RATIOS])

    def crop(image):
        return augmentation.crop(image, seed)

    # Resized after the branches: in each of them, the resizing would be traced again.
    return to_size(read_in_graph(path, decode, crop, max_pixels))
