"""Outer loop of chance-constrained programming."""

from __future__ import annotations

import logging
import math
import time
from typing import Callable, Literal

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_whole_number
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

    With a limited number of training steps, validation may never stall. `max_steps` therefore ends a problem early: it
    goes on from its last weights, which become the anchor. Problem $k$ has at most
    $\lceil \text{max\_steps} \cdot \text{max\_steps\_growth}^k \rceil$ steps.

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
            limit. Problems that `max_steps` ended count, too. Default `None`.
        max_steps: int. Number of training steps after which the first problem ends, even if validation still improves.
            `None` means no limit. Default `None`.
        max_steps_growth: float, at least 1. Factor of `max_steps` from one problem to the next. Default 1.0.
        restore: What follows a problem that is solved. `"best"` continues from its best weights. `"last"` continues
            from its last weights, and only the anchor consists of the best ones, as in the author's code. Default
            `"best"`.
        given: Old proxies that greedy k-center counts as chosen. `"all"`: those of every class. `"none"`: none.
            `"near"`: those whose nearest pool sample of their class is no farther than the most isolated sample of the
            pool is from its neighbor, because proxies that have drifted away represent no sample. Default `"all"`.
        refresh: Where the pool of all problems but the first comes from. `"embed"` embeds `pool_dataset`. `"memory"`
            uses the embeddings that recent training batches had, which costs nothing; the model then needs
            `recent_size`. Classes that are not in the memory keep their proxies. Default `"embed"`.

    Attributes:
        projections: List of dicts, one per finished problem: `projection`, `first_step`, `steps`, `best` (best
            validation value; NaN without a validation), `covering_radius` (as in the logs),
            `converged_covering_radius` (of the next pool, with the converged proxies), `proxy_diversity` and
            `converged_proxy_diversity` (at the start of the problem and at its end), `weight_change` (l2 distance
            between the embedder's trainable weights and the anchor) and `selection_seconds` (time for embedding the
            pool and selecting proxies).

    Raises:
        ValueError: If a count is below 1, `max_steps_growth` is below 1 or a choice is unknown; when training starts,
            if `refresh` is `"memory"` and the model has no `recent_size`; and when training starts or a problem ends,
            if the pool is endless, lacks a class, or has embeddings with NaN or infinity.
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
        max_steps: int | None = None,
        max_steps_growth: float = 1.0,
        restore: Literal["best", "last"] = "best",
        given: Literal["all", "near", "none"] = "all",
        refresh: Literal["embed", "memory"] = "embed",
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
        if max_steps is not None:
            check_whole_number("max_steps", max_steps, minimum=1)
        self.max_steps = max_steps
        if not 1.0 <= max_steps_growth < float("inf"):
            raise ValueError(
                f"Problems cannot become shorter. Received: max_steps_growth={max_steps_growth}. Expected: at least 1."
            )
        self.max_steps_growth = float(max_steps_growth)
        self.restore = check_choice("restore", restore, ("best", "last"))
        self.given = check_choice("given", given, ("all", "near", "none"))
        self.refresh = check_choice("refresh", refresh, ("embed", "memory"))
        self._epoch = 0
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
        """Whether the current problem has had `patience` validations without improvement, or all its steps."""
        return self._has_stalled or self._is_out_of_steps

    @property
    def _has_stalled(self):
        return self.patience is not None and number(self.model.wait) >= self.patience

    @property
    def _is_out_of_steps(self):
        if self.max_steps is None:
            return False
        limit = math.ceil(self.max_steps * self.max_steps_growth ** number(self.model.projection))
        return self._steps_in_problem >= limit

    @property
    def _steps_in_problem(self):
        return number(self.model.steps) - number(self.model.projection_start)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        model = self.model
        if not isinstance(model, CCPModel):
            raise TypeError(
                f"AlternatingProjections needs a CCPModel. Received: {type(model).__name__}. Expected: tfdml.CCPModel."
            )
        if self.refresh == "memory" and model.recent is None:
            raise ValueError(
                "The model does not remember recent embeddings. Received: refresh='memory' with a CCPModel without "
                "recent_size. Expected: CCPModel(…, recent_size=…), about pool_size per class."
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
        logs["projection_steps"] = self._steps_in_problem
        logs["proxy_diversity"] = _diversity(model.proxies.proxies)
        value = monitored_value(logs, self.monitor)
        if value is None or epoch < self.start_from_epoch:
            return
        if not model.take_validation(value) and self._has_stalled and not model.stop_training:
            self._end_problem()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._is_out_of_steps and self._epoch >= self.start_from_epoch and not self.model.stop_training:
            self._end_problem()

    def _end_problem(self):
        model = self.model
        began, steps, has_stalled = time.perf_counter(), self._steps_in_problem, self._has_stalled
        last = [array_of(variable) for variable in model.solution] if self.restore == "last" else None
        # Without a stalled validation the last weights are the solution: the best ones may be many steps old.
        if has_stalled:
            model.best.restore()
        ended = {
            "projection": number(model.projection),
            "first_step": number(model.projection_start),
            "steps": steps,
            "best": number(model.best_value) if np.isfinite(number(model.best_value)) else float("nan"),
            "covering_radius": self._covering_radius,
            "proxy_diversity": self._proxy_diversity,
            "converged_proxy_diversity": _diversity(model.proxies.proxies),
            "weight_change": model.weight_change(),
        }
        model.anchor.copy_from()
        if has_stalled and last is not None:
            for variable, value in zip(model.solution, last):
                variable.assign(value)
        pool = self._pool_in_memory() if self.refresh == "memory" else self._embed_pool(ended["projection"] + 1)
        converged = array_of(model.proxies.proxies)
        ended["converged_covering_radius"] = _radius(pool, converged)
        proxies = self._choose(pool, given=converged)
        ended["selection_seconds"] = round(time.perf_counter() - began, 3)
        self.projections.append(ended)
        # Short problems are many: show only those that validation ended.
        _logger.log(
            logging.INFO if has_stalled else logging.DEBUG,
            "Problem %d ended after %d steps: %s = %.4f. Covering radius: %.4f at the start, %.4f converged, %.4f "
            "with the next proxies. Weight change: %.4f. Embedding %d images and selecting proxies took %.1f s.",
            ended["projection"], steps, self.monitor, ended["best"], ended["covering_radius"],
            ended["converged_covering_radius"], self._covering_radius, ended["weight_change"], pool[1].sum(),
            ended["selection_seconds"],
        )  # fmt: skip
        if not self.is_over:
            model.begin_projection(proxies, anchor=False)
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
        points, exists = pool
        indices = self._selected(points, exists, given)
        chosen = np.take_along_axis(points, np.maximum(indices, 0)[:, :, None], axis=1)
        proxies = np.where(indices[:, :, None] >= 0, chosen, chosen[:, :1] if given is None else given)
        # Every worker embeds the pool; use the first worker's selection so that rounding cannot make them differ.
        proxies = self.model.workers.broadcast(proxies)
        self._covering_radius = _radius(pool, proxies)
        self._proxy_diversity = _diversity(proxies)
        return proxies

    def _selected(self, points, exists, given):
        """Return the indices `(classes, per_class)` of the selected points, -1 where there are too few."""
        per_class = self.model.proxies.per_class
        if given is None or self.given == "none":
            return np.asarray(ops.greedy_k_center(points, per_class, mask=exists))
        if self.given == "all":
            return np.asarray(ops.greedy_k_center(points, per_class, initial=given, mask=exists))
        counts = proxies_near_pool(points, exists, given)
        # A repeated center changes nothing, so it stands in for those that do not count.
        first = np.argmax(counts, axis=1)
        standing_in = np.where(counts[:, :, None], given, given[np.arange(len(given)), first][:, None])
        after = np.asarray(ops.greedy_k_center(points, per_class, initial=standing_in, mask=exists))
        anew = np.asarray(ops.greedy_k_center(points, per_class, mask=exists))
        return np.where(counts.any(axis=1)[:, None], after, anew)

    def _pool_in_memory(self):
        """Return the newest embeddings of each class in the model's memory, as `_embed_pool` does."""
        model, layer = self.model, self.model.proxies
        size = max(self.pool_size, layer.per_class)
        points = np.zeros((layer.num_classes, size, layer.embedding_size), np.float32)
        counts = np.zeros(layer.num_classes, int)
        seen, slots = number(model.recent.samples_seen), model.recent.size
        newest_first = np.arange(seen - 1, max(seen - slots, 0) - 1, -1) % slots
        labels = array_of(model.recent.labels)[newest_first]
        places = _ranks(labels)
        kept = places < size
        points[labels[kept], places[kept]] = array_of(model.recent.embeddings)[newest_first[kept]]
        counts = np.minimum(np.bincount(labels, minlength=layer.num_classes), size)
        _check_finite(points)
        return points, np.arange(size)[None, :] < counts[:, None]

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
        _check_finite(points)
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


def proxies_near_pool(points, exists, proxies):
    """Return which proxies are as near to the pool of their class as its samples are to each other.

    A proxy counts if its distance to the nearest sample is at most the largest distance of a sample to its nearest
    neighbor. With a single sample that distance is 0.

    Args:
        points: float array `(classes, size, dim)`. The pool.
        exists: bool array `(classes, size)`. The points that exist.
        proxies: float array `(classes, per_class, dim)`.

    Returns:
        bool array `(classes, per_class)`.
    """
    among = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    is_pair = exists[:, :, None] & exists[:, None] & ~np.eye(points.shape[1], dtype=bool)
    nearest = np.min(among, axis=2, where=is_pair, initial=np.inf)
    isolated = np.max(nearest, axis=1, where=exists & np.isfinite(nearest), initial=0.0)
    to_pool = np.linalg.norm(proxies[:, :, None] - points[:, None], axis=-1)
    return np.min(to_pool, axis=2, where=exists[:, None], initial=np.inf) <= isolated[:, None]


def _check_finite(points):
    if not np.isfinite(points).all():
        bad = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
        raise ValueError(
            f"The pool's embeddings are not finite. Received: NaN or infinity in {len(bad)} classes: "
            f"{bad[:10].tolist()}. Expected: an embedder with finite weights. Training may have diverged."
        )


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
