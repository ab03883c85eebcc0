"""Generalized sum pooling."""

import inspect
import numbers

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml.ops import optimal_transport

# The weights stay in float32 under mixed precision; the two Keras lines name the switch differently.
_NO_AUTOCAST = (
    {"autocast": False}
    if "autocast" in inspect.signature(keras.layers.Layer.add_weight).parameters
    else {"experimental_autocast": False}
)


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedSumPooling(keras.layers.Layer):
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
            their place.

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
        prototypes=64,
        ratio=0.3,
        smoothing=5.0,
        solver="newton",
        iterations=None,
        gradient="implicit",
        return_attributes=False,
        prototypes_initializer=None,
        **kwargs,
    ):
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
        self.prototype_embeddings = None
        self.supports_masking = True

    def build(self, input_shape):
        channels = self._check_input_shape(input_shape)
        self.prototype_embeddings = self.add_weight(
            name="prototype_embeddings",
            shape=(self.prototypes, channels),
            initializer=self.prototypes_initializer,
            trainable=True,
            **_NO_AUTOCAST,
        )
        super().build(input_shape)

    def call(self, features, mask=None):
        self._check_input_shape(features.shape)
        bags, mask = _as_bags(features, mask)
        weights, attributes = self._solve(bags, mask)
        pooled = tf.cast(tf.linalg.matvec(bags, weights, transpose_a=True), self.compute_dtype)
        return (pooled, attributes) if self.return_attributes else pooled

    def pooling_weights(self, features, mask=None):
        """The weight of each local feature in the pooled one, for pictures.

        Args:
            features: `(b, h, w, d)` or `(b, n, d)`.
            mask: Boolean, as for calling the layer.

        Returns:
            Weights, `(b, h, w)` or `(b, n)`, float32 or float64; they sum to 1 over each image.
        """
        features = tf.convert_to_tensor(features)
        if not self.built:
            self.build(features.shape)
        self._check_input_shape(features.shape)
        weights, _ = self._solve(*_as_bags(features, mask))
        return tf.reshape(weights, tf.shape(features)[:-1])

    def adapt(self, data, max_features=4096, seed=0):
        """Puts local features of the data in place of the prototypes, chosen by greedy k-center.

        A random sample of the features, clipped to the unit ball as the costs are, is covered by as many of them
        as there are prototypes, each the one farthest from those before it. Builds the layer if need be. Call it
        before training, on the features that the layer will see.

        Args:
            data: Array of features `(..., d)`, or a `tf.data.Dataset` or other iterable of such batches. Of an
                element that is a tuple, as in a data set with labels, the first entry is taken. An iterable is
                run through once.
            max_features: Size of the sample.
            seed: Of the sample.

        Raises:
            ValueError: If the sample has fewer distinct features than there are prototypes, a feature is not
                finite, or the number of channels is not the prototypes'.

        Reference:
            The start of the prototypes is not in the thesis; T. Gonzalez, "Clustering to minimize the maximum
            intercluster distance", 1985.
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
        channels = self.prototype_embeddings.shape[-1]
        if sample.shape[-1] != channels:
            raise ValueError(
                f"The features do not fit the prototypes. Received: features with {sample.shape[-1]} channels; "
                f"expected {channels}."
            )
        points = ops.l2_clip(tf.convert_to_tensor(sample, self.prototype_embeddings.dtype))
        chosen = ops.greedy_k_center(points, min(self.prototypes, len(sample)))
        prototypes = tf.gather(points, chosen)
        distinct = _count_distinct(prototypes.numpy())
        if distinct < self.prototypes:
            raise ValueError(
                f"There are not enough distinct local features to start from. Received: {distinct} distinct features "
                f"in a sample of {len(sample)}; expected at least prototypes={self.prototypes}."
            )
        self.prototype_embeddings.assign(prototypes)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        channels = self._check_input_shape(input_shape)
        pooled = (input_shape[0], channels)
        return (pooled, (input_shape[0], self.prototypes)) if self.return_attributes else pooled

    def compute_output_spec(self, features, mask=None):
        # Keras 3 would give the attributes the dtype of the pooled features.
        shapes = self.compute_output_shape(features.shape)
        if not self.return_attributes:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        precise = "float64" if self.compute_dtype == "float64" else "float32"
        return keras.KerasTensor(shapes[0], dtype=self.compute_dtype), keras.KerasTensor(shapes[1], dtype=precise)

    def get_config(self):
        return {
            **super().get_config(),
            "prototypes": self.prototypes,
            "ratio": self.ratio,
            "smoothing": self.smoothing,
            "solver": self.solver,
            "iterations": self.iterations,
            "gradient": self.gradient,
            "return_attributes": self.return_attributes,
            "prototypes_initializer": keras.initializers.serialize(self.prototypes_initializer),
        }

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

    def _check_input_shape(self, input_shape):
        shape = tuple(input_shape)
        if len(shape) not in (3, 4):
            raise ValueError(
                "Pooling takes feature maps or bags of features. "
                f"Received: input of shape {shape}; expected (b, h, w, d) or (b, n, d)."
            )
        if shape[-1] is None:
            raise ValueError(
                f"The number of channels must be known. Received: input of shape {shape}; expected a fixed last axis."
            )
        if self.prototype_embeddings is not None and shape[-1] != self.prototype_embeddings.shape[-1]:
            raise ValueError(
                f"The features do not fit the prototypes. Received: input of shape {shape}; "
                f"expected {self.prototype_embeddings.shape[-1]} channels."
            )
        return int(shape[-1])


def _as_bags(features, mask):
    """Features `(b, n, d)` in at least float32 and mask `(b, n)` or None, keeping what is known of n."""
    bags = ops.at_least_float32(features)
    if features.shape.rank == 4:
        height, width, channels = features.shape[1:]
        count = height * width if height is not None and width is not None else tf.reduce_prod(tf.shape(bags)[1:3])
        bags = tf.reshape(bags, (-1, count, channels))
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
