"""Warn when all embeddings become the same."""

from __future__ import annotations

import math
import warnings

import keras

from tfdml._utils.arguments import check_between, check_positive
from tfdml._utils.types import Logs
from tfdml.models.embedder import largest_distance

# Share of the largest possible distance, and validations in a row, that are a collapse from the beginning.
_SHARE_OF_DIAMETER = 0.025
_VALIDATIONS = 2


class CollapseWarning(keras.callbacks.Callback):
    r"""Warns once when the embeddings collapse to nearly one vector.

    Losses against proxies contain no force between the embeddings of a batch. If the network changes fast, what moves
    all embeddings alike can grow until they hardly differ, while the loss still looks normal. The mean distance between
    samples of different classes, which `MetricModel.compile(geometry=True)` adds to the validation logs, then falls
    towards 0.

    The callback warns if that distance falls below `fraction` of the largest one so far. If the embedder normalizes or
    clips its output, it also warns if two validations in a row are below 2.5% of the largest possible distance and the
    second one is not larger than the first. Without the metric in the logs it does nothing. Recipes have this callback.

    Args:
        fraction: float, above 0 and at most 1. Default 0.1.
        monitor: str. Distance in the logs. Default `"val_interclass_distance"`.

    Attributes:
        warned_epoch: int. Epoch (0-based) of the warning; `None` if there was none.

    Raises:
        ValueError: If `fraction` is out of range.

    Example:
        >>> from tfdml.models import MetricModel
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile("adam", loss="c2", geometry=True)
        >>> collapse = CollapseWarning()
        >>> # model.fit(train, validation_data=validation, callbacks=[collapse])
        >>> collapse.warned_epoch is None
        True
    """

    def __init__(self, fraction: float = 0.1, monitor: str = "val_interclass_distance") -> None:
        super().__init__()
        self.fraction = check_between("fraction", check_positive("fraction", fraction), 0.0, 1.0)
        self.monitor = monitor
        self._reset()

    def _reset(self):
        self.warned_epoch: int | None = None
        self._largest = 0.0
        self._small: list[float] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = (logs or {}).get(self.monitor)
        if value is None or not math.isfinite(value) or self.warned_epoch is not None:
            return
        self._largest = max(self._largest, value)
        limit = self.fraction * self._largest
        if self._stays_small(value):
            limit = _SHARE_OF_DIAMETER * largest_distance(getattr(self.model, "embedder", self.model))
        if value < limit:
            self.warned_epoch = epoch
            warnings.warn(
                "The embeddings have collapsed: samples of different classes are hardly apart. Received: "
                f"{self.monitor}={value:.3g} after epoch {epoch + 1}, {self._largest:.3g} at most so far. Expected: "
                f"at least {limit:.3g}. With proxies, add the loss inside the batch "
                "(in_batch_weight=1), or use a smaller learning rate for the network or its backbone. A smaller "
                "learning rate of the proxies or a warm-up may only delay the collapse.",
                stacklevel=2,
            )

    def _stays_small(self, value):
        diameter = largest_distance(getattr(self.model, "embedder", self.model))
        if diameter is None or value >= _SHARE_OF_DIAMETER * diameter:
            self._small = []
            return False
        self._small.append(value)
        return len(self._small) >= _VALIDATIONS and value <= self._small[-2]
