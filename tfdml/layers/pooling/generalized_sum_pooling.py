"""Generalized sum pooling."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Identifier, Shape, TensorLike
from tfdml.layers.pooling.base import as_masked_bags, build_part
from tfdml.layers.pooling.prototypes import PrototypePooling
from tfdml.ops import optimal_transport


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedSumPooling(PrototypePooling):
    r"""Weighted average of local features that keeps those near trainable prototypes and ignores the rest (GSP).

    Drop-in replacement for global average pooling. Use it if only a part of an image shows the object: the pooling
    learns what to keep and what to ignore. Call `adapt` before training, so that the prototypes start at real features;
    `models.adapt_pooling` does it for an embedder, and recipes do it by themselves.

    A share $\mu$ of the features' mass is transported to the prototypes at minimum cost, with entropy smoothing
    $\varepsilon$. The weight of a feature is its transported mass:

    $$\mathrm{pooled} = \sum_j p_j f_j, \qquad p_j = \frac{1/n - \rho_j}{\mu}, \qquad
      z_i = \frac{1}{\mu} \sum_j \pi_{ij},$$

    where $\rho, \pi$ solve `tfdml.ops.partial_transport` for the costs
    $c_{ij} = \lVert \bar\omega_i - \bar f_j \rVert_2$ between prototypes and features, both clipped to the unit ball,
    $\bar v = v / \max(1, \lVert v \rVert_2)$. The averaged features are not clipped. The weights $p_j$ lie between 0
    and $1 / (n \mu)$ and sum to 1. With $\mu = 1$ this is global average pooling.

    **What to choose.**

    - `ratio`: about the share of the image that shows the object: 0.2 to 0.3 for objects on a background, towards 1 for
      objects that fill the image.
    - `smoothing`: the option that matters most in the thesis' screening (table 5.4), where smaller was better. The
      thesis uses 5 with pair losses and 0.5 with proxy losses, and 10 with `ratio=0.2` on its collages.
    - `prototypes`: matters little in the same screening (16 against 128). Use fewer if images have few local features.
      Avoid few prototypes together with a small ratio, a large smoothing and a large weight of `ZeroShotPrediction`.

    **As the author's code runs it.** With `channels`, a linear map $W$ without bias projects the features for
    transport, $c_{ij} = \lVert \bar\omega_i - \overline{W f_j} \rVert_2$, and the same map embeds the pooled feature:
    the output is $W \sum_j p_j f_j$. With `kernel_size` $k$, prototypes are $k \times k$ patches of features, which are
    compared with the patch around each place of the map, and the cost is the negative inner product

    $$c_{ij} = -\sum_{o} \langle \bar\omega_{io}, \bar f_{j+o} \rangle$$

    over the offsets $o$ of the patch; features outside the map and masked features count as 0.

    Costs, weights and attributes are computed in float32 under mixed precision. The pooled features have the layer's
    compute dtype.

    Args:
        prototypes: int, >= 1. $m$, the number of prototypes. Default: 64.
        ratio: float, 0 < ratio <= 1. $\mu$, the share of the mass to keep. Default: 0.3.
        smoothing: float, > 0. $\varepsilon$. Small values weight all features equally; large values keep only the
            nearest ones. Default: 5.
        solver: `"newton"`, or `"bregman"` for the iteration of the thesis. Default: `"newton"`.
        iterations: int or `None`. The maximum number of Newton iterations, or the number of Bregman projections.
            Default: `None`, the default of the solver.
        gradient: `"implicit"` (closed form), or `"unrolled"` with `solver="bregman"`. Default: `"implicit"`.
        return_attributes: bool. Whether to return also the share of the mass that each prototype received, for
            `ZeroShotPrediction`. Default: `False`.
        prototypes_initializer: Keras initializer. Default: `None`, random directions of about unit length. `adapt`
            replaces them with real features. (The thesis does not say how the prototypes are initialized.)
        channels: int or `None`, >= 1. Size to which the features are projected for transport, and the pooled feature
            after it; `None` transports the features as they are. In `build_embedder` it must equal `embedding_size`,
            with `embed_before_pooling=False`. Default: `None`.
        kernel_size: int or `None`, odd. $k$, the size of convolutional prototypes; only for feature maps. `None` uses
            the distance to single features. Default: `None`.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        - `features`: float tensor, feature map `(b, h, w, d)` or bag of features `(b, n, d)`; h, w and n may be
          unknown.
        - `mask`: bool tensor, `(b, n)` or `(b, h, w)`. `True` for valid features. A bag without any is pooled to 0.
          Keras masks (`Masking`, `Embedding`) are used automatically. Default: `None`, all features are valid.

    Returns:
        Tensor `(b, d)`, or `(b, channels)`. Pooled features. With `return_attributes`, a pair of these and the
        attributes `(b, m)`, which sum to 1.

    Raises:
        ValueError: If an option is out of range, the rank of the input is not 3 or 4 (4 with `kernel_size`), or its
            number of channels is unknown or differs from that of the layer.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.2;
        `channels` and `kernel_size` follow his public code.

    Example:
        >>> import numpy as np
        >>> from tfdml.layers import pooling
        >>> features = np.random.default_rng(0).normal(size=(2, 7, 7, 16)).astype("float32")
        >>> layer = pooling.GeneralizedSumPooling(prototypes=8, ratio=0.3, smoothing=5.0)
        >>> layer.adapt(features)
        >>> tuple(layer(features).shape), tuple(layer.pooling_weights(features).shape)
        ((2, 16), (2, 7, 7))
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
        channels: int | None = None,
        kernel_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        optimal_transport.check_transport_options(ratio, smoothing, solver, iterations, gradient)
        self.prototypes = check_whole_number("prototypes", prototypes, minimum=1)
        self.ratio, self.smoothing = float(ratio), float(smoothing)
        self.solver, self.gradient = solver, gradient
        self.iterations = None if iterations is None else int(iterations)
        self.return_attributes = bool(return_attributes)
        self.prototypes_initializer = keras.initializers.get(
            prototypes_initializer
            or keras.initializers.VarianceScaling(1.0, mode="fan_out", distribution="untruncated_normal")
        )
        self.channels = None if channels is None else check_whole_number("channels", channels, 1)
        self.kernel_size = None if kernel_size is None else check_whole_number("kernel_size", kernel_size, 1)
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ValueError(f"The kernel is even. Received: kernel_size={kernel_size!r}. Expected: an odd integer.")
        self.projection: keras.layers.Layer | None = None
        self.supports_masking = True

    @property
    def maps_only(self) -> bool:  # type: ignore[override]
        return self.kernel_size is not None

    def pooled_size(self, channels: int) -> int:
        return self.channels or channels

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.channels is not None:
            self.projection = keras.layers.Dense(
                self.channels, use_bias=False, name="projection", dtype=self.precision
            )
            build_part(self.projection, (None, None, self.input_channels))
        patch = () if self.kernel_size is None else (self.kernel_size, self.kernel_size)
        self.prototype_embeddings = self.add_precise_weight(
            "prototype_embeddings", (self.prototypes, *patch, self.output_size), self.prototypes_initializer
        )

    def call(self, features: tf.Tensor, mask: TensorLike | None = None) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        self.check_input_shape(features.shape)
        bags, mask = as_masked_bags(features, mask)
        weights, attributes = self._solve(bags, mask, tf.shape(features))
        pooled = tf.cast(self.project(self.combine(bags, weights, mask)), self.compute_dtype)
        return (pooled, attributes) if self.return_attributes else pooled

    def combine(self, bags: tf.Tensor, weights: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Pool features with given weights. Subclasses override this.

        Args:
            bags: Tensor `(b, n, d)`. Features before `project`; 0 where the mask is `False`.
            weights: Tensor `(b, n)`. Weight of each feature, with a sum of 1.
            mask: bool tensor `(b, n)` or `None`. `True` for valid features.

        Returns:
            Tensor `(b, d)`. Pooled features, to be projected.
        """
        return tf.linalg.matvec(bags, weights, transpose_a=True)

    def project(self, features: tf.Tensor) -> tf.Tensor:
        """Map features `(..., d)` to `(..., channels)`; without `channels`, return them unchanged."""
        return features if self.projection is None else self.projection(features)

    def pooling_weights(self, features: TensorLike, mask: TensorLike | None = None) -> tf.Tensor:
        """Compute the weight of each local feature in the pooled vector, for plots.

        Args:
            features: float tensor, `(b, h, w, d)` or `(b, n, d)`.
            mask: bool tensor, as in the call of the layer. Default: `None`.

        Returns:
            Tensor `(b, h, w)` or `(b, n)`, float32 or float64, with a sum of 1 for each image.
        """
        features = tf.convert_to_tensor(features)
        if not self.built:
            self.build(features.shape)
        self.check_input_shape(features.shape)
        bags, mask = as_masked_bags(features, mask)
        weights, _ = self._solve(bags, mask, tf.shape(features))
        return tf.reshape(weights, tf.shape(features)[:-1])

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        return ops.l2_clip(self.project(features))

    def local_samples(self, features: np.ndarray) -> np.ndarray:
        if self.kernel_size is None:
            return super().local_samples(features)
        if features.ndim != 4:
            raise ValueError(
                f"Convolutional prototypes are patches of feature maps. Received: features of shape {features.shape}. "
                "Expected: (b, h, w, d)."
            )
        size, reach = self.kernel_size, self.kernel_size // 2
        padded = np.pad(features, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        rows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)
        patches = np.lib.stride_tricks.sliding_window_view(rows, size, axis=2)
        return np.moveaxis(patches, 3, -1).reshape(-1, size, size, features.shape[-1])

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None

    def compute_output_shape(self, input_shape: Shape) -> Any:
        pooled = (input_shape[0], self.pooled_size(self.check_input_shape(input_shape)))
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

    def _solve(self, bags, mask, shape):
        """Compute weights `(b, n)` and attributes `(b, m)` of float bags `(b, n, d)`, from features of a shape."""
        costs = self._costs(self.project(bags), shape)
        log_mass, assignment = optimal_transport.soft_assignment(costs, self.smoothing, axis=-1)
        mass = optimal_transport.transported_mass(
            log_mass, self.ratio, self.solver, self.iterations, self.gradient, mask
        )
        attributes = None
        if self.return_attributes:
            attributes = tf.linalg.matvec(assignment, mass.transported / self.ratio, transpose_a=True)
        return mass.selected / self.ratio, attributes

    def _costs(self, bags, shape):
        """Compute the costs `(b, n, m)` of projected bags `(b, n, d)`, from features of a shape."""
        prototypes = tf.cast(tf.convert_to_tensor(self.prototype_embeddings), bags.dtype)
        if self.kernel_size is None:
            return ops.clipped_distances(bags, prototypes)
        maps = tf.reshape(ops.l2_clip(bags), (shape[0], shape[1], shape[2], bags.shape[-1]))
        filters = tf.transpose(ops.l2_clip(prototypes), (1, 2, 3, 0))
        # TensorFlow's convolution is a correlation.
        inner_products = tf.nn.conv2d(maps, filters, strides=1, padding="SAME", data_format="NHWC")
        return -tf.reshape(inner_products, (shape[0], tf.shape(bags)[1], self.prototypes))
