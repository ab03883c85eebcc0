"""Base classes of the pooling layers with prototypes, and the choice of the initial prototypes."""

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
    """Base class of poolings with trainable prototypes that can be initialized from real features.

    Call `adapt` once before training (`tfdml.models.adapt_pooling` for an embedder; recipes do it by themselves).
    Random prototypes need not be near any feature.

    Subclasses have the attribute `prototypes`, their number, and `prototype_embeddings`, the weight
    `(prototypes, size)`, and implement `prototype_space`.

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Example:
        >>> import numpy as np
        >>> from tfdml.layers import pooling
        >>> layer = pooling.get("gsp", prototypes=2)
        >>> layer.adapt(np.array([[[0.0, 0.5], [0.0, 0.5], [0.5, 0.0]]], "float32"))
        >>> print(np.sort(np.array(layer.prototype_embeddings), axis=0))
        [[0.  0. ]
         [0.5 0.5]]
    """

    prototype_embeddings: Any = None

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        """Map local features `(n, d)` to the space of the prototypes, `(n, size)`."""
        raise NotImplementedError

    def local_samples(self, features: np.ndarray) -> np.ndarray:
        """Arrange a batch of local features `(..., d)` as candidates `(n, ..., d)`, from which `adapt` selects."""
        return features.reshape(-1, features.shape[-1])

    def start_from(self, prototypes: TensorLike, points: TensorLike) -> None:
        """Set the prototypes.

        Args:
            prototypes: Tensor `(prototypes, size)`.
            points: Tensor `(n, size)`. The sample that they were selected from.
        """
        variable = self.prototype_embeddings
        variable.assign(tf.reshape(tf.cast(prototypes, variable.dtype), variable.shape))

    def adapt(self, data: Batches, max_features: int = 4096, seed: int = 0) -> None:
        """Initialize the prototypes with local features of the data, selected by greedy k-center.

        From a random sample of the features, mapped to the space of the prototypes, one feature after another is
        selected, each the one farthest from those before it. Call it before training, with the features that the layer
        will receive. Builds the layer if necessary.

        Args:
            data: Array of features `(..., d)`, or a `tf.data.Dataset` or other iterable of such batches. If a batch is
                a tuple, as in a dataset with labels, its first element is used. An iterable is read once.
            max_features: int. Size of the random sample. Default: 4096.
            seed: int. Seed of the random sample. Default: 0.

        Raises:
            ValueError: If the sample has fewer distinct features than there are prototypes, a feature is not finite, or
                the number of channels differs from the layer's.

        Reference:
            T. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
        """
        if max_features < self.prototypes:
            raise ValueError(
                f"The sample must have at least one feature per prototype. Received: max_features={max_features}. "
                f"Expected: at least prototypes={self.prototypes}."
            )
        sample = _sample_features(data, self.local_samples, max_features, np.random.default_rng(seed))
        if not np.isfinite(sample).all():
            raise ValueError("The features are not finite. Received: NaN or infinity. Expected: finite features.")
        if not self.built:
            self.build((None, None, None, sample.shape[-1]) if self.maps_only else (None, None, sample.shape[-1]))
        if sample.shape[-1] != self.input_channels:
            raise ValueError(
                f"The features do not match the prototypes. Received: features with {sample.shape[-1]} channels. "
                f"Expected: {self.input_channels}."
            )
        points = self.prototype_space(tf.convert_to_tensor(sample, self.precision))
        points = tf.reshape(points, (len(sample), -1))
        chosen = ops.greedy_k_center(points, min(self.prototypes, len(sample)))
        prototypes = tf.gather(points, chosen)
        distinct = _count_distinct(prototypes.numpy())
        if distinct < self.prototypes:
            raise ValueError(
                f"There are too few distinct local features. Received: {distinct} distinct features in a sample of "
                f"{len(sample)}. Expected: at least prototypes={self.prototypes}. Pass more data or lower "
                "`prototypes`. For a network with random weights, call tfdml.models.calibrate_batch_norm first."
            )
        self.start_from(prototypes, points)


class EnsemblePooling(PrototypePooling):
    """Base class of poolings that concatenate one vector per prototype.

    Args:
        prototypes: int, >= 1. Number of prototypes. Default: 64.
        channels: int or `None`. Size to which a linear map without bias first reduces the features; `None` leaves them
            unchanged. Default: `None`.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.
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
        """Map features `(..., d)` to `(..., channels)`."""
        return features if self.projection is None else self.projection(features)


def _sample_features(data, arrange, size, generator):
    """Draw a uniform sample of the local features in all batches, shuffled, `(at most size, ..., d)`.

    The function `arrange` maps each batch to its candidates `(n, ..., d)`.
    """
    batches = [data] if isinstance(data, (np.ndarray, tf.Tensor, tf.Variable)) else data
    features, keys = None, None
    for batch in batches:
        batch = np.asarray(batch[0] if isinstance(batch, tuple) else batch)
        batch = arrange(batch.astype(np.result_type(batch.dtype, np.float32), copy=False))
        batch_keys = generator.random(len(batch))
        features = batch if features is None else np.concatenate([features, batch])
        keys = batch_keys if keys is None else np.concatenate([keys, batch_keys])
        smallest = np.argsort(keys)[:size]
        features, keys = features[smallest], keys[smallest]
    if features is None:
        raise ValueError("There are no features to adapt to. Received: no batches. Expected: at least one.")
    return features


def _count_distinct(points, tolerance=1e-6):
    """Count the points `(m, d)` that differ from all before them by more than the tolerance."""
    return sum(
        np.all(np.linalg.norm(points[:index] - point, axis=-1) > tolerance) for index, point in enumerate(points)
    )
