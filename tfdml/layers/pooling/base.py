"""The bases of all layers that pool local features into one vector."""

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
    """The order of a layer's weights: trainable variables first, each kind as they were first seen.

    An object of its own, because Keras tracks what is in a dict.
    """

    def __init__(self):
        self._of = {}

    def sort(self, weights):
        for weight in weights:
            self._of.setdefault(id(weight), len(self._of))
        return sorted(weights, key=lambda weight: (not weight.trainable, self._of[id(weight)]))


class Pooling(keras.layers.Layer):
    """A layer from local features to one vector.

    A subclass states its formula once, in `pool`, and keeps every argument as an attribute of the same name. All is
    computed in `precision`, float32 or float64, also under mixed precision, where only the pooled vector has the
    layer's compute dtype: means over many places, norms, exponentials and solvers are out of place in half precision.

    Call arguments:
        features: Feature map `(b, h, w, d)` or bag of features `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Pooled features, `(b, output_size)`.

    Raises:
        ValueError: If the input has another rank, its number of channels is unknown, or another than at first.

    Attributes:
        maps_only: Whether the places' neighbourhood counts, so that there is no pooling of a bag.
        rectifies: Whether a negative feature counts as (about) 0. Such a pooling belongs behind a ReLU, and the layer
            that brings the features to the size of the embedding behind the pooling.
        input_channels: Number of channels, d; `None` before the layer is built.
    """

    maps_only = False
    rectifies = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_channels = None
        self._ranks = _Ranks()

    @property
    def weights(self) -> list[Weight]:
        """All weights, in an order that does not depend on which of the layer's parts are trainable."""
        # Keras 2 lists the statistics of a batch normalisation inside a layer last, but of a frozen one in its place.
        return self._ranks.sort(super().weights) if keras_compat.IS_KERAS_2 else super().weights

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        """The formula.

        Args:
            features: Local features in `precision`: bags `(b, n, d)`, or maps `(b, h, w, d)` with `maps_only`.

        Returns:
            Pooled features, `(b, output_size)`.
        """
        raise NotImplementedError

    def pooled_size(self, channels: int) -> int:
        """Size of the vector that features of that many channels are pooled into."""
        return channels

    @property
    def output_size(self) -> int | None:
        """Size of the pooled vector; `None` before the layer is built."""
        return None if self.input_channels is None else self.pooled_size(self.input_channels)

    @property
    def precision(self) -> str:
        """Name of the floating point type that everything is computed in."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def build(self, input_shape: Shape) -> None:
        self.input_channels = self.check_input_shape(input_shape)
        super().build(input_shape)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.pool(self.local_features(features)), self.compute_dtype)

    def local_features(self, features: tf.Tensor) -> tf.Tensor:
        """What `pool` takes, of the features that the layer is called with."""
        self.check_input_shape(features.shape)
        features = tf.cast(features, self.precision)
        return features if self.maps_only else flatten_places(features)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.pooled_size(self.check_input_shape(input_shape)))

    def check_input_shape(self, input_shape: Shape) -> int:
        """Returns the number of channels, or raises a ValueError if this is no shape of features for this layer."""
        shape = tuple(input_shape)
        ranks, accepted = ((4,), "(b, h, w, d)") if self.maps_only else ((3, 4), "(b, h, w, d) or (b, n, d)")
        if len(shape) not in ranks:
            kinds = "feature maps" if self.maps_only else "feature maps or bags of features"
            raise ValueError(f"Pooling takes {kinds}. Received: input of shape {shape}; expected {accepted}.")
        if shape[-1] is None:
            raise ValueError(
                f"The number of channels must be known. Received: input of shape {shape}; expected a fixed last axis."
            )
        if self.input_channels is not None and shape[-1] != self.input_channels:
            raise ValueError(
                f"The features do not fit the layer. Received: input of shape {shape}; "
                f"expected {self.input_channels} channels."
            )
        return int(shape[-1])

    def add_precise_weight(self, name: str, shape: Shape, initializer: Identifier, **options: Any) -> Weight:
        """A trainable weight that mixed precision leaves alone."""
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
    r"""A pooling that gives every place a weight.

    $$v = \frac{1}{n} \sum_j a_j f_j$$

    A subclass states the attention $a_j \ge 0$, and `pool` if more than that happens.
    """

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        """The attention to each place, >= 0.

        Args:
            features: As for `pool`.

        Returns:
            `(b, n)`, or `(b, h, w)` with `maps_only`.
        """
        raise NotImplementedError

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return weighted_mean(self.attention(features), features)

    def pooling_weights(self, features: TensorLike) -> tf.Tensor:
        r"""The share of each place in the attention, for figures: $a_j / \sum_k a_k$.

        Args:
            features: `(b, h, w, d)`, or `(b, n, d)` where the layer takes bags.

        Returns:
            Weights, `(b, h, w)` or `(b, n)`, float32 or float64; they sum to 1 over each image. Where there is no
            attention to any place, all weigh the same.
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
    """How many features each of the bags `(b, n, d)` has, in their dtype."""
    return tf.cast(bags.shape[1] or tf.shape(bags)[1], bags.dtype)


def flatten_places(features):
    """Bags `(b, n, d)` of maps `(b, h, w, d)`, keeping what is known of n; bags stay as they are."""
    if features.shape.rank == 3:
        return features
    height, width, channels = features.shape[1:]
    count = height * width if height is not None and width is not None else tf.reduce_prod(tf.shape(features)[1:3])
    return tf.reshape(features, (-1, count, channels))


def as_masked_bags(features, mask):
    """Features `(b, n, d)` in at least float32 and mask `(b, n)` or None."""
    bags = flatten_places(ops.at_least_float32(features))
    if mask is None:
        return bags, None
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank is not None and not mask.shape.is_compatible_with(features.shape[:-1]):
        raise ValueError(
            f"The mask does not fit the features. Received: mask of shape {tuple(mask.shape)} and features of shape "
            f"{tuple(features.shape)}; expected {tuple(features.shape[:-1])}."
        )
    mask = tf.reshape(mask, tf.shape(bags)[:-1])
    mask.set_shape(bags.shape[:-1])
    # Not even a NaN of a masked feature may come through.
    return tf.where(mask[..., None], bags, 0.0), mask


def lengths_of(vectors):
    """Euclidean lengths along the last axis, also of vectors whose squares overflow; the gradient at zero is zero."""
    vectors, scale = into_range(vectors)
    return scale[..., 0] * safe_sqrt(tf.reduce_sum(tf.square(vectors), axis=-1))


def unit_vectors(vectors):
    """The vectors scaled to length 1 along the last axis; a zero vector stays zero, with a zero gradient.

    Vectors whose squares overflow have a direction, too; those whose squares vanish count as zero.

    A dead place of a feature map is no rarity, and the gradient of `ops.l2_normalize` is a million times the upstream
    one there.
    """
    vectors, _ = into_range(vectors)
    return tf.math.divide_no_nan(vectors, safe_sqrt(tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)))


def at_most_largest(values):
    """The values, none greater than `LARGEST`, with a zero gradient beyond it."""
    return tf.minimum(values, LARGEST)


def safe_sqrt(values):
    """Square roots, with a zero gradient at 0."""
    positive = values > 0.0
    # The inner `where` keeps sqrt, and so its gradient, away from 0.
    return tf.where(positive, tf.sqrt(tf.where(positive, values, tf.ones_like(values))), tf.zeros_like(values))


def build_part(layer, input_shape):
    """Builds a layer inside a layer, under its own name (Keras 2 would give all parts' weights the same names)."""
    with tf.name_scope(layer.name):
        layer.build(input_shape)
