"""Layers that normalize embeddings."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class L2Normalization(keras.layers.Layer):
    r"""Scale each vector to unit length: $v / \lVert v \rVert_2$ along the last axis.

    The usual last layer of an embedder. L2 distances then lie between 0 and 2 and rank like cosine similarities, which
    is what the default margins of the losses expect. Under CCP use `L2Clip` instead. The norm is computed in float32
    under mixed precision. A zero vector stays zero.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> print(layers.L2Normalization()(tf.constant([[3.0, 4.0]])).numpy())
        [[0.6 0.8]]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(ops.l2_normalize(inputs), inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable(package="tfdml")
class L2Clip(keras.layers.Layer):
    r"""Clip each vector to a ball: $v / \max(1, \lVert v \rVert_2 / r)$ along the last axis.

    The last layer of an embedder trained with CCP. Clipping is Lipschitz continuous, which unit normalization is not
    and the generalization bound of chance constrained programming requires. The norm is computed in float32 under mixed
    precision.

    Args:
        max_norm: float, > 0. Radius $r$ of the ball. Default: 1.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Raises:
        ValueError: If `max_norm` is not positive.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 3.2.4.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> print(layers.L2Clip()(tf.constant([[3.0, 4.0], [0.3, 0.4]])).numpy())
        [[0.6 0.8]
         [0.3 0.4]]
    """

    def __init__(self, max_norm: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not max_norm > 0:
            raise ValueError(f"max_norm must be positive. Received: max_norm={max_norm!r}. Expected: a float > 0.")
        self.max_norm = float(max_norm)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(ops.l2_clip(inputs, self.max_norm), inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "max_norm": self.max_norm}
