"""Outer loop of chance-constrained programming."""

from __future__ import annotations

import logging
import time
from typing import Callable

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Logs
from tfdml._utils.variables import array_of, number
from tfdml.callbacks.monitor import monitored_value
from tfdml.metrics import covering_radius, proxy_spread
from tfdml.models import CCPModel, image_batches

_logger = logging.getLogger(__name__)


class AlternatingProjections(keras.callbacks.Callback):
    r"""Ends each proxy problem of a `CCPModel` when it is solved, and starts the next one.

    Every `CCPModel` is trained with this callback.

    A problem counts as solved after `patience` validations in a row without improvement. Then its best weights
    $\theta^*, \rho^*$ are restored, a pool of images of each class is embedded, and the next proxies are selected from
    the pool by greedy k-center, given $\rho^*$ (Algorithm 2). The first proxies, at the start of training, are selected
    from a pool only. If a class has fewer images than proxies, all of them are selected; its remaining proxies keep the
    values of $\rho^*$ or, at the start of training, repeat the class' first image.

    Training stops after `outer_patience` problems in a row without improvement over the best of all earlier problems;
    the best weights of all problems are restored.

    Adds to the logs of every epoch: `projection` (number of the problem, from 0), `projection_steps` (training steps in
    this problem so far), `covering_radius` (the largest distance of a pool sample to the nearest initial proxy of its
    class, averaged over classes) and `proxy_diversity` (the mean distance between the current proxies of a class,
    averaged over classes; 0 if they have collapsed).

    Args:
        pool_dataset: Finite `tf.data.Dataset` of batches (images, labels) of the training classes, or a function that
            returns one for the number of a draw (0 for the first proxies, then 1, 2, …). The pool consists of the first
            `pool_size` images of each class, so a dataset should reshuffle each time it is iterated. It is read until
            every class is complete and embedded batch by batch; only embeddings are kept in memory.
        pool_size: int. Number of images per class in the pool; raised to the number of proxies per class if that is
            larger. 1 therefore makes the proxies random samples, because there is nothing to choose from. A class with
            fewer images contributes all of them. Default 12.
        patience: int. Number of validations in a row without improvement after which a problem is solved. `None` never
            ends the first problem, so its initial proxies are trained throughout. Default 3.
        monitor: str. Metric in the logs; larger is better. Default `"val_map_at_r"`.
        start_from_epoch: int. First epoch (0-based) whose validation counts. Default 0.
        outer_patience: int. Number of problems in a row without improvement after which training stops. `None` means no
            limit. Default `None`.

    Attributes:
        projections: List of dicts, one per finished problem: `projection`, `first_step`, `steps`, `best` (best
            validation value), `covering_radius` (as in the logs), `converged_covering_radius` (of the next pool, with
            the converged proxies), `proxy_diversity` and `converged_proxy_diversity` (at the start of the problem and
            with its best weights), `weight_change` (l2 distance between the embedder's trainable weights and the
            anchor) and `selection_seconds` (time for embedding the pool and selecting proxies).

    Raises:
        ValueError: If a count is below 1, or when training starts or a problem ends, if the pool is endless, lacks a
            class, or has embeddings with NaN or infinity.
        TypeError: If the model is not a `CCPModel`.

    Example:
        >>> from tfdml.layers import ClassProxies
        >>> data = np.eye(4, dtype="float32"), np.array([0, 0, 1, 1])
        >>> pool = tf.data.Dataset.from_tensor_slices(data).shuffle(4).batch(4)
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = CCPModel(embedder, ClassProxies(num_classes=2, embedding_size=2))
        >>> model.compile("adam", loss="c2")
        >>> projections = AlternatingProjections(pool, pool_size=2)
        >>> history = model.fit(*data, validation_data=data, callbacks=[projections], verbose=0)
        >>> history.history["projection"]
        [0]

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithms 1 and 2.
    """

    def __init__(
        self,
        pool_dataset: tf.data.Dataset | Callable[[int], tf.data.Dataset],
        pool_size: int = 12,
        patience: int | None = 3,
        monitor: str = "val_map_at_r",
        start_from_epoch: int = 0,
        outer_patience: int | None = None,
    ) -> None:
        super().__init__()
        self.pool_dataset = pool_dataset
        self.pool_size = check_whole_number("pool_size", pool_size, minimum=1)
        if patience is not None:
            check_whole_number("patience", patience, minimum=1)
        self.patience = patience
        self.monitor = monitor
        self.start_from_epoch = check_whole_number("start_from_epoch", start_from_epoch, minimum=0)
        if outer_patience is not None:
            check_whole_number("outer_patience", outer_patience, minimum=1)
        self.outer_patience = outer_patience
        self._reset()

    def _reset(self):
        self.projections = []
        self._covering_radius = self._proxy_diversity = float("nan")

    @property
    def is_over(self) -> bool:
        """Whether the last problem has ended and the outer patience is exhausted."""
        model = self.model
        without_better = number(model.projection) - number(model.incumbent_projection)
        return self.outer_patience is not None and self._is_solved and without_better >= self.outer_patience

    @property
    def _is_solved(self):
        """Whether the current problem has had `patience` validations without improvement."""
        return self.patience is not None and number(self.model.wait) >= self.patience

    def on_train_begin(self, logs: Logs | None = None) -> None:
        model = self.model
        if not isinstance(model, CCPModel):
            raise TypeError(
                f"AlternatingProjections needs a CCPModel. Received: {type(model).__name__}. Expected: tfdml.CCPModel."
            )
        if number(model.steps) < number(model.projection_start):
            _logger.warning(
                "The weights come from an earlier version of tfdml that did not count steps. Received: %d steps in a "
                "problem that started at step %d. Counting continues from that step.",
                number(model.steps), number(model.projection_start),
            )  # fmt: skip
            model.steps.assign(model.projection_start)
        if not self._has_begun():
            self._reset()
            model.anchor.copy_from()
            proxies = self._choose(self._embed_pool(draw=0))
            model.proxies.assign(proxies)

    def _has_begun(self):
        """Return whether a problem has started. Files of earlier versions have its number but no step count."""
        model = self.model
        counts = (model.steps, model.projection, model.wait)
        return any(number(count) > 0 for count in counts) or np.isfinite(number(model.best_value))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        model = self.model
        logs = logs if logs is not None else {}
        logs["projection"] = number(model.projection)
        logs["covering_radius"] = self._covering_radius
        logs["projection_steps"] = number(model.steps) - number(model.projection_start)
        logs["proxy_diversity"] = _diversity(model.proxies.proxies)
        value = monitored_value(logs, self.monitor)
        if value is None or epoch < self.start_from_epoch:
            return
        if not model.take_validation(value) and self._is_solved and not model.stop_training:
            self._end_problem(logs["projection_steps"])

    def _end_problem(self, steps):
        model = self.model
        began = time.perf_counter()
        model.best.restore()
        ended = {
            "projection": number(model.projection),
            "first_step": number(model.projection_start),
            "steps": steps,
            "best": number(model.best_value),
            "covering_radius": self._covering_radius,
            "proxy_diversity": self._proxy_diversity,
            "converged_proxy_diversity": _diversity(model.proxies.proxies),
            "weight_change": model.weight_change(),
        }
        pool = self._embed_pool(draw=ended["projection"] + 1)
        converged = array_of(model.proxies.proxies)
        ended["converged_covering_radius"] = _radius(pool, converged)
        proxies = self._choose(pool, given=converged)
        ended["selection_seconds"] = round(time.perf_counter() - began, 3)
        self.projections.append(ended)
        _logger.info(
            "Problem %d solved after %d steps: %s = %.4f. Covering radius: %.4f at the start, %.4f converged, %.4f "
            "with the next proxies. Weight change: %.4f. Embedding %d images and selecting proxies took %.1f s.",
            ended["projection"], steps, self.monitor, ended["best"], ended["covering_radius"],
            ended["converged_covering_radius"], self._covering_radius, ended["weight_change"], pool[1].sum(),
            ended["selection_seconds"],
        )  # fmt: skip
        if not self.is_over:
            model.begin_projection(proxies)
            return
        model.incumbent.restore()
        model.stop_training = True
        _logger.info(
            "No improvement in %d problems: training stops with the weights of problem %d, %s = %.4f.",
            self.outer_patience, number(model.incumbent_projection), self.monitor,
            number(model.incumbent_value),
        )  # fmt: skip

    def _choose(self, pool, given=None):
        """Select proxies from a pool, given existing ones; store their covering radius and diversity."""
        layer = self.model.proxies
        points, exists = pool
        indices = np.asarray(ops.greedy_k_center(points, layer.per_class, initial=given, mask=exists))
        chosen = np.take_along_axis(points, np.maximum(indices, 0)[:, :, None], axis=1)
        proxies = np.where(indices[:, :, None] >= 0, chosen, chosen[:, :1] if given is None else given)
        # Every worker embeds the pool; use the first worker's selection so that rounding cannot make them differ.
        proxies = self.model.workers.broadcast(proxies)
        self._covering_radius = _radius(pool, proxies)
        self._proxy_diversity = _diversity(proxies)
        return proxies

    def _embed_pool(self, draw):
        """Return embeddings `(classes, size, dim)` and a mask `(classes, size)` of those that exist."""
        layer = self.model.proxies
        size = max(self.pool_size, layer.per_class)
        points = np.zeros((layer.num_classes, size, layer.embedding_size), np.float32)
        counts = np.zeros(layer.num_classes, int)
        dataset = self.pool_dataset(draw) if callable(self.pool_dataset) else self.pool_dataset
        if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The pool is endless. Received: a dataset of infinite cardinality. Expected: a finite dataset, such as "
                "one without `repeat()`."
            )
        for images, labels in image_batches(dataset):
            if labels is None:
                raise ValueError(
                    "Selecting proxies needs labels. Received: a pool dataset without labels. Expected: batches of "
                    "(images, labels)."
                )
            embeddings, labels = np.asarray(self.model.embed_batch(images)), np.asarray(labels).reshape(-1)
            if labels.min() < 0 or labels.max() >= layer.num_classes:
                raise ValueError(
                    f"The pool has labels without proxies. Received: labels {labels.min()}..{labels.max()}. "
                    f"Expected: 0..{layer.num_classes - 1}."
                )
            places = counts[labels] + _ranks(labels)
            kept = places < size
            points[labels[kept], places[kept]] = embeddings[kept]
            counts = np.minimum(counts + np.bincount(labels, minlength=layer.num_classes), size)
            if counts.min() == size:
                break
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            raise ValueError(
                f"The pool lacks {len(missing)} classes. Received: no image of {missing[:10].tolist()}. Expected: at "
                "least one image of each class."
            )
        if not np.isfinite(points).all():
            bad = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
            raise ValueError(
                f"The pool's embeddings are not finite. Received: NaN or infinity in {len(bad)} classes: "
                f"{bad[:10].tolist()}. Expected: an embedder with finite weights. Training may have diverged."
            )
        return points, np.arange(size)[None, :] < counts[:, None]

    def get_state(self) -> Config:
        """Return the state that is not stored in the model: the measurements of all problems."""
        return {
            "covering_radius": self._covering_radius,
            "proxy_diversity": self._proxy_diversity,
            "projections": self.projections,
        }

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self._covering_radius, self._proxy_diversity = state["covering_radius"], state["proxy_diversity"]
        self.projections = list(state["projections"])


def _ranks(labels):
    """Return for each label the number of equal labels before it."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), int)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return ranks


def _radius(pool, proxies):
    """Return the covering radius of a pool by the proxies, averaged over classes."""
    points, exists = pool
    classes = np.arange(len(points))
    return covering_radius(
        points[exists],
        proxies.reshape(-1, proxies.shape[-1]),
        np.repeat(classes, points.shape[1])[exists.reshape(-1)],
        np.repeat(classes, proxies.shape[1]),
        reduction="mean",
    )


def _diversity(proxies):
    proxies = array_of(proxies)
    # Other callbacks report diverged training.
    return float(proxy_spread(proxies).mean()) if np.isfinite(proxies).all() else float("nan")
