"""The precision of numerically sensitive computations."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike


def at_least_float32(tensor: TensorLike) -> tf.Tensor:
    """Cast a tensor to float32 unless it is float64: half precision is too coarse for distances and logsumexp.

    Args:
        tensor: Tensor or array of any type.

    Returns:
        Tensor in float32 or float64.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.at_least_float32(tf.constant(1.0, tf.bfloat16)).dtype
        tf.float32
    """
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)
