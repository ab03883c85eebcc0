"""Measure images per second and peak memory of the training pipeline from JPEG files, and the cost of its sampler.

    python benchmarks/input_pipeline.py                          # images of 500×375 pixels, as in CUB-200-2011
    python benchmarks/input_pipeline.py --size 1500 1125
    python benchmarks/input_pipeline.py --only sampler

Images are written to a temporary folder and augmented as in the protocols: a random crop of 16–100 % of the area,
resized to 227×227 with anti-aliasing, and a flip; float32 in 0–1, batches of 32. The variants are

    tfdml        balanced_batches
    pillow       two threads that open, crop and resize with Pillow, and write into the batch's array
    whole        textbook tf.data: the whole image is decoded, converted to float, cropped, resized and flipped

The sampler is compared with the same images and preprocessing in the order of the dataset instead of drawn by class
(`ordered`), from files and in memory, with 200 classes (CUB-200-2011) and with 11,318 classes (the training half of
Stanford Online Products). Variants are timed alternately in one run; a ratio is the median of the ratios of the rounds.
Memory is the peak of a separate process beyond its memory before the pipeline.
"""

import argparse
import concurrent.futures
import functools
import itertools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import children  # noqa: E402
from tfdml.data import (  # noqa: E402
    Augmentation,
    BalancedSampler,
    LabeledImages,
    Preprocessing,
    balanced_batches,
    batches,
)

SIDE, BATCH = 227, 32
AREA, ASPECT = (0.16, 1.0), (3 / 4, 4 / 3)
PREPROCESSING, AUGMENTATION = Preprocessing((SIDE, SIDE), 3), Augmentation(horizontal_flip=True, crop_area=AREA)
SETS = {"200 classes": (11_788, 200), "11,318 classes": (59_551, 11_318)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"),
                        help="size of the images in pixels (default: 500 375)")  # fmt: skip
    parser.add_argument("--images", type=int, default=64, help="number of images (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=60, help="batches per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timing rounds (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=2.0, help="untimed seconds per round (default: %(default)s)")
    parser.add_argument("--only", choices=("files", "sampler"), help="run one of the two comparisons")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(peak_memory(*given.child, given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(folder, given.images, tuple(given.size))
        kibibytes = statistics.mean(os.path.getsize(path) for path in paths) / 1024
        width, height = given.size
        print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores; {given.images} JPEGs of {width}x{height} pixels "
              f"and {kibibytes:.0f} KiB; batches of {BATCH}")  # fmt: skip
        if given.only != "sampler":
            compare_ways(folder, paths, given)
        if given.only != "files":
            compare_samplers(paths, given)


def make_images(folder, count, size):
    """Write images of soft shapes with noise, which compress about as well as photographs; returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        image = np.asarray(coarse.resize(size, Image.BICUBIC)) + rng.normal(scale=6.0, size=(*size[::-1], 3))
        paths.append(str(pathlib.Path(folder) / f"{number:04d}.jpg"))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


# --------------------------------------------------------------------------------- three variants from files to batches


def compare_ways(folder, paths, given):
    speeds, _ = by_turns({way: functools.partial(make, paths) for way, make in WAYS.items()}, given)
    print(f"{'way':10s} {'images/s':>10s} {'tfdml is':>9s} {'peak MiB':>9s}")
    for way, values in speeds.items():
        mebibytes = run_in_child(folder, way, given)
        print(f"{way:10s} {statistics.median(values):10.0f} {ratio(speeds['tfdml'], values):8.2f}x {mebibytes:9.0f}")


def tfdml_batches(paths):
    labels = np.arange(len(paths)) % 8
    return balanced_batches(LabeledImages(paths, labels, "abcdefgh"), 8, 4, 0, PREPROCESSING, AUGMENTATION)


def whole_batches(paths):
    def image(path):
        image = tf.image.convert_image_dtype(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), tf.float32)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 1, 4)),
            min_object_covered=0.0,
            area_range=AREA,
            aspect_ratio_range=ASPECT,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, begin, size), (SIDE, SIDE), antialias=True)
        return tf.image.random_flip_left_right(image)

    images = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    return images.map(image, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(2)


def pillow_batches(paths):
    """Batches of two Pillow threads. Three batches are in progress at any time, as with tf.data."""
    rng = np.random.default_rng(0)

    def fill(batch, place, path, draws):
        area, aspect, left, top, mirror = draws
        with Image.open(path) as image:
            # `convert` would copy an image that is already RGB.
            image = image if image.mode == "RGB" else image.convert("RGB")
            pixels = (AREA[0] + area * (AREA[1] - AREA[0])) * image.width * image.height
            aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
            width, height = min(image.width, (pixels * aspect) ** 0.5), min(image.height, (pixels / aspect) ** 0.5)
            left, top = round(left * (image.width - width)), round(top * (image.height - height))
            box = (left, top, left + round(width), top + round(height))
            crop = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
        # A single operation mirrors, converts to float, scales and stacks.
        np.multiply(crop[:, ::-1] if mirror < 0.5 else crop, np.float32(1 / 255), out=batch[place])

    with concurrent.futures.ThreadPoolExecutor(2) as threads:

        def begin():
            batch = np.empty((BATCH, SIDE, SIDE, 3), np.float32)
            chosen = rng.choice(paths, BATCH)
            return batch, [threads.submit(fill, batch, place, path, rng.random(5)) for place, path in enumerate(chosen)]

        under_way = [begin() for _ in range(3)]
        while True:
            batch, tasks = under_way.pop(0)
            for task in tasks:
                task.result()
            under_way.append(begin())
            yield batch


WAYS = {"tfdml": tfdml_batches, "pillow": pillow_batches, "whole": whole_batches}


# ----------------------------------------------------------------------------------------- the cost of drawing by class


def compare_samplers(paths, given):
    print(f"{'':30s} {'images/s':>10s} {'ordered':>10s} {'costs':>7s} {'first batch, s':>15s}")
    rng = np.random.default_rng(0)
    for name, (count, classes) in SETS.items():
        extra = rng.multinomial(count - 2 * classes, rng.dirichlet(np.full(classes, 2.0)))
        labels = rng.permutation(np.repeat(np.arange(classes), 2 + extra))
        names = tuple(map(str, range(classes)))
        small = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        turning = Augmentation(rotation=10, translation=0.1, horizontal_flip=True, crop_area=AREA)
        files, arrays = (LabeledImages(images, labels, names) for images in (list(rng.choice(paths, count)), small))
        to_32 = Preprocessing((32, 32), 3)
        sources = {
            "JPEG files": (files, PREPROCESSING, AUGMENTATION, 1),
            "32x32 in memory": (arrays, to_32, turning, 60),
            "32x32 in memory, as they are": (arrays, to_32, None, 120),
        }
        print(f"{name}: {1e6 * drawing_alone(labels):.0f} microseconds a batch for drawing alone")
        for source, (dataset, preprocessing, augmentation, longer) in sources.items():
            rest = dataset, preprocessing, augmentation
            ways = {
                "drawn": functools.partial(drawn_batches, *rest),
                "ordered": functools.partial(ordered_batches, *rest),
            }
            speeds, firsts = by_turns(ways, given, longer)
            print(
                f"{source:30s} {statistics.median(speeds['drawn']):10.0f} "
                f"{statistics.median(speeds['ordered']):10.0f} {ratio(speeds['ordered'], speeds['drawn']) - 1:+7.1%} "
                f"{firsts['drawn']:6.2f} ({firsts['ordered']:.2f})",
                flush=True,
            )


def drawn_batches(dataset, preprocessing, augmentation):
    return balanced_batches(dataset, 8, 4, 0, preprocessing, augmentation)


def ordered_batches(dataset, preprocessing, augmentation):
    """Pipeline of `balanced_batches` in the order of the dataset. Not public, because it is not useful for training."""
    order = np.arange(len(dataset), dtype=np.int64)
    indices = tf.data.Dataset.from_tensor_slices(order).batch(BATCH, drop_remainder=True).repeat()
    return batches._with_images(indices, dataset, BATCH, preprocessing, augmentation, is_endless=True)


# ------------------------------------------------------------------------------------------------------- measurements


def by_turns(ways, given, longer=1):
    """Measure images per second of each variant in each round, and the median seconds to its first batch.

    In each round a variant starts from scratch, runs alone, and is timed after a warm-up without a pause. So batches
    that were prefetched before the timing are balanced by those that are prefetched at its end.
    """
    speeds, firsts = {way: [] for way in ways}, {way: [] for way in ways}
    number = given.batches * longer
    for _ in range(given.rounds):
        for way, source in ways.items():
            start = time.perf_counter()
            iterator = iter(source())
            next(iterator)
            firsts[way].append(time.perf_counter() - start)
            until = time.perf_counter() + given.warm_up
            while time.perf_counter() < until:
                next(iterator)
            start = time.perf_counter()
            for _ in range(number):
                next(iterator)
            speeds[way].append(BATCH * number / (time.perf_counter() - start))
            # Also ends its threads.
            del iterator
    return speeds, {way: statistics.median(values) for way, values in firsts.items()}


def drawing_alone(labels, epochs=20):
    """Seconds that the sampler takes per batch, without a pipeline and after the first epoch."""
    sampler = BalancedSampler(labels, 8, 4, 0)
    sampler.epoch(0)
    start = time.perf_counter()
    for epoch in range(1, 1 + epochs):
        sampler.epoch(epoch)
    return (time.perf_counter() - start) / (epochs * sampler.steps_per_epoch)


def ratio(first, second):
    return statistics.median(one / other for one, other in zip(first, second))


def run_in_child(folder, way, given):
    return children.result_of(__file__, "--child", folder, way, "--batches", given.batches)


def peak_memory(folder, way, given):
    paths = sorted(map(str, pathlib.Path(folder).glob("*.jpg")))
    before = children.high_water_mark()
    for _ in itertools.islice(WAYS[way](paths), given.batches):
        pass
    return children.high_water_mark() - before


if __name__ == "__main__":
    main()
