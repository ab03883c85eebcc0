"""In which precision the numerically delicate parts run."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike


def at_least_float32(tensor: TensorLike) -> tf.Tensor:
    """The tensor in float32, or as it is if it is float64: half precisions do not hold a distance or a logsumexp."""
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)
