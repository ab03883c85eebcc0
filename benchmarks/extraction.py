"""Measure the extraction of features of image files into Parquet shards, in one process and on Ray.

The files are JPEG photos of noise with the spectrum of natural images, made for the measurement. Each row is measured
with a quarter of the images and with all of them: "images/s" is the rate of the other three quarters, and "start" the
rest of the time (loading the network, starting Ray). "CPU" is the processor time per 1,000 images in one
process, without the start; it depends less than the rate on what else the machine does. Core hours per million images
are extrapolated from it.

    python benchmarks/extraction.py
    python benchmarks/extraction.py --backbone resnet50 --size 224 --photo 375 500 --workers 1 2
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

from tfdml import backbones  # noqa: E402
from tfdml.data import LabeledImages  # noqa: E402
from tfdml.experiments import extract_to_parquet  # noqa: E402
from tfdml.models import build_embedder  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet_lite0", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=96, help="side of the network's input (default: %(default)s)")
    parser.add_argument("--photo", type=int, nargs=2, default=(240, 320), help="height and width of the files")
    parser.add_argument("--images", type=int, default=1600, help="number of files (default: %(default)s)")
    parser.add_argument("--shard-size", type=int, default=100, help="images per shard (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="*", default=(1, 2), help="Ray workers (default: 1 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(pathlib.Path(folder), options)


def measure(folder, options):
    size = (options.size, options.size, 3)
    embedder = build_embedder(backbones.get(options.backbone, size, weights=None), embedding_size=128)
    embedder.save(folder / "model.keras")
    paths = write_photos(folder / "photos", options)
    kilobytes = sum(os.path.getsize(path) for path in paths) / len(paths) / 1000
    print(
        f"TensorFlow {tf.__version__}, {len(os.sched_getaffinity(0))} cores. {options.backbone} {size[0]}x{size[1]}; "
        f"{len(paths)} photos of {options.photo[0]}x{options.photo[1]}, {kilobytes:.0f} kB each"
    )
    print(f"{'':18s} {'start s':>7s} {'images/s':>8s} {'CPU s/1,000':>11s} {'core hours per million':>22s}")
    for workers in (None, *options.workers):
        name = "one process" if workers is None else f"Ray, {workers} worker{'s' * (workers > 1)}"
        times = []
        for count in (len(paths) // 4, len(paths)):
            images = LabeledImages(paths[:count], np.zeros(count, int), ("",))
            out = folder / f"{workers}-{count}"
            begin, cpu = time.perf_counter(), processor_seconds()
            how = {"shard_size": options.shard_size, "verbose": False}
            extract_to_parquet(folder / "model.keras", images, out, ray=workers is not None, workers=workers, **how)
            times.append((count, time.perf_counter() - begin, processor_seconds() - cpu))
        (few, short, little), (many, long, much) = times
        rate, cpu = (many - few) / (long - short), 1000 * (much - little) / (many - few)
        used = f" {cpu:11.2f} {cpu / 3.6:22.1f}" if workers is None else ""
        print(f"{name:18s} {long - many / rate:7.1f} {rate:8.1f}{used}", flush=True)


def write_photos(folder, options):
    """Write JPEG files whose amplitudes fall with the frequency; return their paths."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    height, width = options.photo
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    paths = []
    for number in range(options.images):
        if number < 32:
            noise = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency
            image = np.fft.irfft2(noise, (height, width)).transpose(1, 2, 0)
            image = np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / f"{number:06d}.jpg", quality=85)
        else:
            content = (folder / f"{number % 32:06d}.jpg").read_bytes()
            (folder / f"{number:06d}.jpg").write_bytes(content)
        paths.append(str(folder / f"{number:06d}.jpg"))
    return paths


def processor_seconds():
    """Processor time of this process."""
    return time.process_time()


if __name__ == "__main__":
    main()
