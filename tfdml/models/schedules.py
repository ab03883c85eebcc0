"""Learning-rate schedules with a warm-up that Keras does not have."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_not_negative, check_whole_number
from tfdml._utils.types import Config


@keras.saving.register_keras_serializable(package="tfdml")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    r"""Increases the learning rate linearly from 0 to its peak, then decreases it linearly.

    $$\eta(t) = \begin{cases} \eta_{\max} \, t / w & t < w \\
      \eta_{\text{end}} + (\eta_{\max} - \eta_{\text{end}}) \, (1 - \min(1, (t - w) / s)) & t \ge w \end{cases}$$

    Use it to fine-tune transformers. Keras has the other usual schedule, `CosineDecay`.

    Args:
        learning_rate: float. The peak, $\eta_{\max}$.
        decay_steps: int. Steps of the decrease, $s$.
        warmup_steps: int. Steps of the increase, $w$. Default: 0.
        end_learning_rate: float. The learning rate at the end and after it, $\eta_{\text{end}}$. Default: 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from tfdml.models import LinearDecay
        >>> schedule = LinearDecay(0.5, decay_steps=4, warmup_steps=2)
        >>> [float(schedule(step)) for step in range(7)]
        [0.0, 0.25, 0.5, 0.375, 0.25, 0.125, 0.0]
    """

    def __init__(
        self, learning_rate: float, decay_steps: int, warmup_steps: int = 0, end_learning_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.learning_rate = check_not_negative("learning_rate", learning_rate)
        self.decay_steps = check_whole_number("decay_steps", decay_steps, minimum=1)
        self.warmup_steps = check_whole_number("warmup_steps", warmup_steps, minimum=0)
        self.end_learning_rate = check_not_negative("end_learning_rate", end_learning_rate)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        left = 1.0 - tf.minimum(1.0, tf.maximum(0.0, step - self.warmup_steps) / self.decay_steps)
        decayed = self.end_learning_rate + (self.learning_rate - self.end_learning_rate) * left
        return tf.where(step < self.warmup_steps, self.learning_rate * step / max(1, self.warmup_steps), decayed)

    def get_config(self) -> Config:
        return {
            "learning_rate": self.learning_rate,
            "decay_steps": self.decay_steps,
            "warmup_steps": self.warmup_steps,
            "end_learning_rate": self.end_learning_rate,
        }
