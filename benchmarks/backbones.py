"""Measure parameters, time and memory of backbones, in embedding images and in training.

A step embeds a batch (128 dimensions, average pooling), computes the contrastive loss C2 and updates the weights with
Adam. Each backbone, with trainable and with frozen batch normalization, runs in a separate process. Memory is the peak
of that process beyond its memory after TensorFlow was loaded. Parameters include the embedding layer. Ratios are
relative to the first row. "checkpointed" is a step with gradient checkpointing, "memory" its peak relative to that of
the step without.

    python benchmarks/backbones.py
    python benchmarks/backbones.py bn_inception --frozen all --batch 32 --side 227
    python benchmarks/backbones.py efficientnet_lite0,last_stride=1 keras.applications.MobileNetV2 --side 96
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import children  # noqa: E402
from tfdml import backbones  # noqa: E402
from tfdml.backbones.batch_normalization import FROZEN  # noqa: E402
from tfdml.models import MetricModel, build_embedder, inference_function  # noqa: E402

BACKBONES = ("bn_inception", "googlenet", "resnet50")
PER_CLASS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=BACKBONES, metavar="BACKBONE", help="default: the large ones")
    parser.add_argument("--frozen", nargs="+", choices=FROZEN, default=("none", "all"), help="batch normalization")
    parser.add_argument("--batch", type=int, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument("--side", type=int, default=227, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps, after two untimed (default: %(default)s)")
    parser.add_argument("--xla", action="store_true", help="compile the step with XLA")
    parser.add_argument("--checkpointing", action="store_true", help="also measure with gradient checkpointing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    print(
        f"TensorFlow {tf.__version__}, {len(os.sched_getaffinity(0))} cores. One training step, batch "
        f"{options.batch} of {options.side}x{options.side}, {'XLA' if options.xla else 'graph'}."
    )
    width = max(map(len, options.backbones))
    print(
        f"{'backbone':{width}s} {'frozen':11s} {'parameters':>10s} {'embed ms/image':>14s} {'ratio':>6s} "
        f"{'train s/step':>12s} {'ratio':>6s} {'peak MiB':>9s} {'ratio':>6s}"
    )
    first = None
    for backbone in options.backbones:
        for frozen in options.frozen:
            parameters, *measured = run_in_child(backbone, frozen, options)
            first = first or measured
            (embed, train, peak), ratios = measured, [one / other for one, other in zip(measured, first)]
            print(
                f"{backbone:{width}s} {frozen:11s} {parameters / 1e6:8.2f} M {embed:14.2f} {ratios[0]:6.2f} "
                f"{train:12.2f} {ratios[1]:6.2f} {peak:9.0f} {ratios[2]:6.2f}",
                flush=True,
            )
            if options.checkpointing and frozen != "none":
                _, _, longer, less = run_in_child(backbone, frozen, options, "--checkpointing")
                print(
                    f"{backbone:{width}s} {frozen:11s} checkpointed: {longer:.2f} s/step, ratio {longer / train:.2f}; "
                    f"{less:.0f} MiB, memory ratio {less / peak:.2f}",
                    flush=True,
                )


def run_in_child(backbone, frozen, options, *more):
    given = [f"--{option}={getattr(options, option)}" for option in ("batch", "side", "repeats")]
    given += ["--xla"] if options.xla else []
    return children.result_of(__file__, backbone, "--child", "--frozen", frozen, *given, *more)


def measure(options):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.random((options.batch, options.side, options.side, 3), np.float32))
    labels = tf.constant(np.arange(options.batch) // PER_CLASS)
    before = children.high_water_mark()
    name, *settings = options.backbones[0].split(",")
    settings = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in settings)}
    backbone = backbones.get(
        name, (options.side, options.side, 3), weights=None, frozen_batch_norm=options.frozen[0], **settings
    )
    embedder = build_embedder(backbone, embedding_size=128)
    model = MetricModel(embedder)
    model.compile(optimizer="adam", loss="c2", jit_compile=options.xla, gradient_checkpointing=options.checkpointing)
    train = median_seconds(lambda: model.train_on_batch(images, labels), options.repeats)
    peak = children.high_water_mark() - before
    embed_batch = inference_function(embedder)
    embed = median_seconds(lambda: embed_batch(images), options.repeats)
    return embedder.count_params(), 1000 * embed / options.batch, train, peak


def median_seconds(step, repeats):
    """Median time of a step, after two that are not timed."""
    times = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        np.asarray(step())
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


if __name__ == "__main__":
    main()
