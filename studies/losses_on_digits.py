"""Does every loss train? Small networks on scikit-learn's digits, evaluated on held-out images.

python -m studies.losses_on_digits --out DIR
"""

from typing import Literal, Optional

import keras
import numpy as np
import tensorflow as tf

from studies.report import Report, command
from tfdml import data, layers, losses, metrics, models

DIM = 16
CLASSES = 10
MARGIN_OVER_UNTRAINED = 0.05
# Their formula uses inner products of any length, so embeddings are not normalized.
WITHOUT_NORMALIZATION = ("n_pairs",)
# A margin of half a radian between two samples, rather than a sample and its class center, collapses the embedding.
AMONG_SAMPLES = {"arc_face": {"margin": 10.0}}
# Losses on given pairs rather than on a batch of classes.
PAIRED = ("in_batch_negatives", "pair_contrastive")


def losses_on_digits(
    out: str,
    names: Optional[list[str]] = None,
    references: list[Literal["batch", "memory", "proxies"]] = ("batch", "memory", "proxies"),
    steps: int = 200,
    seeds: list[int] = (0,),
    quick: bool = False,
):
    """Train a small network with every loss and compare it with the untrained network.

    With "batch" the loss is passed to a plain `keras.Model.compile`. With "memory" and "proxies" a `MetricModel`
    compares the batch with a cross-batch memory (and itself) or with two proxies per class. Every third image is held
    out for the MAP@R. Ten digits are too few for a test on unseen classes, which the other studies measure.

    Args:
        out: Folder for the table.
        names: Names of the losses. Default: all.
        references: References that the batch is compared with.
        steps: Number of training steps.
        seeds: Seeds; each combination is trained once per seed.
        quick: Run 40 steps and two losses.

    Returns:
        dict from (loss, references) to the MAP@R of each seed. The loss "untrained" is the network before training.
    """
    names = list(names or losses.names())
    if quick:
        steps, names = 40, names[:2]
    train, test = _digits()
    results = {("untrained", "batch"): [_map_at_r(_network(seed), test) for seed in seeds]}
    for name in names:
        for kind in references:
            if kind != "batch" and name in PAIRED:
                continue
            results[name, kind] = [_train(name, kind, train, test, steps, seed) for seed in seeds]
            print(f"{name:28s} {kind:8s} {np.mean(results[name, kind]):.3f}", flush=True)
    _report(out, names, references, results, steps, seeds)
    return results


def _digits():
    digits = data.load("digits")
    images, labels = np.asarray(digits.images, "float32") / 255.0, np.asarray(digits.labels)
    test = np.arange(len(labels)) % 3 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def _network(seed, normalized=True):
    keras.utils.set_random_seed(seed)
    parts = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu", data_format="channels_last"),
        keras.layers.Conv2D(32, 3, activation="relu", data_format="channels_last"),
        keras.layers.Flatten(data_format="channels_last"),
        keras.layers.Dense(DIM),
    ]
    return keras.Sequential([*parts, layers.L2Normalization()] if normalized else parts)


def _batches(train, seed, batch_size=48):
    """Endless random batches with about five images of every digit."""
    images, labels = train
    generator = np.random.default_rng(seed)
    while True:
        chosen = generator.choice(len(labels), batch_size, replace=False)
        yield images[chosen], labels[chosen]


def _train(name, kind, train, test, steps, seed):
    network = _network(seed, normalized=name not in WITHOUT_NORMALIZATION)
    optimizer = keras.optimizers.Adam(1e-3)
    if name in PAIRED:
        return _train_pairs(name, network, train, test, steps, seed)
    loss = losses.get(name, **({} if kind == "proxies" else AMONG_SAMPLES.get(name, {})))
    if kind == "batch":
        model = network
        model.compile(optimizer=optimizer, loss=loss)
    else:
        model = models.MetricModel(network, _references(kind))
        of_proxies = keras.optimizers.Adam(1e-1) if kind == "proxies" else None
        model.compile(optimizer=optimizer, loss=loss, reference_optimizer=of_proxies)
    model.fit(_batches(train, seed), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return _map_at_r(network, test)


class _Distance(keras.layers.Layer):
    """Distances between two batches of embeddings, `(batch,)`."""

    def call(self, both):
        return tf.sqrt(tf.reduce_sum(tf.square(both[0] - both[1]), axis=-1) + 1e-12)


def _train_pairs(name, network, train, test, steps, seed):
    """Train a loss on given pairs: a plain model embeds two images at a time with one network."""
    inputs = keras.Input((2, 8, 8, 1))
    both = [network(inputs[:, 0]), network(inputs[:, 1])]
    distances = name == "pair_contrastive"
    outputs = _Distance()(both) if distances else keras.layers.Concatenate(axis=1)(
        [keras.layers.Reshape((1, DIM))(embeddings) for embeddings in both]
    )  # fmt: skip
    model = keras.Model(inputs, outputs)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=losses.get(name))

    def pairs():
        images, labels = train
        generator = np.random.default_rng(seed)
        of_class = [np.flatnonzero(labels == label) for label in range(CLASSES)]
        while True:
            first = generator.integers(0, CLASSES, 24)
            # Every second pair has different digits, if the loss receives that label.
            second = np.where(distances & (np.arange(24) % 2 == 0), generator.permutation(first), first)
            chosen = [[generator.choice(of_class[label]) for label in pair] for pair in zip(first, second)]
            yield images[np.array(chosen)], (first == second).astype("float32") if distances else first

    model.fit(pairs(), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return _map_at_r(network, test)


def _references(kind):
    if kind == "proxies":
        return layers.ClassProxies(CLASSES, per_class=2, embedding_size=DIM)
    return layers.CrossBatchMemory(192, DIM, warmup_steps=20)


def _map_at_r(network, test):
    images, labels = test
    return float(metrics.retrieval_metrics(network.predict(images, verbose=0), labels)["map_at_r"])


def _report(out, names, references, results, steps, seeds):
    untrained = np.mean(results["untrained", "batch"])
    rows = [
        [name, *(_cell(results.get((name, kind)), untrained) for kind in references)] for name in names
    ]
    others = "; ".join(f"{name} with {AMONG_SAMPLES[name]} among samples" for name in names if name in AMONG_SAMPLES)
    columns = {"batch": "in the batch", "memory": "with a memory", "proxies": "against proxies"}
    Report(out).table(
        "losses_on_digits",
        ["loss", *(columns[kind] for kind in references)],
        rows,
        f"MAP@R on unseen images of the digits after {steps} steps, mean of {len(seeds)} seed(s); "
        f"{untrained:.3f} before training. Default options{others and f' ({others})'}. Keras {keras.__version__}.",
    )


def _cell(values, untrained):
    if values is None:
        return "–"
    mean = np.mean(values)
    return f"{mean:.3f}" + ("" if mean > untrained + MARGIN_OVER_UNTRAINED else " (not learned)")


if __name__ == "__main__":
    command(losses_on_digits)
