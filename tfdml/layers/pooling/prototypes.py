"""The base of pooling layers with prototypes, and where the prototypes start."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Batches, Shape, TensorLike
from tfdml.layers.pooling.base import Pooling, build_part


class PrototypePooling(Pooling):
    """A pooling whose trainable prototypes can start from real features.

    A subclass has `prototypes`, their number, and `prototype_embeddings`, the weights `(prototypes, size)`.
    """

    prototype_embeddings = None

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        """Brings local features `(n, d)` to where the prototypes are, `(n, size)`."""
        raise NotImplementedError

    def start_from(self, prototypes: TensorLike, points: TensorLike) -> None:
        """Puts prototypes in place of the present ones.

        Args:
            prototypes: `(prototypes, size)`.
            points: The sample that they were chosen from, `(n, size)`.
        """
        self.prototype_embeddings.assign(tf.cast(prototypes, self.prototype_embeddings.dtype))

    def adapt(self, data: Batches, max_features: int = 4096, seed: int = 0) -> None:
        """Puts local features of the data in place of the prototypes, chosen by greedy k-center.

        A random sample of the features, brought to where the prototypes are, is covered by as many of them as there
        are prototypes, each the one farthest from those before it. Builds the layer if need be. Call it before
        training, on the features that the layer will see.

        Args:
            data: Array of features `(..., d)`, or a `tf.data.Dataset` or other iterable of such batches. Of an
                element that is a tuple, as in a data set with labels, the first entry is taken. An iterable is
                run through once.
            max_features: Size of the sample.
            seed: Of the sample.

        Raises:
            ValueError: If the sample has fewer distinct features than there are prototypes, a feature is not
                finite, or the number of channels is not the layer's.

        Reference:
            T. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
        """
        if max_features < self.prototypes:
            raise ValueError(
                f"The sample must hold at least one feature per prototype. Received: max_features={max_features}; "
                f"expected at least prototypes={self.prototypes}."
            )
        sample = _sample_features(data, max_features, np.random.default_rng(seed))
        if not np.isfinite(sample).all():
            raise ValueError("The features to adapt to contain NaN or infinity; expected finite features.")
        if not self.built:
            self.build((None, None, sample.shape[-1]))
        if sample.shape[-1] != self.input_channels:
            raise ValueError(
                f"The features do not fit the prototypes. Received: features with {sample.shape[-1]} channels; "
                f"expected {self.input_channels}."
            )
        points = self.prototype_space(tf.convert_to_tensor(sample, self.precision))
        chosen = ops.greedy_k_center(points, min(self.prototypes, len(sample)))
        prototypes = tf.gather(points, chosen)
        distinct = _count_distinct(prototypes.numpy())
        if distinct < self.prototypes:
            raise ValueError(
                f"There are not enough distinct local features to start from. Received: {distinct} distinct features "
                f"in a sample of {len(sample)}; expected at least prototypes={self.prototypes}."
            )
        self.start_from(prototypes, points)


class EnsemblePooling(PrototypePooling):
    """A pooling that keeps what goes to each of its prototypes apart: one vector for each, one after the other.

    Args:
        prototypes: How many there are.
        channels: Size that the features are brought to first, by a linear map without bias, or `None` to take them as
            they are.
        **kwargs: `name`, `dtype` and the like.
    """

    def __init__(self, prototypes: int = 64, channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prototypes = check_whole_number("prototypes", prototypes, 1)
        self.channels = None if channels is None else check_whole_number("channels", channels, 1)
        self.projection = None

    def pooled_size(self, channels: int) -> int:
        return self.prototypes * (self.channels or channels)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        size = self.channels or self.input_channels
        if self.channels is not None:
            self.projection = keras.layers.Dense(size, use_bias=False, name="projection", dtype=self.precision)
            build_part(self.projection, (None, None, self.input_channels))
        self.prototype_embeddings = self.add_precise_weight(
            "prototype_embeddings", (self.prototypes, size), keras.initializers.RandomNormal(stddev=size**-0.5)
        )

    def project(self, features: tf.Tensor) -> tf.Tensor:
        """Features `(..., channels)` of features `(..., d)`."""
        return features if self.projection is None else self.projection(features)


def _sample_features(data, size, generator):
    """Uniform sample without replacement of the local features in all batches, `(at most size, d)`, shuffled."""
    batches = [data] if isinstance(data, (np.ndarray, tf.Tensor, tf.Variable)) else data
    features, keys = None, None
    for batch in batches:
        batch = np.asarray(batch[0] if isinstance(batch, tuple) else batch)
        batch = batch.reshape(-1, batch.shape[-1]).astype(np.result_type(batch.dtype, np.float32), copy=False)
        batch_keys = generator.random(len(batch))
        features = batch if features is None else np.concatenate([features, batch])
        keys = batch_keys if keys is None else np.concatenate([keys, batch_keys])
        smallest = np.argsort(keys)[:size]
        features, keys = features[smallest], keys[smallest]
    if features is None:
        raise ValueError("There are no features to adapt to. Received: no batches; expected at least one.")
    return features


def _count_distinct(points, tolerance=1e-6):
    """How many of the points `(m, d)` differ from all before them by more than rounding."""
    return sum(
        np.all(np.linalg.norm(points[:index] - point, axis=-1) > tolerance) for index, point in enumerate(points)
    )
