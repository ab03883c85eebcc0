"""The figures of a run and of an evaluation."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml import data, models, plots
from tfdml.experiments.recipe import EvaluationConfig
from tfdml.metrics import nearest_neighbors
from tfdml.relations import Relation

_logger = logging.getLogger(__name__)


def draw_training(folder: pathlib.Path, history: Mapping[str, Sequence[float]]) -> None:
    """Write `training_curve.png` from the columns of a history by name."""
    plots.save(plots.training_curve(history, x="step"), folder / "training_curve.png")


def draw_evaluation(
    folder: pathlib.Path,
    dataset: data.LabeledSamples,
    preprocessing: data.Preprocessing | None,
    embeddings: np.ndarray,
    labels: np.ndarray,
    config: EvaluationConfig,
    seed: int,
    embedder: Any = None,
    relation: Relation | None = None,
) -> None:
    """Write `embedding_map.png`, for images also `nearest_neighbors.png` and, if possible, `pooling_maps.png`.

    The map shows classes; a relation of annotations has none.

    Args:
        folder: path. Folder of the figures.
        dataset: The images or features that were embedded.
        preprocessing: Preprocessing of the images. None for features.
        embeddings: array (n, d), in the order of the dataset.
        labels: array (n,).
        config: `EvaluationConfig`. Number of queries and neighbors.
        seed: int. For the choice of queries and points.
        embedder: Keras model. Its pooling weights are drawn if its pooling has any. Default: None.
        relation: `Relation` of the annotations of the dataset, or None for classes. Default: None.
    """
    if not np.isfinite(embeddings).all():
        _logger.warning("No figures: the embeddings are not finite.")
        return
    names: Any = dataset.class_names
    if relation is None:
        plots.save(plots.embedding_map(embeddings, labels, names, seed=seed), folder / "embedding_map.png")
    if not isinstance(dataset, data.LabeledImages):
        return
    queries = _choose_queries(labels if relation is None else np.arange(len(labels)), config.queries, seed)
    query_names: Any = [names[label] for label in labels[queries]] if relation is None else None
    shown = _show(dataset, queries, preprocessing)
    if neighbors := min(config.neighbors, len(labels) - 1):
        indices, _ = nearest_neighbors(embeddings[queries], neighbors + 1, reference_embeddings=embeddings)
        # Among equal embeddings the query need not come first, or be found at all.
        indices = np.array([row[row != query][:neighbors] for row, query in zip(indices, queries)])
        near = _show(dataset, indices.reshape(-1), preprocessing)
        neighbor_names: Any = None
        if relation is None:
            neighbor_names = [[names[label] for label in row] for row in labels[indices]]
            correct = labels[indices] == labels[queries][:, None]
        else:
            annotations: Any = relation.encode(dataset.annotations)
            positives = relation.masks(tf.gather(annotations, queries), annotations).positives
            correct = np.take_along_axis(np.asarray(positives), indices, axis=1)
        figure: Any = plots.nearest_neighbors(
            shown,
            near.reshape(*indices.shape, *near.shape[1:]),
            correct,
            query_names=query_names,
            neighbor_names=neighbor_names,
        )
        plots.save(figure, folder / "nearest_neighbors.png")
    if embedder is not None and hasattr(embedder.get_layer("pooling"), "pooling_weights"):
        maps = models.pooling_maps(embedder, shown)
        # Tokens without a grid have no map.
        if maps.ndim == 3:
            plots.save(plots.pooling_maps(shown, maps, names=query_names), folder / "pooling_maps.png")


def _choose_queries(labels, count, seed):
    """Indices of images of different classes, if possible of classes with at least two images."""
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= 2] if (counts >= 2).any() else classes
    chosen = np.sort(generator.choice(classes, size=min(count, len(classes)), replace=False))
    return np.array([generator.choice(np.flatnonzero(labels == label)) for label in chosen])


def _show(dataset, indices, preprocessing):
    """Preprocessed images, `(n, h, w, c)`."""
    chosen = data.LabeledImages(
        dataset.images[indices], dataset.labels[indices], dataset.class_names, max_pixels=dataset.max_pixels
    )
    return np.concatenate([images for images, _ in data.evaluation_batches(chosen, 256, preprocessing)])
