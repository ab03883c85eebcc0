"""The outer loop of chance constrained programming."""

import logging

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml.arguments import check_whole_number
from tfdml.callbacks.monitor import monitored_value
from tfdml.metrics import covering_radius
from tfdml.models import CCPModel, image_batches

_logger = logging.getLogger(__name__)


class AlternatingProjections(keras.callbacks.Callback):
    r"""Moves a `CCPModel` from one proxy problem to the next.

    When `patience` validations in a row have brought no better value, the problem counts as solved: its best
    weights $\theta^*, \rho^*$ are restored, a pool of samples of each class is embedded, and the next proxies are
    chosen from the pool by greedy k-center, given $\rho^*$ (Algorithm 2). At the start of training the first proxies
    are chosen from a pool alone. A class with fewer pictures than proxies gets them all; its remaining proxies stay
    those of $\rho^*$, and at the start repeat its first picture's.

    Every epoch's logs get `projection` (number of the problem, from 0), `covering_radius` (of the pool by the proxies
    as they were chosen: the largest distance of a sample to the nearest proxy of its class, averaged over the classes)
    and `projection_steps` (training steps in this problem so far).

    Args:
        pool_dataset: A finite `tf.data.Dataset` of batches (images, labels) of the training classes, or a callable that
            gives one for the number of a draw (0 for the first proxies, then 1, 2, …). The pool is the first
            `pool_size` pictures of each class in it, so a data set given as such should be shuffled anew at each pass.
        pool_size: How many pictures of each class are embedded. With 1 the proxies are random samples: the pool is
            as large as the number of proxies per class and no choice is left.
        patience: How many validations in a row may pass without a better value.
        monitor: Metric in the logs; larger is better.
        start_from_epoch: Validations of the epochs before, counted from 0, are passed over, as those of a warm-up.

    Raises:
        ValueError: If `pool_size` or `patience` is below 1, the pool lacks a class, or its embeddings are not finite.
        TypeError: If the model is no `CCPModel`.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithms 1 and 2.
    """

    def __init__(self, pool_dataset, pool_size=12, patience=3, monitor="val_map_at_r", start_from_epoch=0):
        super().__init__()
        for name, value in (("pool_size", pool_size), ("patience", patience)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {name}={value}.")
        self.pool_dataset = pool_dataset
        self.pool_size = int(pool_size)
        self.patience = int(patience)
        self.monitor = monitor
        self.start_from_epoch = check_whole_number("start_from_epoch", start_from_epoch, minimum=0)
        self._covering_radius = float("nan")

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, CCPModel):
            raise TypeError(f"AlternatingProjections drives a CCPModel. Received: {type(self.model).__name__}.")
        if int(self.model.optimizer.iterations) == 0 and int(self.model.projection) == 0:
            proxies, self._covering_radius = self._choose_proxies(draw=0, given_present=False)
            self.model.proxies.assign(proxies)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        logs = logs if logs is not None else {}
        logs["projection"] = int(model.projection)
        logs["covering_radius"] = self._covering_radius
        logs["projection_steps"] = int(model.optimizer.iterations) - int(model.projection_start)
        value = monitored_value(logs, self.monitor)
        if value is None or epoch < self.start_from_epoch:
            return
        if value > float(tf.convert_to_tensor(model.best_value)):
            model.best_value.assign(float(value))
            model.best.take(model.solution)
            model.wait.assign(0)
            return
        model.wait.assign(model.wait + 1)
        if int(model.wait) >= self.patience and not model.stop_training:
            self._next_projection(logs["projection_steps"])

    def _next_projection(self, steps):
        model = self.model
        solved, best = int(model.projection), float(tf.convert_to_tensor(model.best_value))
        model.best.restore(model.solution)
        proxies, self._covering_radius = self._choose_proxies(draw=solved + 1, given_present=True)
        model.begin_projection(proxies)
        _logger.info(
            "Projection %d ends after %d steps at %s = %.4f; the proxies of projection %d cover the pool within %.4f.",
            solved, steps, self.monitor, best, solved + 1, self._covering_radius,
        )  # fmt: skip

    def _choose_proxies(self, draw, given_present):
        layer = self.model.proxies
        present = np.asarray(layer.proxies)
        pool, exists = self._embed_pool(draw)
        indices = np.asarray(
            ops.greedy_k_center(pool, layer.per_class, initial=present if given_present else None, mask=exists)
        )
        chosen = np.take_along_axis(pool, np.maximum(indices, 0)[:, :, None], axis=1)
        proxies = np.where(indices[:, :, None] >= 0, chosen, present if given_present else chosen[:, :1])
        classes = np.arange(layer.num_classes)
        radius = covering_radius(
            pool[exists],
            proxies.reshape(-1, layer.dim),
            np.repeat(classes, pool.shape[1])[exists.reshape(-1)],
            np.repeat(classes, layer.per_class),
            reduction="mean",
        )
        return proxies, float(radius)

    def _embed_pool(self, draw):
        """Embeddings `(classes, size, dim)` and which of them exist, `(classes, size)`."""
        layer = self.model.proxies
        size = max(self.pool_size, layer.per_class)
        pool = np.zeros((layer.num_classes, size, layer.dim), np.float32)
        counts = np.zeros(layer.num_classes, int)
        dataset = self.pool_dataset(draw) if callable(self.pool_dataset) else self.pool_dataset
        for images, labels in image_batches(dataset):
            if labels is None:
                raise ValueError("Proxies are drawn class by class. Received: a pool data set without labels.")
            embeddings, labels = np.asarray(self.model.embed_batch(images)), np.asarray(labels).reshape(-1)
            if labels.min() < 0 or labels.max() >= layer.num_classes:
                raise ValueError(
                    f"The pool has labels without proxies. Received: labels {labels.min()}..{labels.max()}; "
                    f"expected 0..{layer.num_classes - 1}."
                )
            for embedding, label in zip(embeddings, labels):
                if counts[label] < size:
                    pool[label, counts[label]] = embedding
                    counts[label] += 1
            if counts.min() == size:
                break
        missing = np.flatnonzero(counts == 0)
        if len(missing):
            raise ValueError(f"The pool lacks {len(missing)} classes. Received: no picture of {missing[:10].tolist()}.")
        if not np.isfinite(pool).all():
            bad = np.flatnonzero(~np.isfinite(pool).all(axis=(1, 2)))
            raise ValueError(f"The pool's embeddings are not finite in {len(bad)} classes: {bad[:10].tolist()}.")
        return pool, np.arange(size)[None, :] < counts[:, None]

    def get_state(self):
        """What the model's own state does not hold: the covering radius for the logs."""
        return {"covering_radius": self._covering_radius}

    def set_state(self, state):
        """Takes over what `get_state` gave."""
        self._covering_radius = state["covering_radius"]
