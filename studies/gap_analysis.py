"""How far is average pooling from a convex combination of the prototypes that cover the local features?

python -m studies.gap_analysis --out DIR
"""

from typing import Literal, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.hulls import class_hulls, hull_overlap, outline
from studies.report import Report, command
from tfdml import data, losses, metrics, models, ops

BATCH_PER_CLASS = 6
# Rounding error of a bound that can be met exactly.
TOLERANCE = 1e-9


class Analysis(NamedTuple):
    """Local features of a trained network and their prototypes.

    Attributes:
        features: float array `(images, places, 2)`. Local features of the sample, none longer than 1.
        labels: int array `(images,)`. Classes of the sample.
        prototypes: float array `(m, 2)`.
        weights: float array `(images, m)`. Share of an image's local features that are assigned to each prototype.
        radius: float. Covering radius δ of the prototypes over the sample.
        errors: float array `(images,)`. ‖GAP − PCC‖ of each image of the sample.
        all_radius: float. The covering radius over all images, in the sample or not.
        all_errors: float array. ‖GAP − PCC‖ of all these images.
        map_at_r: float. MAP@R of the pooled features of the sample.
        images: The images of the sample.
    """

    features: np.ndarray
    labels: np.ndarray
    prototypes: np.ndarray
    weights: np.ndarray
    radius: float
    errors: np.ndarray
    all_radius: float
    all_errors: np.ndarray
    map_at_r: float
    images: np.ndarray


def gap_analysis(
    out: str,
    dataset: Literal["mnist", "fashion_mnist", "cifar10"] = "mnist",
    path: Optional[str] = None,
    steps: int = 500,
    per_class: int = 64,
    prototypes: int = 48,
    active_share: float = 0.02,
    learning_rate: float = 1e-3,
    seeds: list[int] = (0, 1, 2),
    quick: bool = False,
):
    """Train a ResNet-20 with two-dimensional local features, and compare its pooled features with their prototypes.

    The network ends in a 1×1 convolution to two channels and average pooling; the loss is the contrastive C2. All
    local features are divided by the length of the longest. From a sample of test images greedy k-center chooses the
    prototypes, which cover the local features of the sample with radius δ. The prototype convex combination (PCC) of an
    image replaces each local feature by its nearest prototype before averaging (GAP). By the triangle inequality
    ‖GAP − PCC‖ ≤ δ. This is checked on every image of the sample and, with the radius over all images, of the dataset.

    Args:
        out: Folder for tables and figures.
        dataset: Dataset with ten classes of small images.
        path: Folder of its files; required for cifar10.
        steps: Number of training steps.
        per_class: Images per class in the sample.
        prototypes: Number of prototypes.
        active_share: Minimum share of the local features of a class for a prototype to be active in it. The most
            frequent prototype of a class is always active.
        learning_rate: Learning rate of Adam.
        seeds: Seeds; one network is trained per seed.
        quick: Run 20 steps, eight images per class, one seed.

    Returns:
        dict from the seed to its `Analysis`.

    Raises:
        ValueError: If there are too few prototypes to draw, or the share is out of range.
        ArithmeticError: If an image violates the bound. The tables are written first.
    """
    if prototypes < 4 or not 0.0 < active_share < 1.0:
        raise ValueError(
            f"Received: prototypes={prototypes}, active_share={active_share}. Expected: at least four prototypes and a "
            "share between 0 and 1."
        )
    if quick:
        steps, per_class, seeds = min(steps, 20), min(per_class, 8), list(seeds)[:1]
    options = {} if path is None else {"path": path}
    train, test = (data.load(dataset, part=part, **options) for part in ("train", "test"))
    results = {}
    for seed in seeds:
        embedder = _train(train, steps, learning_rate, seed)
        results[seed] = _analyse(embedder, train, test, per_class, prototypes, seed)
        print(f"seed {seed}: δ = {results[seed].radius:.4f}", flush=True)
    _report(Report(out), train, results, active_share, steps)
    broken = {seed: sum(beyond(result)) for seed, result in results.items() if sum(beyond(result))}
    if broken:
        raise ArithmeticError(f"Some images violate the bound. Received: images by seed {broken}. Expected: none.")
    return results


def combine_prototypes(features, prototypes):
    """Assign the local features of each image to their nearest prototypes.

    Args:
        features: float array `(images, places, d)`.
        prototypes: float array `(m, d)`.

    Returns:
        float array `(images, m)`, the share of each prototype; each row sums to 1.
    """
    nearest = np.stack(
        [np.linalg.norm(image[:, None] - prototypes, axis=-1).argmin(axis=1) for image in features]
    )  # fmt: skip
    return np.stack([np.bincount(row, minlength=len(prototypes)) for row in nearest]) / features.shape[1]


def beyond(result):
    """Count the images that violate the bound, in the sample and in total."""
    return (
        int(np.sum(result.errors > result.radius + TOLERANCE)),
        int(np.sum(result.all_errors > result.all_radius + TOLERANCE)),
    )


def prototype_hulls(result, active_share):
    """Compute the hull of the active prototypes of each class.

    Args:
        result: An `Analysis`.
        active_share: As for `gap_analysis`.

    Returns:
        dict from the class to a `scipy.spatial.ConvexHull`.
    """
    active = _active(result, active_share)
    # Hulls depend on the extent of all points, so all prototypes (label -1) are included even if few are active.
    points = np.concatenate([result.prototypes, *(result.prototypes[indices] for indices in active.values())])
    owners = np.repeat([-1, *active], [len(result.prototypes), *(len(indices) for indices in active.values())])
    hulls = class_hulls(points, owners)
    return {label: hulls[label] for label in active}


def _train(train, steps, learning_rate, seed):
    keras.utils.set_random_seed(seed)
    embedder = models.build_embedder(
        "resnet20", "gap", embedding_size=2, normalization=None, input_shape=train.image_shape
    )  # fmt: skip
    model = models.MetricModel(embedder)
    model.compile(keras.optimizers.Adam(learning_rate), losses.get("c2"))
    batches = data.balanced_batches(train, train.num_classes, BATCH_PER_CLASS, seed, _preprocessing(train))
    model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0)
    return embedder


def _preprocessing(images):
    return data.Preprocessing(images.image_shape[:2], images.image_shape[2])


def _local_features(forward, images):
    """Local features, float64 `(images, places, 2)`."""
    maps = models.embed(forward, data.evaluation_batches(images, 256, _preprocessing(images)))[0]
    return maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)


def _analyse(embedder, train, test, per_class, prototypes, seed):
    sample = _sample(test.labels, per_class, seed)
    forward = models.inference_function(models.local_features(embedder))
    of_test = _local_features(forward, test)
    everything = np.concatenate([_local_features(forward, train), of_test])
    longest = np.linalg.norm(everything, axis=-1).max()
    everything, features = everything / longest, of_test[sample] / longest

    points = features.reshape(-1, features.shape[-1])
    chosen = points[ops.greedy_k_center(tf.constant(points), prototypes).numpy()]
    weights, all_weights = combine_prototypes(features, chosen), combine_prototypes(everything, chosen)
    pooled = features.mean(axis=1)
    return Analysis(
        features,
        test.labels[sample],
        chosen,
        weights,
        metrics.covering_radius(points, chosen),
        np.linalg.norm(pooled - weights @ chosen, axis=-1),
        metrics.covering_radius(everything.reshape(-1, everything.shape[-1]), chosen),
        np.linalg.norm(everything.mean(axis=1) - all_weights @ chosen, axis=-1),
        metrics.retrieval_metrics(pooled, test.labels[sample])["map_at_r"],
        test.images[sample],
    )


def _sample(labels, per_class, seed):
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([generator.permutation(of_class)[:per_class] for of_class in members])


def _active(result, active_share):
    """dict from the class to the indices of its active prototypes, at least one."""
    shares = {
        int(label): result.weights[result.labels == label].mean(axis=0) for label in np.unique(result.labels)
    }  # fmt: skip
    return {label: np.flatnonzero(share >= min(active_share, share.max())) for label, share in shares.items()}


def _report(report, train, results, active_share, steps):
    rows = []
    for seed, result in results.items():
        active = _active(result, active_share)
        counts = np.bincount(np.concatenate(list(active.values())), minlength=len(result.prototypes))
        outside, outside_of_all = beyond(result)
        rows.append(
            [
                seed,
                f"{result.map_at_r:.3f}",
                f"{result.radius:.4f}",
                f"{result.errors.mean():.4f}",
                f"{result.errors.max():.4f}",
                f"{outside} of {len(result.errors)}",
                f"{result.all_radius:.4f}",
                f"{result.all_errors.max():.4f}",
                f"{outside_of_all} of {len(result.all_errors)}",
                f"{np.sum(counts > 1)} of {np.sum(counts > 0)}",
                f"{100 * hull_overlap(prototype_hulls(result, active_share).values()).pairs:.0f}",
                f"{100 * hull_overlap(class_hulls(result.features.mean(axis=1), result.labels).values()).pairs:.0f}",
            ]
        )
    first = next(iter(results.values()))
    report.table(
        "gap_analysis",
        [
            "seed",
            "MAP@R",
            "δ",
            "mean ‖GAP − PCC‖",
            "largest",
            "above δ",
            "δ over all images",
            "largest ‖GAP − PCC‖ of all",
            "above",
            "active prototypes shared by classes",
            "overlapping hulls of active prototypes (% of pairs)",
            "overlapping hulls of embeddings (% of pairs)",
        ],
        rows,
        f"{train.name}: ResNet-20 after {steps} steps, {len(first.prototypes)} prototypes over the "
        f"{first.features[..., 0].size} local features of {len(first.errors)} test images, lengths <= 1. "
        f"Active: at least {100 * active_share:g}% of the local features of a class. Keras {keras.__version__}.",
    )
    report.figure("prototypes", plots.prototype_cover(first.features.reshape(-1, 2), first.prototypes))
    pooled = first.features.mean(axis=1)
    marks = {"prototypes": (first.prototypes, None)}
    hulls = {
        "hulls of the active prototypes": prototype_hulls(first, active_share),
        "hulls of the embeddings": class_hulls(pooled, first.labels),
    }
    points = {"hulls of the embeddings": (pooled, first.labels)}
    panels = {
        name: plots.HullPanel(
            {label: outline(hull) for label, hull in of.items()}, *points.get(name, (None, None)), marks
        )
        for name, of in hulls.items()
    }
    report.figure(
        "hulls", plots.class_hulls(panels, points_name="embeddings (GAP)", class_names=train.class_names)
    )  # fmt: skip
    # The image of median error of three classes: neither the best nor the worst.
    shown = [_middling(first, label) for label in np.unique(first.labels)[:3]]
    report.figure(
        "combinations",
        plots.prototype_combinations(
            first.images[shown],
            first.features[shown],
            first.prototypes,
            first.weights[shown],
            first.radius,
            names=[train.class_names[label] for label in first.labels[shown]],
        ),
    )


def _middling(result, label):
    members = np.flatnonzero(result.labels == label)
    return members[np.argsort(result.errors[members])[len(members) // 2]]


if __name__ == "__main__":
    command(gap_analysis)
