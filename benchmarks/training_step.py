"""Time training steps of MetricModel and CCPModel relative to a plain Keras step of the same network, in one run.

"plain" is keras.Model with the same embedder, optimizer and batch, and a loss of negligible cost: forward, backward,
update. The other variants:

    c2              C2 inside the batch
    c2_l2           with an L2 term on the weights
    proxies         C2 against trainable proxies, four per class
    proxies_unchecked   the same without the check of labels in the step
    memory          C2 inside the batch and against a memory of 1,024 embeddings
    ccp             CCPModel in its second problem: proxies, and the pull towards the first solution
    gsp             generalized sum pooling with 64 prototypes, C2; the network is not the plain one's
    gsp_zero_shot   the same with the zero-shot prediction loss of its attributes

Variants are timed alternately, so that other work on the machine slows all of them alike. A ratio is the median of the
ratios of the rounds, and "best" the ratio of the fastest rounds. Memory is the peak of a separate process beyond its
memory before the model was created.

    python benchmarks/training_step.py
    python benchmarks/training_step.py c2 gsp_zero_shot --profile   # a profile instead of ratios
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import sys
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import children, profiles  # noqa: E402
from tfdml import layers, models  # noqa: E402
from tfdml.ops import pairs  # noqa: E402

PLAIN = "plain"
VARIANTS = ("c2", "c2_l2", "proxies", "proxies_unchecked", "memory", "ccp", "gsp", "gsp_zero_shot")
MODES = {"graph": False, "xla": True}
DIM = 128
# Checks of labels in the step, and their replacements.
UNCHECKED = (
    ("check_label_range", lambda labels, *_: labels),
    ("known_labels", lambda labels, *_: tf.ones(tf.shape(labels), tf.bool)),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=VARIANTS, metavar="VARIANT", help="default: all")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES), help="default: both")
    parser.add_argument("--backbone", default="resnet20v2", help="name of the backbone (default: %(default)s)")
    parser.add_argument("--side", type=int, default=32, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=300, help="number of classes (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=60, help="timing rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps per round (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="print a profile in graph mode instead of ratios")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.variants) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown variants. Received: {', '.join(unknown)}. Expected: {', '.join(VARIANTS)}")
    if options.child:
        print(json.dumps(peak_memory(options.child, options)))
        return
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores; {options.backbone}, "
        f"batch {options.batch} of {options.side}x{options.side}"
    )
    if options.profile:
        for name in options.variants:
            profile(name, options)
        return
    for mode in options.modes:
        compare(mode, options)


def compare(mode, options):
    names = (PLAIN, *options.variants)
    batches = make_batches(options)
    trainings = {name: Training(make_model(name, mode, options), batches, name) for name in names}
    times = {name: [] for name in names}
    for _ in range(options.turns):
        for name, training in trainings.items():
            times[name].append(training.seconds(options.steps))
    print(f"{mode:17s} {'ms':>8s} {'ratio':>7s} {'best':>7s} {'peak MiB':>9s}")
    for name in names:
        ratios = np.divide(times[name], times[PLAIN])
        print(
            f"{name:17s} {1e3 * np.median(times[name]):8.1f} {np.median(ratios):7.3f} "
            f"{min(times[name]) / min(times[PLAIN]):7.3f} {memory_in_child(name, mode, options):9.0f}",
            flush=True,
        )


def make_batches(options):
    rng = np.random.default_rng(0)
    images = rng.random((options.batch, options.side, options.side, 1)).astype("float32")
    labels = np.repeat(rng.permutation(options.classes)[: max(2, options.batch // 4)], 4)[: options.batch]
    return tf.data.Dataset.from_tensors((images, labels)).cache().repeat()


def make_model(name, mode, options):
    keras.utils.set_random_seed(0)
    pooling, pooling_options = "gap", None
    if name.startswith("gsp"):
        pooling, pooling_options = "gsp", {"return_attributes": name == "gsp_zero_shot"}
    shape = (options.side, options.side, 1)
    embedder = models.build_embedder(options.backbone, pooling, DIM, "clip", shape, pooling_options)
    compiled = {"optimizer": keras.optimizers.Adam(1e-4, global_clipnorm=10.0), "jit_compile": MODES[mode]}
    if name == PLAIN:
        embedder.compile(loss=lambda labels, embeddings: tf.reduce_mean(embeddings, axis=-1), **compiled)
        return embedder
    references, arguments = None, {}
    if name.startswith("proxies") or name == "ccp":
        references = layers.ClassProxies(options.classes, per_class=4, embedding_size=DIM)
    elif name == "memory":
        references = layers.CrossBatchMemory(1024, DIM)
    elif name == "gsp_zero_shot":
        arguments["zero_shot"] = layers.ZeroShotPrediction(options.classes, DIM)
    of_class = models.CCPModel if name == "ccp" else models.MetricModel
    model = of_class(embedder, references, **arguments)
    model.compile(loss="c2", weight_decay=1e-4 if name == "c2_l2" else 0.0, **compiled)
    if name == "ccp":
        model.begin_projection(np.asarray(references.proxies))
    return model


class Training:
    """Training step of a model, as `fit` runs it."""

    def __init__(self, model, batches, name=PLAIN):
        self.model, self.batches = model, iter(batches)
        # Keras 3 stores the function, Keras 2 returns it.
        self.step = model.make_train_function() or model.train_function
        # Traces the step and fills the memory, since a partial memory costs less.
        with contextlib.ExitStack() as without_checks:
            if name == "proxies_unchecked":
                for function in UNCHECKED:
                    without_checks.enter_context(mock.patch.object(pairs, *function))
            self.seconds(40)

    def seconds(self, steps):
        """Seconds of one step."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.batches)
        # Waits for the last step.
        tf.convert_to_tensor(self.model.optimizer.iterations).numpy()
        return (time.perf_counter() - start) / steps


def profile(name, options, steps=10):
    """Print the milliseconds of the operations of a step, summed over the cores, by purpose."""
    training = Training(make_model(name, "graph", options), make_batches(options), name)
    found = profiles.operations(lambda: training.seconds(steps))
    parts, kinds = collections.defaultdict(float), collections.defaultdict(float)
    for operation, kind, milliseconds in found:
        part = part_of(operation, kind)
        parts[part] += milliseconds / steps
        kinds[part, kind] += milliseconds / steps
    total = sum(parts.values())
    print(f"{name}: {total:.1f} ms in {len(found) / steps:.0f} operations a step, summed over {os.cpu_count()} cores")
    for part, milliseconds in sorted(parts.items(), key=lambda item: -item[1]):
        largest = sorted(((ms, kind) for (of, kind), ms in kinds.items() if of == part), reverse=True)[:4]
        print(f"{milliseconds:9.2f} ms {milliseconds / total:6.1%}  {part:28s} "
              f"{', '.join(f'{kind} {ms:.2f}' for ms, kind in largest)}")  # fmt: skip


def part_of(operation, kind):
    if kind.startswith("Iterator"):
        return "input"
    if "embedder" in operation:
        place = "pooling" if "/pooling" in operation else "network"
        return f"{place}, {'backward' if 'gradient_tape' in operation else 'forward'}"
    if operation.lower().startswith(("adam", "clip", "global_norm")):
        return "clipping and update"
    if kind == "AddN":
        return "sums of gradients"
    return "losses, references, the rest"


def memory_in_child(name, mode, options):
    given = [f"--{option}={getattr(options, option)}" for option in ("backbone", "side", "batch", "classes")]
    return children.result_of(__file__, "--child", name, "--modes", mode, *given)


def peak_memory(name, options):
    batches, before = make_batches(options), children.high_water_mark()
    Training(make_model(name, options.modes[0], options), batches, name)
    return children.high_water_mark() - before


if __name__ == "__main__":
    main()
