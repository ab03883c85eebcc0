"""Evaluate and keep a moving average of the weights."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_between
from tfdml._utils.types import Config, Logs, Weight
from tfdml.models import CCPModel, MetricModel
from tfdml.models.snapshot import ordered_weights


class AveragedWeights(keras.callbacks.Callback):
    r"""Evaluates and keeps an exponential moving average of the embedder's weights.

    Use it to smooth validation metrics and often to gain a little accuracy, at the cost of one more copy of the
    weights. After training step $t$ (`model.steps`, from 1), every weight of the embedder, including the moving
    statistics of batch normalization, is averaged:

    $$\bar\theta \leftarrow \mu_t \bar\theta + (1 - \mu_t) \theta, \qquad
      \mu_t = \min\Big(\mu, \frac{1 + t}{10 + t}\Big),$$

    The smaller $\mu_t$ of the first steps makes the average forget the initial weights. Training continues with
    $\theta$; from each validation to the end of the epoch, and at the end of training, the embedder has the weights
    $\bar\theta$. Place this callback before those that save weights, such as `RetrievalEarlyStopping`.

    It is the limiting case of chance-constrained programming with one step per problem, in which the penalty towards
    the previous solution amounts to an average over steps.

    Args:
        momentum: float, $\mu$ in 0–1. 0 keeps the current weights. Default 0.99.

    Raises:
        ValueError: If the momentum is out of range, or, when training starts, `steps_per_execution` is not 1.
        TypeError: If the model is not a `MetricModel`, or is a `CCPModel`, which restores its own weights.

    Example:
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile("adam", loss="c2")
        >>> history = model.fit(
        ...     np.eye(4, dtype="float32"), np.array([0, 0, 1, 1]), verbose=0, callbacks=[AveragedWeights(0.9)]
        ... )

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; Gürbüz, METU 2022, section 3.2.3.
    """

    def __init__(self, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = check_between("momentum", momentum, 0.0, 1.0)
        self._weights: list[Weight] = []
        self._averages: list[tf.Variable] = []
        self._online: list[np.ndarray] | None = None
        self._restored: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        model = self.model
        if not isinstance(model, MetricModel) or isinstance(model, CCPModel):
            raise TypeError(
                f"AveragedWeights needs a MetricModel that is not a CCPModel. Received: {type(model).__name__}."
            )
        # Keras 2 stores "auto" only in the configuration; in Keras 3 the attribute can be set after compile.
        steps = (model.get_compile_config() or {}).get("steps_per_execution", 1)
        steps = steps if isinstance(steps, str) else int(model.steps_per_execution)
        if steps != 1:
            raise ValueError(
                "AveragedWeights must be called after every step. Received: "
                f"steps_per_execution={steps!r}. Expected: steps_per_execution=1."
            )
        # Keep the variables, because Keras 2 reorders `weights` when a layer is frozen.
        self._weights = weights = ordered_weights(model.embedder)
        self._averages = [tf.Variable(tf.convert_to_tensor(weight), trainable=False) for weight in weights]
        self._online, self._restored = self._restored, None
        self._update = tf.function(self._move_averages)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self._online is not None:
            _assign(self._weights, self._online)
            self._online = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        step = tf.cast(tf.convert_to_tensor(self.model.steps), tf.float32)
        self._update(tf.minimum(self.momentum, (1.0 + step) / (10.0 + step)))

    def _move_averages(self, momentum):
        for average, weight in zip(self._averages, self._weights):
            difference = tf.convert_to_tensor(weight) - average
            average.assign_add(tf.cast(1.0 - momentum, average.dtype) * difference)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._put_averages_in()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # For epochs without validation.
        self._put_averages_in()

    def _put_averages_in(self):
        if self._averages and self._online is None:
            self._online = [np.array(weight) for weight in self._weights]
            _assign(self._weights, self._averages)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._weights, self._averages, self._online = [], [], None

    def get_state(self) -> Config:
        """Return the weights that training continues with; at the end of an epoch the model has the averages."""
        return {"online": self._online or []}

    def set_state(self, state: Config) -> None:
        """Restore the state returned by `get_state`."""
        self._restored = state["online"] or None


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)
