"""Outer loop of chance-constrained programming."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Callable, Literal

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_choice, check_positive, check_whole_number
from tfdml._utils.arrays import occurrence_numbers
from tfdml._utils.types import Config, Logs
from tfdml._utils.variables import array_of, number
from tfdml.callbacks.monitor import monitored_value
from tfdml.metrics import covering_radius, proxy_spread
from tfdml.models import CCPModel, image_batches
from tfdml.models.batches import check_rereadable

_logger = logging.getLogger(__name__)
# Steps of a problem that grows beyond all numbers.
_LONGEST = 2**63


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
    $\lceil \text{max\_steps} \cdot \text{max\_steps\_growth}^k \rceil$ steps. Such a problem ends within an epoch,
    before the batch that follows its last step, or at the end of the epoch, after the validation. It may end without
    any validation; `outer_patience` ignores it then.

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
        outer_patience: int. Number of problems in a row without improvement after which training stops, at the end of
            an epoch. Problems without a validation do not count. `None` means no limit. Default `None`.
        max_steps: int, or function from the number of a problem to an int. Number of training steps after which the
            first problem ends, even if validation still improves. `None` means no limit. Default 40.
        max_steps_growth: float, at least 1. Factor of `max_steps` from one problem to the next, if that is an int.
            Default 1.0.
        restore: What follows a problem that is solved. `"best"` continues from its best weights. `"last"` continues
            from its last weights, and only the anchor consists of the best ones, as in the author's code. Default
            `"best"`.
        given: Old proxies that greedy k-center counts as chosen. `"all"`: those of every class. `"none"`: none.
            `"near"`: those whose nearest pool sample of their class is no farther than the most isolated sample of the
            pool is from its neighbor, because proxies that have drifted away represent no sample. Default `"all"`.
        refresh: Where the pool of all problems but the first comes from. `"embed"` embeds `pool_dataset`. `"partial"`
            embeds a share of it and keeps older embeddings of the other images. `"memory"` uses the embeddings that
            recent training batches had, which costs nothing; the model then needs `recent_size`. Classes that are not
            in the memory keep their proxies. Default `"embed"`.
        refresh_share: float, above 0 and at most 1. Share of `pool_size` that `refresh="partial"` embeds for each
            problem: the first images of each class in `pool_dataset`, which take the places of the oldest ones. A
            dataset that depends on the number of the draw needs to contain only these. Default 0.25.
        first_proxies: Proxies of the first problem. `"k_center"` selects them from a pool. `"origin"` does so with a
            proxy at 0 that counts as chosen, as in the author's code. `"random"` takes the first samples of each class.
            `"initial"` keeps the initial values of the `ClassProxies`. Default `"k_center"`.
        k_center_on: Vectors from which proxies are selected. `"embedding"`: the embeddings. `"head"`: what the last
            layer of the embedder clips or normalizes, as in the author's code; the proxies then need the same
            `normalization`. Default `"embedding"`.

    Attributes:
        projections: List of dicts, one per finished problem: `projection`, `first_step`, `steps`, `best` (best
            validation value; NaN without a validation), `covering_radius` (as in the logs),
            `converged_covering_radius` (of the next pool, with the converged proxies), `proxy_diversity` and
            `converged_proxy_diversity` (at the start of the problem and at its end), `weight_change` (l2 distance
            between the embedder's trainable weights and the anchor) and `selection_seconds` (time for embedding the
            pool and selecting proxies).

    Raises:
        ValueError: If a count is below 1, `max_steps_growth` is below 1, a choice is unknown, or `refresh="memory"` is
            combined with `k_center_on="head"`; when training starts, if `refresh` is `"memory"` and the model has no
            `recent_size`, or `k_center_on` is `"head"`, the embedder normalizes and the proxies have no normalization;
            and when training starts or a problem ends, if the pool is endless, lacks a class, or has embeddings with
            NaN or infinity.
        TypeError: If the model is not a `CCPModel`, or the pool is a generator, which could be read only once.

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
        max_steps: int | Callable[[int], int] | None = 40,
        max_steps_growth: float = 1.0,
        restore: Literal["best", "last"] = "best",
        given: Literal["all", "near", "none"] = "all",
        refresh: Literal["embed", "memory", "partial"] = "embed",
        refresh_share: float = 0.25,
        first_proxies: Literal["k_center", "origin", "random", "initial"] = "k_center",
        k_center_on: Literal["embedding", "head"] = "embedding",
    ) -> None:
        super().__init__()
        check_rereadable(pool_dataset, "A pool")
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
        if max_steps is not None and not callable(max_steps):
            check_whole_number("max_steps", max_steps, minimum=1)
        self.max_steps = max_steps
        if not 1.0 <= max_steps_growth < float("inf"):
            raise ValueError(
                f"Problems cannot become shorter. Received: max_steps_growth={max_steps_growth}. Expected: at least 1."
            )
        self.max_steps_growth = float(max_steps_growth)
        self.restore = check_choice("restore", restore, ("best", "last"))
        self.given = check_choice("given", given, ("all", "near", "none"))
        self.refresh = check_choice("refresh", refresh, ("embed", "memory", "partial"))
        self.refresh_share = check_between("refresh_share", check_positive("refresh_share", refresh_share), 0.0, 1.0)
        self.first_proxies = check_choice("first_proxies", first_proxies, ("k_center", "origin", "random", "initial"))
        self.k_center_on = check_choice("k_center_on", k_center_on, ("embedding", "head"))
        if refresh == "memory" and k_center_on == "head":
            raise ValueError(
                "The memory holds embeddings, not the output of the layer before their normalization. Received: "
                "refresh='memory' with k_center_on='head'. Expected: one of the two."
            )
        self._epoch = self._next_check = 0
        self._pool: Any = None
        self._reset()

    def _reset(self):
        self.projections = []
        self._pool = None
        self._covering_radius = self._proxy_diversity = float("nan")

    @property
    def is_over(self) -> bool:
        """Whether the outer patience is exhausted by problems that have ended."""
        return self.outer_patience is not None and self._problems_without_better >= self.outer_patience

    @property
    def _problems_without_better(self):
        """The number of problems with a validation that ended after the one with the best weights of all."""
        best = number(self.model.incumbent_projection)
        last_ended = number(self.model.projection) - (0 if self._is_solved else 1)
        # Rows are lost if only the model's weights were saved; then all problems count.
        skipped = sum(row["projection"] > best and not np.isfinite(row["best"]) for row in self.projections)
        return last_ended - best - skipped

    @property
    def _is_solved(self):
        """Whether the current problem has had `patience` validations without improvement, or all its steps."""
        return self._has_stalled or self._is_out_of_steps

    @property
    def _has_stalled(self):
        return self.patience is not None and number(self.model.wait) >= self.patience

    @property
    def _is_out_of_steps(self):
        return self.max_steps is not None and self._steps_left <= 0

    @property
    def _steps_left(self):
        """The number of steps after which `max_steps` ends the current problem."""
        problem = number(self.model.projection)
        if callable(self.max_steps):
            limit = check_whole_number(f"max_steps({problem})", self.max_steps(problem), minimum=1)
        else:
            try:
                limit = math.ceil(self.max_steps * self.max_steps_growth**problem)
            except OverflowError:
                limit = _LONGEST
        return limit - self._steps_in_problem

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
        if self.k_center_on == "head":
            model.check_head()
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
            self._choose_first()

    def _choose_first(self):
        proxies = self.model.proxies
        if self.first_proxies == "initial":
            self._proxy_diversity = _diversity(proxies.proxies)
            return
        # The first samples of a class are selected if there are no others.
        pool = self._embed_pool(0, proxies.per_class if self.first_proxies == "random" else self._size)
        if self.first_proxies != "random":
            self._kept(pool)
        origin = np.zeros((proxies.num_classes, 1, proxies.embedding_size), np.float32)
        proxies.assign(self._choose(pool, initial=origin if self.first_proxies == "origin" else None))

    @property
    def _size(self):
        """The number of samples of a class in the pool."""
        return max(self.pool_size, self.model.proxies.per_class)

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
        if epoch < self.start_from_epoch:
            return
        if value is not None:
            model.take_validation(value)
        if model.stop_training:
            return
        if self._is_solved:
            self._end_problem(may_stop=value is not None)
        elif value is not None and self.is_over:
            self._stop()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch
        self._next_check = 0

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        # Not at the end of the batch before it: the validation of an epoch's last batch belongs to the problem. The
        # model's counter is read only when the problem can be over, because reading it waits for the device.
        if self.max_steps is None or batch < self._next_check or self._epoch < self.start_from_epoch:
            return
        if self._is_out_of_steps and not self.model.stop_training:
            self._end_problem(may_stop=False)
        self._next_check = batch + self._steps_left

    def _end_problem(self, may_stop):
        """End the problem and start the next one, or stop the training if the outer patience is exhausted."""
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
        converged = array_of(model.proxies.proxies)
        if has_stalled and last is not None:
            for variable, value in zip(model.solution, last):
                variable.assign(value)
        pool = self._next_pool(ended["projection"] + 1)
        ended["converged_covering_radius"] = _radius(pool, converged)
        proxies = self._choose(pool, converged)
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
        if may_stop and self.is_over:
            self._stop()
        else:
            model.begin_projection(proxies, anchor=False)

    def _stop(self):
        model = self.model
        model.incumbent.restore()
        model.stop_training = True
        _logger.info(
            "No improvement in %d problems: training stops with the weights of problem %d, %s = %.4f.",
            self.outer_patience, number(model.incumbent_projection), self.monitor,
            number(model.incumbent_value),
        )  # fmt: skip

    def _next_pool(self, draw):
        if self.refresh == "memory":
            return self._pool_in_memory()
        if self.refresh == "embed" or self._pool is None:
            return self._kept(self._embed_pool(draw, self._size))
        newest = self._embed_pool(draw, math.ceil(self.refresh_share * self._size))
        return self._kept(with_newest(self._pool, newest))

    def _kept(self, pool):
        """Keep a pool of which the next problem refreshes a part."""
        if self.refresh == "partial":
            self._pool = pool
        return pool

    def _choose(self, pool, converged=None, initial=None):
        """Select proxies from a pool; store their covering radius and diversity.

        Args:
            pool: Points and mask of those that exist.
            converged: Proxies of the last problem, or `None` in the first one.
            initial: Points of the first problem that count as chosen, or `None`.
        """
        points, exists = pool
        given, counting = (initial, "all") if converged is None else (converged, self.given)
        indices = selected(points, exists, self.model.proxies.per_class, given, counting)
        chosen = np.take_along_axis(points, np.maximum(indices, 0)[:, :, None], axis=1)
        proxies = np.where(indices[:, :, None] >= 0, chosen, chosen[:, :1] if converged is None else converged)
        # Every worker embeds the pool; use the first worker's selection so that rounding cannot make them differ.
        proxies = self.model.workers.broadcast(proxies)
        self._covering_radius = _radius(pool, proxies)
        self._proxy_diversity = _diversity(proxies)
        return proxies

    def _pool_in_memory(self):
        """Return the newest embeddings of each class in the model's memory, as `_embed_pool` does."""
        model, layer = self.model, self.model.proxies
        size = self._size
        points = np.zeros((layer.num_classes, size, layer.embedding_size), np.float32)
        seen, slots = number(model.recent.samples_seen), model.recent.size
        newest_first = np.arange(seen - 1, max(seen - slots, 0) - 1, -1) % slots
        labels = array_of(model.recent.labels)[newest_first]
        places = occurrence_numbers(labels)
        kept = places < size
        points[labels[kept], places[kept]] = array_of(model.recent.embeddings)[newest_first[kept]]
        counts = np.minimum(np.bincount(labels, minlength=layer.num_classes), size)
        _check_finite(points)
        return points, np.arange(size)[None, :] < counts[:, None]

    def _embed_pool(self, draw, size=None):
        """Return embeddings `(classes, size, dim)` and a mask `(classes, size)` of those that exist."""
        layer = self.model.proxies
        size = self._size if size is None else size
        embed = self.model.embed_batch if self.k_center_on == "embedding" else self.model.head_of_batch
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
            embeddings, labels = np.asarray(embed(images)), np.asarray(labels).reshape(-1)
            if labels.min() < 0 or labels.max() >= layer.num_classes:
                raise ValueError(
                    f"The pool has labels without proxies. Received: labels {labels.min()}..{labels.max()}. "
                    f"Expected: 0..{layer.num_classes - 1}."
                )
            places = counts[labels] + occurrence_numbers(labels)
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
            "pool": None if self._pool is None else list(self._pool),
        }

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self._covering_radius, self._proxy_diversity = state["covering_radius"], state["proxy_diversity"]
        self.projections = list(state["projections"])
        # Earlier versions had no pool to save.
        self._pool = None if state.get("pool") is None else tuple(state["pool"])


def selected(points, exists, per_class, given, counting):
    """Return the indices `(classes, per_class)` of the selected points, -1 where there are too few.

    Args:
        points: float array `(classes, size, dim)`. The pool.
        exists: bool array `(classes, size)`. The points that exist.
        per_class: int. Number of points to select.
        given: float array `(classes, proxies, dim)` of points that are given, or `None`.
        counting: Those of them that count as selected: "all", "near" (their class) or "none".
    """
    if given is None or counting == "none":
        return np.asarray(ops.greedy_k_center(points, per_class, mask=exists))
    if counting == "all":
        return np.asarray(ops.greedy_k_center(points, per_class, initial=given, mask=exists))
    counts = proxies_near_pool(points, exists, given)
    # A repeated center changes nothing, so it stands in for those that do not count.
    first = np.argmax(counts, axis=1)
    standing_in = np.where(counts[:, :, None], given, given[np.arange(len(given)), first][:, None])
    after = np.asarray(ops.greedy_k_center(points, per_class, initial=standing_in, mask=exists))
    anew = np.asarray(ops.greedy_k_center(points, per_class, mask=exists))
    return np.where(counts.any(axis=1)[:, None], after, anew)


def with_newest(pool, newest):
    """Return a pool with new points in the place of the oldest ones.

    A class keeps its number of points, because a small class has no other images than those in the pool.

    Args:
        pool: Points `(classes, size, dim)`, the newest first, and a bool mask `(classes, size)` of those that exist.
        newest: The same, with other points.

    Returns:
        Points and mask of the same shape as `pool`.
    """
    size = pool[1].shape[1]
    points, exists = (np.concatenate([new, old], axis=1) for new, old in zip(newest, pool))
    places = np.argsort(~exists, axis=1, kind="stable")[:, :size]
    counts = np.maximum(pool[1].sum(axis=1), newest[1].sum(axis=1))
    exists = np.take_along_axis(exists, places, axis=1) & (np.arange(size) < counts[:, None])
    return np.take_along_axis(points, places[:, :, None], axis=1), exists


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
