"""A moving average of the weights, which is what is judged and kept."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_between
from tfdml._utils.types import Config, Logs, Weight
from tfdml.models import CCPModel, MetricModel
from tfdml.models.snapshot import ordered_weights


class AveragedWeights(keras.callbacks.Callback):
    r"""Judges and keeps an exponential moving average of the embedder's weights.

    After training step $t$ (from 1, `model.steps`), for every weight of the embedder, batch statistics included,

    $$\bar\theta \leftarrow \mu_t \bar\theta + (1 - \mu_t) \theta, \qquad
      \mu_t = \min\Big(\mu, \frac{1 + t}{10 + t}\Big),$$

    so that the first weights are soon forgotten. Training goes on with $\theta$; from each validation to the end of the
    epoch, and when the training ends, the embedder has the weights $\bar\theta$. Put it before the callbacks that keep
    weights, such as `RetrievalEarlyStopping`.

    The average is the other end of what chance constrained programming does: with one step for each problem, the pull
    towards the last solution is an average over the steps.

    Args:
        momentum: $\mu$, from 0 (the weights themselves) to 1.

    Raises:
        ValueError: If the momentum is out of range, or when the training begins with `steps_per_execution` above 1.
        TypeError: If the model is no `MetricModel`, or is a `CCPModel`, which goes back to weights of its own.

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
            raise TypeError(f"AveragedWeights averages the weights of a MetricModel. Received: {type(model).__name__}.")
        # Keras 2 has "auto" in the configuration alone; in Keras 3 the attribute can be set after compile.
        steps = (model.get_compile_config() or {}).get("steps_per_execution", 1)
        steps = steps if isinstance(steps, str) else int(model.steps_per_execution)
        if steps != 1:
            raise ValueError(
                "AveragedWeights averages after every step, and Keras calls it once in several. Received: "
                f"steps_per_execution={steps!r}. Expected: steps_per_execution=1."
            )
        # The variables themselves: Keras 2 reorders them when a layer is frozen.
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
        # Where there is no validation.
        self._put_averages_in()

    def _put_averages_in(self):
        if self._averages and self._online is None:
            self._online = [np.array(weight) for weight in self._weights]
            _assign(self._weights, self._averages)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._weights, self._averages, self._online = [], [], None

    def get_state(self) -> Config:
        """The weights that training goes on with; the averages are in the model at an epoch's end."""
        return {"online": self._online or []}

    def set_state(self, state: Config) -> None:
        """Takes over what `get_state` gave."""
        self._restored = state["online"] or None


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)
