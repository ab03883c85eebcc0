"""The figures of a run and of an evaluation."""

from __future__ import annotations

import logging

import numpy as np

from tfdml import data, models, plots
from tfdml.metrics import nearest_neighbors

_logger = logging.getLogger(__name__)


def draw_training(folder, history):
    """Writes `training_curve.png`.

    Args:
        folder: Where to.
        history: Columns by name.
    """
    plots.save(plots.training_curve(history, x="step"), folder / "training_curve.png")


def draw_evaluation(folder, dataset, preprocessing, embeddings, labels, config, seed, embedder=None):
    """Writes `embedding_map.png`, `nearest_neighbors.png` and, if the pooling weighs, `pooling_maps.png`.

    Of features, which cannot be shown, only the first.

    Args:
        folder: Where to.
        dataset: The `LabeledImages` or `LabeledFeatures` that were embedded.
        preprocessing: How they are brought into shape.
        embeddings: `(n, d)`, in the order of the images.
        labels: `(n,)`.
        config: An `EvaluationConfig`.
        seed: For the choice of queries and of points.
        embedder: The Keras embedder, or None if there is none to ask for pooling weights.
    """
    if not np.isfinite(embeddings).all():
        _logger.warning("No figures: the embeddings are not finite.")
        return
    names = dataset.class_names
    plots.save(plots.embedding_map(embeddings, labels, names, seed=seed), folder / "embedding_map.png")
    if not isinstance(dataset, data.LabeledImages):
        return
    queries = _choose_queries(labels, config.queries, seed)
    shown = _show(dataset, queries, preprocessing)
    neighbors = min(config.neighbors, len(labels) - 1)
    if neighbors:
        indices = _neighbors(embeddings, queries, neighbors)
        near = _show(dataset, indices.reshape(-1), preprocessing)
        figure = plots.nearest_neighbors(
            shown,
            near.reshape(*indices.shape, *near.shape[1:]),
            labels[indices] == labels[queries][:, None],
            query_names=[names[label] for label in labels[queries]],
            neighbor_names=[[names[label] for label in row] for row in labels[indices]],
        )
        plots.save(figure, folder / "nearest_neighbors.png")
    if embedder is not None and hasattr(embedder.get_layer("pooling"), "pooling_weights"):
        maps = models.pooling_maps(embedder, shown)
        figure = plots.pooling_maps(shown, maps, names=[names[label] for label in labels[queries]])
        plots.save(figure, folder / "pooling_maps.png")


def _choose_queries(labels, count, seed):
    """Indices of images of different classes, of those with at least two images if there are any."""
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= 2] if (counts >= 2).any() else classes
    chosen = np.sort(generator.choice(classes, size=min(count, len(classes)), replace=False))
    return np.array([generator.choice(np.flatnonzero(labels == label)) for label in chosen])


def _neighbors(embeddings, queries, count):
    """Indices of the nearest neighbours, `(queries, count)`, without the query itself."""
    indices, _ = nearest_neighbors(embeddings[queries], count + 1, reference_embeddings=embeddings)
    # Among equal embeddings the query need not come first, nor be there at all.
    return np.array([row[row != query][:count] for row, query in zip(indices, queries)])


def _show(dataset, indices, preprocessing):
    """The images as the network sees them, `(n, h, w, c)`."""
    chosen = data.LabeledImages(
        dataset.images[indices], dataset.labels[indices], dataset.class_names, max_pixels=dataset.max_pixels
    )
    return np.concatenate([images for images, _ in data.evaluation_batches(chosen, 256, preprocessing)])
