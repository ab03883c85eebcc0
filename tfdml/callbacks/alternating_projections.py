"""The outer loop of chance constrained programming."""

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
    r"""Moves a `CCPModel` from one proxy problem to the next.

    When `patience` validations in a row have brought no better value, the problem counts as solved: its best
    weights $\theta^*, \rho^*$ are restored, a pool of samples of each class is embedded, and the next proxies are
    chosen from the pool by greedy k-center, given $\rho^*$ (Algorithm 2). At the start of training the first proxies
    are chosen from a pool alone. A class with fewer images than proxies gets them all; its remaining proxies stay
    those of $\rho^*$, and at the start repeat its first image's.

    When `outer_patience` problems in a row have brought no better value than the best of all before them, training
    stops with the best weights of all problems.

    Every epoch's logs get `projection` (number of the problem, from 0), `projection_steps` (training steps in it so
    far), `covering_radius` (of the pool by the proxies as they were chosen: the largest distance of a sample to the
    nearest proxy of its class, averaged over the classes) and `proxy_diversity` (the mean distance of two proxies of a
    class as they are now, averaged over the classes; 0 when they have collapsed).

    Args:
        pool_dataset: A finite `tf.data.Dataset` of batches (images, labels) of the training classes, or a callable that
            gives one for the number of a draw (0 for the first proxies, then 1, 2, …). The pool is the first
            `pool_size` images of each class in it, so a data set given as such should be shuffled anew at each pass.
            It is embedded batch by batch, and read until every class has its share; only embeddings are held.
        pool_size: How many images of each class are embedded, and at least as many as a class has proxies. With 1 the
            proxies are random samples: the pool is as large as their number and no choice is left. A class with fewer
            images gives all it has.
        patience: Validations in a row without a better value after which a problem is solved; `None` never ends the
            first problem, so the proxies that were drawn for it are kept.
        monitor: Metric in the logs; larger is better.
        start_from_epoch: Validations of the epochs before, counted from 0, are passed over, as those of a warm-up.
        outer_patience: Problems in a row without a better value after which training stops; `None` for no limit.

    Attributes:
        projections: What each problem that has ended did, a list of dicts: `projection`, `first_step`, `steps`, `best`
            (its best value), `covering_radius` (as in the logs), `converged_covering_radius` (of the pool that the next
            proxies are chosen from, by the converged proxies), `proxy_diversity` and `converged_proxy_diversity` (at
            its begin and of its best weights), `weight_change` (how far the embedder's trainable weights went, in l2)
            and `selection_seconds` (for embedding that pool and choosing from it).

    Raises:
        ValueError: If a count is below 1, the pool is endless, lacks a class, or its embeddings are not finite.
        TypeError: If the model is no `CCPModel`.

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
        """Whether the last problem has ended and the outer patience is at its end."""
        model = self.model
        without_better = number(model.projection) - number(model.incumbent_projection)
        return self.outer_patience is not None and self._is_solved and without_better >= self.outer_patience

    @property
    def _is_solved(self):
        """Whether the present problem has gone `patience` validations without a better value."""
        return self.patience is not None and number(self.model.wait) >= self.patience

    def on_train_begin(self, logs: Logs | None = None) -> None:
        model = self.model
        if not isinstance(model, CCPModel):
            raise TypeError(f"AlternatingProjections drives a CCPModel. Received: {type(model).__name__}.")
        if number(model.steps) < number(model.projection_start):
            _logger.warning(
                "The weights are of an earlier version of tfdml, which did not count steps. Received: %d steps in a "
                "problem that began at step %d. The count goes on from there.",
                number(model.steps), number(model.projection_start),
            )  # fmt: skip
            model.steps.assign(model.projection_start)
        if not self._has_begun():
            self._reset()
            model.anchor.copy_from()
            proxies = self._choose(self._embed_pool(draw=0))
            model.proxies.assign(proxies)

    def _has_begun(self):
        """Whether the model has proxies of a problem; files of earlier versions have the problem but not the steps."""
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
            "Projection %d ends after %d steps at %s = %.4f. Its proxies covered the pool within %.4f at its begin, "
            "the converged ones within %.4f, the next ones within %.4f. The weights went %.4f far. Embedding %d "
            "images and choosing from them took %.1f s.",
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
            "%d problems have brought nothing better: training ends with the weights of projection %d, %s = %.4f.",
            self.outer_patience, number(model.incumbent_projection), self.monitor,
            number(model.incumbent_value),
        )  # fmt: skip

    def _choose(self, pool, given=None):
        """Proxies from a pool, given those that are there; notes how they cover it."""
        layer = self.model.proxies
        points, exists = pool
        indices = np.asarray(ops.greedy_k_center(points, layer.per_class, initial=given, mask=exists))
        chosen = np.take_along_axis(points, np.maximum(indices, 0)[:, :, None], axis=1)
        proxies = np.where(indices[:, :, None] >= 0, chosen, chosen[:, :1] if given is None else given)
        # Every worker has embedded the pool, and the first one's choice counts.
        proxies = self.model.workers.broadcast(proxies)
        self._covering_radius = _radius(pool, proxies)
        self._proxy_diversity = _diversity(proxies)
        return proxies

    def _embed_pool(self, draw):
        """Embeddings `(classes, size, dim)` and which of them exist, `(classes, size)`."""
        layer = self.model.proxies
        size = max(self.pool_size, layer.per_class)
        points = np.zeros((layer.num_classes, size, layer.embedding_size), np.float32)
        counts = np.zeros(layer.num_classes, int)
        dataset = self.pool_dataset(draw) if callable(self.pool_dataset) else self.pool_dataset
        if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The pool must come to an end. Received: an endless data set.")
        for images, labels in image_batches(dataset):
            if labels is None:
                raise ValueError("Proxies are drawn class by class. Received: a pool data set without labels.")
            embeddings, labels = np.asarray(self.model.embed_batch(images)), np.asarray(labels).reshape(-1)
            if labels.min() < 0 or labels.max() >= layer.num_classes:
                raise ValueError(
                    f"The pool has labels without proxies. Received: labels {labels.min()}..{labels.max()}; "
                    f"expected 0..{layer.num_classes - 1}."
                )
            places = counts[labels] + _ranks(labels)
            kept = places < size
            points[labels[kept], places[kept]] = embeddings[kept]
            counts = np.minimum(counts + np.bincount(labels, minlength=layer.num_classes), size)
            if counts.min() == size:
                break
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            raise ValueError(f"The pool lacks {len(missing)} classes. Received: no image of {missing[:10].tolist()}.")
        if not np.isfinite(points).all():
            bad = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
            raise ValueError(f"The pool's embeddings are not finite in {len(bad)} classes: {bad[:10].tolist()}.")
        return points, np.arange(size)[None, :] < counts[:, None]

    def get_state(self) -> Config:
        """What the model's own state does not hold: what was measured of the problems."""
        return {
            "covering_radius": self._covering_radius,
            "proxy_diversity": self._proxy_diversity,
            "projections": self.projections,
        }

    def set_state(self, state: Config) -> None:
        """Takes over what `get_state` gave."""
        self._covering_radius, self._proxy_diversity = state["covering_radius"], state["proxy_diversity"]
        self.projections = list(state["projections"])


def _ranks(labels):
    """For each label how many equal ones stand before it."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), int)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return ranks


def _radius(pool, proxies):
    """The covering radius of a pool by the proxies, averaged over the classes."""
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
    # A training that has diverged is for other callbacks to tell of.
    return float(proxy_spread(proxies).mean()) if np.isfinite(proxies).all() else float("nan")
