"""Generalized sum pooling."""

from __future__ import annotations

import numbers
from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Identifier, Shape, TensorLike
from tfdml.layers.pooling.base import as_masked_bags
from tfdml.layers.pooling.prototypes import PrototypePooling
from tfdml.ops import optimal_transport


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedSumPooling(PrototypePooling):
    r"""Weighted average of local features that keeps those near trainable prototypes and discards the rest.

    Drop-in for global average pooling. Of the features' mass the share $\mu$ is transported to the prototypes at
    the least cost, with entropy smoothing $\varepsilon$; what a feature gives is its weight:

    $$\mathrm{pooled} = \sum_j p_j f_j, \qquad p_j = \frac{1/n - \rho_j}{\mu}, \qquad
      z_i = \frac{1}{\mu} \sum_j \pi_{ij},$$

    where $\rho, \pi$ solve `tfdml.ops.partial_transport` for the costs
    $c_{ij} = \lVert \bar\omega_i - \bar f_j \rVert_2$ between the prototypes and the features, both clipped to the
    unit ball, $\bar v = v / \max(1, \lVert v \rVert_2)$. The features that are averaged are not clipped. The
    weights $p_j$ lie between 0 and $1 / (n \mu)$ and sum to 1. With $\mu = 1$ this is global average pooling.

    Costs and weights are computed in float32 under mixed precision, and so are the attributes; the pooled
    features have the layer's compute dtype.

    Args:
        prototypes: Number of prototypes, $m$.
        ratio: Share of the mass to keep, $\mu$, 0 < ratio <= 1.
        smoothing: $\varepsilon$ > 0. Small: all features weigh the same. Large: only the nearest ones count. The
            thesis uses 5 for pair losses and 0.5 for proxy losses.
        solver: `"newton"`, or `"bregman"` for the iteration of the thesis.
        iterations: Most Newton iterations, or the number of Bregman projections; `None` is the solver's default.
        gradient: `"implicit"` (closed form), or `"unrolled"` with `solver="bregman"`.
        return_attributes: Whether to return the share of the mass that each prototype received, too.
        prototypes_initializer: By default random directions of about unit length. `adapt` puts real features in
            their place (the thesis does not say how the prototypes start).

    Call arguments:
        features: Feature map `(b, h, w, d)` or bag of features `(b, n, d)`; h, w and n may be unknown.
        mask: Boolean, `(b, n)` or `(b, h, w)`: the features that exist. A bag without any is pooled to 0. Masks of
            Keras (`Masking`, `Embedding`) are taken up.

    Returns:
        Pooled features, `(b, d)`; with `return_attributes` the pair of these and the attributes `(b, m)`, which
        sum to 1.

    Raises:
        ValueError: If an option is out of range, the input has another rank than 3 or 4, its number of channels is
            unknown, or another than the prototypes'.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.2.

    Example:
        >>> pooling = GeneralizedSumPooling(prototypes=8, ratio=0.3, smoothing=5.0)
        >>> tuple(pooling(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 16)
    """

    def __init__(
        self,
        prototypes: int = 64,
        ratio: float = 0.3,
        smoothing: float = 5.0,
        solver: Literal["newton", "bregman"] = "newton",
        iterations: int | None = None,
        gradient: Literal["implicit", "unrolled"] = "implicit",
        return_attributes: bool = False,
        prototypes_initializer: Identifier | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        optimal_transport.check_transport_options(ratio, smoothing, solver, iterations, gradient)
        if isinstance(prototypes, bool) or not isinstance(prototypes, numbers.Integral) or prototypes < 1:
            raise ValueError(f"prototypes must be a positive integer. Received: prototypes={prototypes!r}.")
        self.prototypes = int(prototypes)
        self.ratio, self.smoothing = float(ratio), float(smoothing)
        self.solver, self.gradient = solver, gradient
        self.iterations = None if iterations is None else int(iterations)
        self.return_attributes = bool(return_attributes)
        self.prototypes_initializer = keras.initializers.get(
            prototypes_initializer
            or keras.initializers.VarianceScaling(1.0, mode="fan_out", distribution="untruncated_normal")
        )
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.prototype_embeddings = self.add_precise_weight(
            "prototype_embeddings", (self.prototypes, self.input_channels), self.prototypes_initializer
        )

    def call(self, features: tf.Tensor, mask: TensorLike | None = None) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        self.check_input_shape(features.shape)
        bags, mask = as_masked_bags(features, mask)
        weights, attributes = self._solve(bags, mask)
        pooled = tf.cast(tf.linalg.matvec(bags, weights, transpose_a=True), self.compute_dtype)
        return (pooled, attributes) if self.return_attributes else pooled

    def pooling_weights(self, features: TensorLike, mask: TensorLike | None = None) -> tf.Tensor:
        """The weight of each local feature in the pooled one, for figures.

        Args:
            features: `(b, h, w, d)` or `(b, n, d)`.
            mask: Boolean, as for calling the layer.

        Returns:
            Weights, `(b, h, w)` or `(b, n)`, float32 or float64; they sum to 1 over each image.
        """
        features = tf.convert_to_tensor(features)
        if not self.built:
            self.build(features.shape)
        self.check_input_shape(features.shape)
        weights, _ = self._solve(*as_masked_bags(features, mask))
        return tf.reshape(weights, tf.shape(features)[:-1])

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        return ops.l2_clip(features)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> Any:
        channels = self.check_input_shape(input_shape)
        pooled = (input_shape[0], channels)
        return (pooled, (input_shape[0], self.prototypes)) if self.return_attributes else pooled

    def compute_output_spec(self, features: Any, mask: Any = None) -> Any:
        # Keras 3 would give the attributes the dtype of the pooled features.
        shapes = self.compute_output_shape(features.shape)
        if not self.return_attributes:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        return (
            keras.KerasTensor(shapes[0], dtype=self.compute_dtype),
            keras.KerasTensor(shapes[1], dtype=self.precision),
        )

    def _solve(self, bags, mask):
        """Pooling weights `(b, n)` and attributes `(b, m)` of float bags `(b, n, d)`."""
        prototypes = tf.cast(tf.convert_to_tensor(self.prototype_embeddings), bags.dtype)
        costs = ops.clipped_distances(bags, prototypes)
        log_mass, assignment = optimal_transport.soft_assignment(costs, self.smoothing, axis=-1)
        mass = optimal_transport.transported_mass(
            log_mass, self.ratio, self.solver, self.iterations, self.gradient, mask
        )
        attributes = None
        if self.return_attributes:
            attributes = tf.linalg.matvec(assignment, mass.transported / self.ratio, transpose_a=True)
        return mass.selected / self.ratio, attributes
