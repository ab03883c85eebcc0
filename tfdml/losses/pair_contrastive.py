"""Contrastive loss on distances of given pairs."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_positive
from tfdml._utils.types import Config, TensorLike


@keras.saving.register_keras_serializable(package="tfdml")
class PairContrastiveLoss(keras.losses.Loss):
    r"""Contrastive loss on given distances, for models that compare two inputs.

    Use it for a siamese model that outputs one distance per pair, with binary labels. If you have class labels,
    `ContrastiveLoss` uses all pairs of a batch instead. With the label $t$ and the distance $d$ of a pair,

    $$t \, d^q + (1 - t) \, [m - d]_+^q$$

    This is Hadsell's form for $q = 2$. With `squared_margin`, the second term is $[m^q - d^q]_+$, for $q = 2$ the form
    of Bell and Bala: its force grows with the distance instead of vanishing at the margin.

    Args:
        margin: float, > 0. $m$: different pairs farther apart than this contribute nothing. Default: 1.
        power: 1 or 2. $q$. Default: 2.
        squared_margin: bool. Whether margin and distance are raised to the power before they are subtracted. Default:
            `False`.
        name: str. Name of the loss.
        reduction: str. Keras' reduction over the batch. Default: `"sum_over_batch_size"`.

    Raises:
        ValueError: If the margin is not positive or the power is not 1 or 2.

    Reference:
        Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006; Bell and Bala, "Learning
        visual similarity for product design with convolutional neural networks", SIGGRAPH 2015.

    Example:
        >>> from tfdml import losses
        >>> float(losses.PairContrastiveLoss()([1, 0], [0.5, 0.5]))
        0.25
    """

    def __init__(
        self,
        margin: float = 1.0,
        power: int = 2,
        squared_margin: bool = False,
        name: str = "pair_contrastive",
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = check_positive("margin", margin)
        self.power = check_choice("power", power, (1, 2))
        self.squared_margin = check_choice("squared_margin", squared_margin, (False, True))

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """Compute one value per pair.

        Args:
            y_true: Tensor `(batch,)` or `(batch, 1)`. 1 for a pair of the same kind, 0 for a pair of different ones.
            y_pred: float tensor of the same shape. Distances.

        Returns:
            Tensor `(batch,)`, float64 if the distances are, otherwise float32.

        Raises:
            ValueError: If the numbers of labels and distances differ.
        """
        distances = tf.reshape(ops.at_least_float32(y_pred), (-1,))
        same = tf.reshape(tf.cast(y_true, distances.dtype), (-1,))
        if not distances.shape.is_compatible_with(same.shape):
            raise ValueError(
                f"Labels and distances do not match. Received: {same.shape[0]} labels and {distances.shape[0]} "
                "distances. Expected: one distance per label."
            )
        pull, push = distances, tf.nn.relu(self.margin - distances)
        if self.power == 2:
            push = tf.nn.relu(self.margin**2 - tf.square(pull)) if self.squared_margin else tf.square(push)
            pull = tf.square(pull)
        return same * pull + (1.0 - same) * push

    def get_config(self) -> Config:
        own = {"margin": self.margin, "power": self.power, "squared_margin": self.squared_margin}
        return {**super().get_config(), **own}
