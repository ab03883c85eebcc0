"""Contrastive loss of given pairs."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_positive
from tfdml._utils.types import Config, TensorLike


@keras.saving.register_keras_serializable(package="tfdml")
class PairContrastiveLoss(keras.losses.Loss):
    r"""Contrastive loss of pairs whose distances are given, for models that are fed two things at a time.

    $$t \, d^q + (1 - t) \, [m - d]_+^q$$

    Where there are class labels, `ContrastiveLoss` uses all pairs of a batch instead.

    Args:
        margin: $m > 0$.
        power: $q$, 1 or 2.
        name: Name of the loss.
        reduction: Keras' reduction over the batch.

    Raises:
        ValueError: If the margin is not positive or the power another.

    Reference:
        Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006.

    Example:
        >>> float(PairContrastiveLoss()([1, 0], [0.5, 0.5]))
        0.25
    """

    def __init__(
        self,
        margin: float = 1.0,
        power: int = 2,
        name: str = "pair_contrastive",
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = check_positive("margin", margin)
        self.power = check_choice("power", power, (1, 2))

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """One value per pair.

        Args:
            y_true: 1 for a pair of the same, 0 for one of different things, `(batch,)` or `(batch, 1)`.
            y_pred: Distances, of the same shape.

        Returns:
            `(batch,)`, float32, or float64 if the distances are.

        Raises:
            ValueError: If there is not one distance for each label.
        """
        distances = tf.reshape(ops.at_least_float32(y_pred), (-1,))
        same = tf.reshape(tf.cast(y_true, distances.dtype), (-1,))
        if not distances.shape.is_compatible_with(same.shape):
            raise ValueError(
                "There must be a distance for every pair. "
                f"Received: {same.shape[0]} labels and {distances.shape[0]} distances."
            )
        pull, push = distances, tf.nn.relu(self.margin - distances)
        if self.power == 2:
            pull, push = tf.square(pull), tf.square(push)
        return same * pull + (1.0 - same) * push

    def get_config(self) -> Config:
        return {**super().get_config(), "margin": self.margin, "power": self.power}
