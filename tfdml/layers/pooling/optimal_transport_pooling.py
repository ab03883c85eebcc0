"""Aggregation of local features by optimal transport to prototypes."""

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
    r"""Shares the local features out among prototypes, equally, and pools what each receives.

    $$v = \sqrt{m} \, \Big( \sum_j P_{1j} f_j, \; \dots, \; \sum_j P_{mj} f_j \Big), \qquad
      P = \arg\max_P \sum_{ij} P_{ij} \cos(\omega_i, f_j)
      - \frac{1}{\varepsilon} \sum_{ij} P_{ij} \log P_{ij}$$

    under $\sum_i P_{ij} = 1/n$ and $\sum_j P_{ij} = 1/m$, with $m$ prototypes $\omega_i$: by Sinkhorn's iteration on
    the logarithms, through which the gradient flows. It ends with the prototypes, whose shares are exact. With
    `channels` the features $f_j$ are first brought to that many by a linear map without bias. No feature is left out
    and none counts more than another: all $n$ go somewhere.

    Args:
        prototypes: $m$. The thesis compares 8 of 16 channels and 64 of 128.
        channels: Size that the features are brought to, or `None` to take them as they are.
        smoothing: $\varepsilon > 0$; the paper's entropy weight is its inverse, 0.5 in its code as here. The thesis'
            author's code has the same 2, on unsquared distances.
        iterations: Of Sinkhorn; default as in the paper's and the author's code.
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, m * channels)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be
        unknown.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Mialon, Chen, d'Aspremont and Mairal, "A trainable optimal transport embedding for feature aggregation and its
        relationship to attention", ICLR 2021, definitions 3.1 and 3.2. Prototypes start at random or, by `adapt`, from
        features (there: k-means).

    Example:
        >>> pooling = OptimalTransportPooling(prototypes=8, channels=16)
        >>> tuple(pooling(tf.random.normal((2, 7, 7, 64))).shape)
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
        """The plan from the features to the prototypes, `(b, n, m)`."""
        prototypes = unit_vectors(self.precise(self.prototype_embeddings))
        log_plan = self.smoothing * tf.tensordot(unit_vectors(features), prototypes, [[2], [1]])
        for _ in range(self.iterations):
            # Each brings one side's sums to 1. That they should be 1/n and 1/m makes no difference before the end.
            log_plan = tf.nn.log_softmax(log_plan, axis=2)
            log_plan = tf.nn.log_softmax(log_plan, axis=1)
        return tf.exp(log_plan) / self.prototypes
