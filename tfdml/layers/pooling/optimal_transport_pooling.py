"""Pooling by optimal transport of all local features to prototypes."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_positive, check_whole_number
from tfdml.layers.pooling.base import unit_vectors
from tfdml.layers.pooling.prototypes import EnsemblePooling


@keras.saving.register_keras_serializable(package="tfdml")
class OptimalTransportPooling(EnsemblePooling):
    r"""Distribution of all local features over prototypes in equal parts, with one pooled vector for each.

    Use it if a large embedding is acceptable and every place should count: unlike `GeneralizedSumPooling`, it ignores
    no feature. Call `adapt` before training.

    $$v = \sqrt{m} \, \Big( \sum_j P_{1j} f_j, \; \dots, \; \sum_j P_{mj} f_j \Big), \qquad
      P = \arg\max_P \sum_{ij} P_{ij} \cos(\omega_i, f_j)
      - \frac{1}{\varepsilon} \sum_{ij} P_{ij} \log P_{ij}$$

    subject to $\sum_i P_{ij} = 1/n$ and $\sum_j P_{ij} = 1/m$, with $m$ prototypes $\omega_i$. The solver is Sinkhorn's
    iteration in the log domain, through which gradients flow. It ends with the prototypes, whose shares are exact. If
    `channels` is set, the features $f_j$ are first reduced to that number by a linear map without bias.

    Args:
        prototypes: int, >= 1. $m$. The thesis compares 8 with 16 channels and 64 with 128. Default: 64.
        channels: int or `None`. Size to which the features are reduced; `None` leaves them unchanged. Default: `None`.
        smoothing: float, > 0. $\varepsilon$, the inverse of the paper's entropy weight, which is 0.5 in its code. The
            code of the thesis' author also uses 2, on unsquared distances. Default: 2.
        iterations: int, >= 1. Number of Sinkhorn iterations. Default: 10, as in the code of the paper and of the
            thesis' author.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, m * channels)`. Pooled features.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Mialon, Chen, d'Aspremont and Mairal, "A trainable optimal transport embedding for feature aggregation and its
        relationship to attention", ICLR 2021, definitions 3.1 and 3.2. Prototypes are random at first; `adapt` selects
        features (k-means in the paper).

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> layer = pooling.OptimalTransportPooling(prototypes=8, channels=16)
        >>> tuple(layer(tf.random.normal((2, 7, 7, 64))).shape)
        (2, 128)
    """

    def __init__(
        self,
        prototypes: int = 64,
        channels: int | None = None,
        smoothing: float = 2.0,
        iterations: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(prototypes, channels, **kwargs)
        self.smoothing = check_positive("smoothing", smoothing)
        self.iterations = check_whole_number("iterations", iterations, 1)

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        features = self.project(features)
        plan = self._transport(features)
        received = math.sqrt(self.prototypes) * tf.matmul(plan, features, transpose_a=True)
        return tf.reshape(received, (-1, self.output_size))

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        return unit_vectors(self.project(features))

    def _transport(self, features):
        """Compute the transport plan from features to prototypes, `(b, n, m)`."""
        prototypes = unit_vectors(self.precise(self.prototype_embeddings))
        log_plan = self.smoothing * tf.tensordot(unit_vectors(features), prototypes, [[2], [1]])
        for _ in range(self.iterations):
            # Each step normalizes one side to sums of 1. The factors 1/n and 1/m only matter at the end.
            log_plan = tf.nn.log_softmax(log_plan, axis=2)
            log_plan = tf.nn.log_softmax(log_plan, axis=1)
        return tf.exp(log_plan) / self.prototypes
