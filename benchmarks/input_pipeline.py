"""Pictures per second of the training pipeline, with JPEG decoding fused with the random crop and without.

python benchmarks/input_pipeline.py                          # pictures of 500×375 pixels, as in CUB-200-2011
python benchmarks/input_pipeline.py --size 1500 1125

Pictures are written to a temporary folder and go through the augmentation of the protocols: a random crop of 16–100 %
of the area, resized to 227×227, and a flip. Both ways are timed by turns in the same run; the ratio of their medians is
what counts.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from tfdml.data import Augmentation, LabeledImages, Preprocessing, balanced_batches, batches  # noqa: E402


def make_pictures(folder, count, size):
    """Writes pictures of soft shapes with noise, which compress about as well as photographs; returns a set of them."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(size, Image.BICUBIC)) + rng.normal(scale=6.0, size=(*size[::-1], 3))
        paths.append(str(pathlib.Path(folder) / f"{number}.jpg"))
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return LabeledImages(paths, np.arange(count) % 8, "abcdefgh", name="jpegs")


def unfused(contents, is_jpeg, augmentation, seed):
    """Decodes the whole picture, then crops."""
    del is_jpeg
    return augmentation.crop(Preprocessing((1, 1), 3).decode(contents), seed)


def pictures_per_second(dataset, number_of_batches, crop):
    with mock.patch.object(batches, "_cropped", crop):
        pipeline = balanced_batches(
            dataset, 8, 4, 0, Preprocessing((227, 227), 3), Augmentation(horizontal_flip=True, crop_area=(0.16, 1.0))
        )
        iterator = iter(pipeline)
    next(iterator)
    start = time.perf_counter()
    for _ in range(number_of_batches):
        next(iterator)
    return 32 * number_of_batches / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ways = {"fused": batches._cropped, "unfused": unfused}
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_pictures(folder, given.pictures, tuple(given.size))
        size = statistics.mean(os.path.getsize(path) for path in dataset.images)
        width, height = given.size
        print(f"{given.pictures} JPEGs of {width}x{height} pixels and {size / 1024:.0f} KiB; batches of 32")
        speeds = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way, crop in ways.items():
                speeds[way].append(pictures_per_second(dataset, given.batches, crop))
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    for way, values in speeds.items():
        print(f"{way:8} {medians[way]:7.0f} pictures/s  (rounds: {', '.join(f'{value:.0f}' for value in values)})")
    print(f"ratio    {medians['fused'] / medians['unfused']:7.2f}")


if __name__ == "__main__":
    main()
