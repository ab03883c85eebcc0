"""Where was a photograph taken? Embeddings trained by position thresholds, against pixels, frozen networks, regression.

python -m studies.localization --out DIR
"""

import csv
import pathlib
from typing import Optional

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.report import Report, command, mean_and_deviation, paired_interval
from studies.shop import draw_shop, write_shop
from tfdml import backbones, data, losses, metrics, models, relations
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError
from tfdml.layers import L2Normalization

METHODS = ("pixels", "normalized_pixels", "frozen", "triplet", "regression", "frozen_head", "contrastive")
TITLES = {
    "pixels": "pixels, 1-NN",
    "normalized_pixels": "normalized pixels, 1-NN",
    "frozen": "frozen EfficientNet-Lite0, 1-NN",
    "frozen_head": "head on frozen features (triplet), 1-NN",
    "regression": "regression of the position",
    "triplet": "embedder (triplet), 1-NN",
    "contrastive": "embedder (contrastive), 1-NN",
    "nearest": "nearest position (bound of 1-NN)",
}
LOSSES = {
    "triplet": losses.TripletLoss(margin=0.2, mining="semi_hard"),
    "frozen_head": losses.TripletLoss(margin=0.2, mining="semi_hard"),
    "contrastive": losses.ContrastiveLoss(positive_margin=0.1, negative_margin=0.8),
}
_KEY = ("method", "seed", "images", "steps", "positive", "negative", "learning_rate")
_ERRORS = ("mean_error", "median_error", "p95_error", "within_0.5", "within_1")
COLUMNS = (*_KEY, "validation_mean_error", *_ERRORS)
_THRESHOLDS = (0.5, 1.0)
# The largest side of EfficientNet's input that takes seconds for these images.
_FROZEN_SIDE = 112
_AUGMENTATION = dict(brightness=0.4, contrast=0.2, saturation=0.2, translation=0.04)


def localization(
    out: str,
    folder: Optional[str] = None,
    methods: list[str] = METHODS[:-1],
    seeds: list[int] = (0, 1, 2),
    steps: int = 600,
    positive: float = 0.8,
    negative: float = 2.0,
    learning_rate: float = 1e-3,
    images: int = 600,
    quick: bool = False,
):
    """Train embedders by `Within` on the pose of the camera, and localize by the position of the nearest image.

    The images are rendered views of a shop (`studies.shop`), with positions in a CSV file per part, or those of a
    folder of the same form. Training images are the gallery. A stopped study resumes.

    Args:
        out: Folder for the images, the tables and the figures.
        folder: Folder with `train.csv`, `validation.csv` and `test.csv` of the columns path, x, y, u and v (u and v:
            the viewing direction times its weight). `None` renders a shop for each seed.
        methods: Names of `METHODS`.
        seeds: Seeds of the shop, the poses, the initial weights and the batches.
        steps: Training steps of each network.
        positive: Largest distance of poses that are a positive pair, in meters.
        negative: Least distance of poses that are a negative pair.
        learning_rate: Initial learning rate of Adam; it falls to 0 as a cosine.
        images: Number of training images of a rendered shop; a third each to validate and to test.
        quick: One seed, few small steps.

    Returns:
        dict from methods to arrays of the mean error of each seed.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(str(unknown_name("method", method, METHODS)))
    if quick:
        seeds, steps, images = list(seeds)[:1], 20, 60
    out = pathlib.Path(out).expanduser()
    results = _Results(out / "localization_runs.csv")
    options = {
        "images": images,
        "steps": steps,
        "positive": positive,
        "negative": negative,
        "learning_rate": learning_rate,
    }
    for seed in seeds:
        parts = None
        for method in ("nearest", *methods):
            key = {"method": method, "seed": seed, **options}
            if results.has(key):
                continue
            if parts is None:
                root = write_shop(out / f"shop-{seed}", seed, images) if folder is None else pathlib.Path(folder)
                parts = [_read(root / f"{part}.csv") for part in ("train", "validation", "test")]
            errors = localize(method, *parts, seed, steps, relations.Within(positive, negative), learning_rate)
            validation, test = errors
            results.add({**key, "validation_mean_error": validation["mean_error"], **test})
            print(f"{method:18s} seed {seed}: mean error {test['mean_error']:.3f} m", flush=True)
    report = Report(out)
    found = _table(report, results, ("nearest", *methods), seeds, options)
    names = [TITLES[method] for method in found]
    report.figure("errors", plots.dot_plot(names, {"mean error": list(found.values())}, "mean error, m", sort=False))
    if folder is None:
        train = _read(out / f"shop-{seeds[0]}" / "train.csv")
        report.figure("shop", draw_shop(train.images, train.annotations))
    return found


def _read(path):
    """Read a part of the images into memory, with their poses as annotations."""
    files = data.LabeledImages.from_csv(path, label_column=None, annotation_columns=("x", "y", "u", "v"))
    first = tf.io.decode_image(tf.io.read_file(files.images[0])).shape
    preprocessing = data.Preprocessing(tuple(first[:2]), 3)
    arrays = [batch.numpy() for batch, _ in data.evaluation_batches(files, 64, preprocessing)]
    return data.LabeledImages.from_arrays(np.concatenate(arrays), annotations=files.annotations, name=path.stem)


def localize(method, train, validation, test, seed, steps, relation, learning_rate):
    """Return the errors of a method on the validation and test images.

    Args:
        method: str. One of `METHODS`, or `"nearest"`.
        train, validation, test: `LabeledImages` with poses (x, y, u, v) as annotations.
        seed: int.
        steps: int. Training steps.
        relation: `Within`, of poses.
        learning_rate: float.

    Returns:
        Pair of dicts as from `tfdml.metrics.localization_metrics`.
    """
    keras.utils.set_random_seed(seed)
    if method == "nearest":
        vectors = [part.annotations[:, :2] for part in (train, validation, test)]
    elif method in ("pixels", "normalized_pixels"):
        vectors = [_pixels(part, method == "normalized_pixels") for part in (train, validation, test)]
    elif method == "frozen":
        vectors = _frozen_features(train, validation, test)
    elif method == "frozen_head":
        vectors = _trained_head(train, validation, test, seed, steps, relation, learning_rate)
    elif method == "regression":
        return _regression(train, validation, test, seed, steps, relation, learning_rate)
    else:
        vectors = _trained(method, train, validation, test, seed, steps, relation, learning_rate)
    gallery, *queries = vectors
    return [
        metrics.localization_metrics(
            of_queries, part.annotations[:, :2], gallery, train.annotations[:, :2], thresholds=_THRESHOLDS
        )
        for of_queries, part in zip(queries, (validation, test))
    ]


def _pixels(part, is_normalized):
    """Return pixels as vectors; normalized ones have mean 0 and deviation 1 in each channel of each image."""
    values = part.images.astype(np.float32) / 255
    if is_normalized:
        values -= values.mean(axis=(1, 2), keepdims=True)
        values /= values.std(axis=(1, 2), keepdims=True) + 1e-3
    return values.reshape(len(values), -1)


def _frozen_features(*parts):
    """Return the average-pooled features of a network trained on ImageNet, of unit length."""
    backbone = backbones.get("efficientnet_lite0", (_FROZEN_SIDE, _FROZEN_SIDE, 3), weights="imagenet")
    input_range, _ = backbones.expected_range(backbone)
    features = []
    for part in parts:
        preprocessing = data.Preprocessing((_FROZEN_SIDE, _FROZEN_SIDE), 3, input_range=input_range)
        batches = data.evaluation_batches(part, 64, preprocessing)
        pooled = np.concatenate([np.mean(backbone(images, training=False), axis=(1, 2)) for images, _ in batches])
        features.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    return features


def network(embedding_size, normalization, shape):
    """Return a small convolutional network that keeps the places of features, which average pooling would lose."""
    inputs = values = keras.Input(shape)
    for filters in (32, 64, 96):
        values = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(values)
        values = keras.layers.BatchNormalization(momentum=0.9)(values)
        values = keras.layers.Activation("relu")(values)
    values = keras.layers.Dense(embedding_size)(keras.layers.Flatten()(values))
    return keras.Model(inputs, values if normalization is None else normalization(values))


def _batches(train, relation, seed, augmentation):
    """Batches of 32 anchors with a positive each, equally many from each square meter."""
    cells = data.position_cells(train.annotations[:, :2], 1.0)
    anchors = min(32, len(np.unique(cells)) // 2)
    return data.related_batches(train, relation, anchors, 2, seed, augmentation=augmentation, groups=cells)


def _fit(model, batches, steps):
    model.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0)


def _schedule(learning_rate, steps):
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))


def _trained(method, train, validation, test, seed, steps, relation, learning_rate):
    model = models.MetricModel(network(64, L2Normalization(), train.image_shape))
    model.compile(_schedule(learning_rate, steps), LOSSES[method], relation=relation)
    _fit(model, _batches(train, relation, seed, data.Augmentation(**_AUGMENTATION)), steps)
    return [_embedded(model.embedder, part) for part in (train, validation, test)]


def _trained_head(train, validation, test, seed, steps, relation, learning_rate):
    features = _frozen_features(train, validation, test)
    model = models.MetricModel(models.build_head(features[0].shape[1], 64))
    model.compile(_schedule(learning_rate, steps), LOSSES["frozen_head"], relation=relation)
    vectors = data.LabeledFeatures(features[0], np.zeros(len(train), int), ("all",), annotations=train.annotations)
    _fit(model, _batches(vectors, relation, seed, None), steps)
    return [model.embedder.predict(of_part, verbose=0) for of_part in features]


def _regression(train, validation, test, seed, steps, relation, learning_rate):
    """Return the errors of the same network that predicts the position, trained with the same batches of images."""
    center, scale = train.annotations[:, :2].mean(axis=0), train.annotations[:, :2].std()
    model = network(2, None, train.image_shape)
    model.compile(_schedule(learning_rate, steps), "mse")
    batches = _batches(train, relation, seed, data.Augmentation(**_AUGMENTATION))
    _fit(model, batches.map(lambda images, poses: (images, (poses[:, :2] - center) / scale)), steps)
    errors = []
    for part in (validation, test):
        places = _embedded(model, part) * scale + center
        errors.append(_errors(places, part.annotations[:, :2]))
    return errors


def _errors(places, positions):
    errors = np.linalg.norm(places - positions, axis=1)
    found = {"mean_error": errors.mean(), "median_error": np.median(errors), "p95_error": np.quantile(errors, 0.95)}
    return {**found, **{f"within_{threshold:g}": np.mean(errors <= threshold) for threshold in _THRESHOLDS}}


def _embedded(model, part):
    return model.predict(part.images.astype(np.float32) / 255, batch_size=64, verbose=0)


class _Results:
    """Rows of a CSV file, to which each run is added when it ends."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                # Files of earlier versions have no learning rate, and were made with the default.
                self.rows = [{"learning_rate": "0.001", **row} for row in csv.DictReader(file)]

    def find(self, key):
        return [row for row in self.rows if all(row[name] == _text(value) for name, value in key.items())]

    def has(self, key):
        return bool(self.find(key))

    def add(self, row):
        self.rows.append({name: _text(row[name]) for name in COLUMNS})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)


def _text(value):
    return f"{value:.5g}" if isinstance(value, (float, np.floating)) else str(value)


def _table(report, results, methods, seeds, options):
    found, rows = {}, []
    for method in methods:
        of_seeds = [results.find({"method": method, "seed": seed, **options})[-1] for seed in seeds]
        found[method] = {name: np.array([float(row[name]) for row in of_seeds]) for name in _ERRORS}
    for method, values in found.items():
        difference = "–"
        if "triplet" in found and method not in ("triplet", "nearest"):
            difference = paired_interval(values["mean_error"] - found["triplet"]["mean_error"])
        rows.append([
            TITLES[method], *(mean_and_deviation(values[name], ddof=1) for name in _ERRORS), difference,
        ])  # fmt: skip
    report.table(
        "localization",
        ["method", "mean error, m", "median", "95 %", "within 0.5 m", "within 1 m", "mean error minus triplet's"],
        rows,
        f"Test images; mean ± standard deviation of {len(seeds)} seed(s), and 95 % intervals of paired differences. "
        f"Keras {keras.__version__}.",
    )
    return {method: values["mean_error"] for method, values in found.items()}


if __name__ == "__main__":
    command(localization)
