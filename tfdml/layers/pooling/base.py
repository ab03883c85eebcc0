"""Base classes of the pooling layers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils import keras_compat
from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Identifier, Shape, TensorLike, Weight
from tfdml.ops.normalization import LARGEST, into_range


class _Ranks:
    """The order of a layer's weights: trainable ones first, each kind in the order in which they were first seen.

    A separate class, because Keras tracks the contents of a dict.
    """

    def __init__(self):
        self._of = {}

    def sort(self, weights):
        for weight in weights:
            self._of.setdefault(id(weight), len(self._of))
        return sorted(weights, key=lambda weight: (not weight.trainable, self._of[id(weight)]))


class Pooling(keras.layers.Layer):
    """Base class of layers that pool local features into one vector.

    Subclass it to write a pooling: implement `pool` and store every argument as an attribute of the same name. Register
    it with `tfdml.layers.pooling.register` to use it by name in `build_embedder` and recipes.

    Everything is computed in `precision`, float32 or float64, even under mixed precision, because means over many
    places, norms, exponentials and solvers need more than half precision. Only the pooled vector has the layer's
    compute dtype.

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag of features `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, output_size)`. Pooled features.

    Raises:
        ValueError: If the input has the wrong rank, or its number of channels is unknown or has changed.

    Attributes:
        maps_only: bool. Whether the neighborhood of a place matters, so that bags are not supported.
        rectifies: bool. Whether negative features count as (about) 0. Such a pooling should follow a ReLU, and the
            layer that reduces features to the embedding size should follow the pooling.
        input_channels: int. Number of channels, d; `None` before the layer is built.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> class MedianOfThree(pooling.Pooling):
        ...     def pool(self, features):
        ...         return tf.sort(features, axis=1)[:, 1]
        >>> print(MedianOfThree()(tf.constant([[[1.0], [9.0], [2.0]]])).numpy())
        [[2.]]
    """

    maps_only = False
    rectifies = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # An integer once the layer is built, which is when subclasses compute with it.
        self.input_channels: int = None  # type: ignore[assignment]
        self._ranks = _Ranks()

    @property
    def weights(self) -> list[Weight]:
        """All weights, in an order that does not depend on which parts of the layer are trainable."""
        # Keras 2 lists the statistics of a nested batch normalization last, but in place if it is frozen.
        return self._ranks.sort(super().weights) if keras_compat.IS_KERAS_2 else super().weights

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        """Pool features. Subclasses implement this.

        Args:
            features: Tensor in `precision`, `(b, n, d)`; `(b, h, w, d)` if the layer is `maps_only`.

        Returns:
            Tensor `(b, output_size)`. Pooled features.
        """
        raise NotImplementedError

    def pooled_size(self, channels: int) -> int:
        """Size of the pooled vector for features with the given number of channels."""
        return channels

    @property
    def output_size(self) -> int | None:
        """Size of the pooled vector; `None` before the layer is built."""
        return None if self.input_channels is None else self.pooled_size(self.input_channels)

    @property
    def precision(self) -> str:
        """Name of the floating-point type used for all computations."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def build(self, input_shape: Shape) -> None:
        self.input_channels = self.check_input_shape(input_shape)
        super().build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.pool(self.local_features(features)), self.compute_dtype)

    def local_features(self, features: tf.Tensor) -> tf.Tensor:
        """Convert the features that the layer is called with into the input of `pool`."""
        self.check_input_shape(features.shape)
        features = tf.cast(features, self.precision)
        return features if self.maps_only else flatten_places(features)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.pooled_size(self.check_input_shape(input_shape)))

    def check_input_shape(self, input_shape: Shape) -> int:
        """Return the number of channels, or raise a ValueError if the layer does not accept the shape."""
        shape = tuple(input_shape)
        ranks, accepted = ((4,), "(b, h, w, d)") if self.maps_only else ((3, 4), "(b, h, w, d) or (b, n, d)")
        if len(shape) not in ranks:
            kinds = "feature maps" if self.maps_only else "feature maps or bags of features"
            raise ValueError(f"Pooling accepts {kinds}. Received: input of shape {shape}. Expected: {accepted}.")
        if shape[-1] is None:
            raise ValueError(
                f"The number of channels must be known. Received: input of shape {shape}. Expected: a fixed last axis."
            )
        if self.input_channels is not None and shape[-1] != self.input_channels:
            raise ValueError(
                f"The features do not match the layer. Received: input of shape {shape}. "
                f"Expected: {self.input_channels} channels."
            )
        return int(shape[-1])

    def add_precise_weight(self, name: str, shape: Shape, initializer: Identifier, **options: Any) -> Weight:
        """Add a trainable weight that mixed precision does not cast."""
        return self.add_weight(name=name, shape=shape, initializer=initializer, **options, **keras_compat.NO_AUTOCAST)

    def precise(self, weight: Weight) -> tf.Tensor:
        """The value of a weight in `precision`."""
        return tf.cast(tf.convert_to_tensor(weight), self.precision)

    def get_config(self) -> Config:
        options = {
            name: keras.initializers.serialize(value) if isinstance(value, keras.initializers.Initializer) else value
            for name, value in configuration(self).items()
        }
        return {**super().get_config(), **options}


class WeightedPooling(Pooling):
    r"""Base class of poolings that assign a weight to each place.

    $$v = \frac{1}{n} \sum_j a_j f_j$$

    Subclasses implement `attention`, the weights $a_j \ge 0$, and override `pool` if the formula differs.
    `pooling_weights` then works for plots.

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> class BrightnessPooling(pooling.WeightedPooling):
        ...     def attention(self, features):
        ...         return tf.reduce_sum(tf.nn.relu(features), axis=-1)
        >>> print(BrightnessPooling().pooling_weights(tf.constant([[[1.0], [3.0]]])).numpy())
        [[0.25 0.75]]
    """

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        """Compute the weight of each place, >= 0.

        Args:
            features: Tensor, as for `pool`.

        Returns:
            Tensor `(b, n)`; `(b, h, w)` if the layer is `maps_only`.
        """
        raise NotImplementedError

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return weighted_mean(self.attention(features), features)

    def pooling_weights(self, features: TensorLike) -> tf.Tensor:
        r"""Compute the share of each place in the attention, $a_j / \sum_k a_k$, for plots.

        Args:
            features: float tensor, `(b, h, w, d)`; also `(b, n, d)` if the layer accepts bags.

        Returns:
            Tensor `(b, h, w)` or `(b, n)`, float32 or float64, with a sum of 1 for each image. If all attention is 0,
            all weights are equal.
        """
        features = tf.convert_to_tensor(features)
        if not self.built:
            self.build(tuple(features.shape))
        attention = self.attention(self.local_features(features))
        places = list(range(1, attention.shape.rank))
        total = tf.reduce_sum(attention, axis=places, keepdims=True)
        equal = tf.ones_like(attention) / tf.reduce_sum(tf.ones_like(attention), axis=places, keepdims=True)
        weights = tf.where(total > 0.0, tf.math.divide_no_nan(attention, total), equal)
        return tf.reshape(weights, tf.shape(features)[:-1])


def weighted_mean(weights, bags):
    r"""$\frac{1}{n} \sum_j a_j f_j$ of weights `(b, n)` and bags `(b, n, d)`."""
    return tf.linalg.matvec(bags, weights, transpose_a=True) / count_places(bags)


def count_places(bags):
    """The number of features in each of the bags `(b, n, d)`, in their dtype."""
    return tf.cast(bags.shape[1] or tf.shape(bags)[1], bags.dtype)


def flatten_places(features):
    """Flatten maps `(b, h, w, d)` to bags `(b, n, d)`, keeping n static if it is known. Bags are returned unchanged."""
    if features.shape.rank == 3:
        return features
    height, width, channels = features.shape[1:]
    count = height * width if height is not None and width is not None else tf.reduce_prod(tf.shape(features)[1:3])
    return tf.reshape(features, (-1, count, channels))


def as_masked_bags(features, mask):
    """Convert features to bags `(b, n, d)` in at least float32, and the mask to `(b, n)` or `None`."""
    bags = flatten_places(ops.at_least_float32(features))
    if mask is None:
        return bags, None
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank is not None and not mask.shape.is_compatible_with(features.shape[:-1]):
        raise ValueError(
            f"The mask does not match the features. Received: mask of shape {tuple(mask.shape)} and features of shape "
            f"{tuple(features.shape)}. Expected: a mask of shape {tuple(features.shape[:-1])}."
        )
    mask = tf.reshape(mask, tf.shape(bags)[:-1])
    mask.set_shape(bags.shape[:-1])
    # A masked feature may be NaN, and 0 times NaN is NaN.
    return tf.where(mask[..., None], bags, 0.0), mask


def lengths_of(vectors):
    """L2 norms along the last axis, with a zero gradient at zero. Vectors whose squares overflow are supported."""
    vectors, scale = into_range(vectors)
    return scale[..., 0] * safe_sqrt(tf.reduce_sum(tf.square(vectors), axis=-1))


def unit_vectors(vectors):
    """Scale vectors to unit length along the last axis. A zero vector stays zero, with a zero gradient.

    Vectors whose squares overflow are normalized, too; vectors whose squares underflow count as zero.

    Unlike `ops.l2_normalize`, whose gradient at zero is a million times the upstream one: dead places of a feature map
    are common.
    """
    vectors, _ = into_range(vectors)
    return tf.math.divide_no_nan(vectors, safe_sqrt(tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)))


def at_most_largest(values):
    """Clip values to at most `LARGEST`, with a zero gradient above it."""
    return tf.minimum(values, LARGEST)


def safe_sqrt(values):
    """Square root with a zero gradient at 0."""
    positive = values > 0.0
    # The inner `where` keeps sqrt away from 0, where its gradient is infinite.
    return tf.where(positive, tf.sqrt(tf.where(positive, values, tf.ones_like(values))), tf.zeros_like(values))


def build_part(layer, input_shape):
    """Build a layer inside a layer under its own name. (Keras 2 would name the weights of all parts the same.)"""
    with tf.name_scope(layer.name):
        layer.build(input_shape)
