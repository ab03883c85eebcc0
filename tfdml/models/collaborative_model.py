"""Collaborative metric learning: users and items in one space."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_not_negative, check_positive, check_whole_number
from tfdml._utils.keras_compat import own_loss_tracker
from tfdml._utils.types import ArrayLike, Config
from tfdml.data import Interactions

_LOSSES = ("warp_hinge", "logistic")
_USERS_PER_BLOCK = 1024


@keras.saving.register_keras_serializable(package="tfdml")
class CollaborativeModel(keras.Model):
    r"""Learn vectors of users and items, so that each user is close to the items that they like (CML).

    With the vectors $u_i, v_j$ of users and items in a ball of radius `max_norm`, and $d(i, j) = \lVert u_i - v_j
    \rVert^2$, the loss of a positive pair $(i, j)$ and sampled negative items $k \in N$ is

    $$L_{ij} + \lambda_c L_c + \lambda_n \Bigl( \lVert u_i \rVert^2 + \frac{1}{|N| + 1} \sum_{k \in N \cup \{j\}}
      \lVert v_k \rVert^2 \Bigr) + \lambda_f \lVert f(x_j) - v_j \rVert^2$$

    with one of

    $$L_{ij} = \log(r_{ij} + 1)\, \max\bigl(0,\; m + d(i, j) - \min_k d(i, k)\bigr), \qquad
      L_{ij} = \frac{1}{|N|} \sum_k \log\bigl(1 + e^{s (d(i, j) - d(i, k))}\bigr),$$

    the paper's hinge with the estimated rank $r_{ij}$ of the positive item (`loss="warp_hinge"`, see `ops.warp_hinge`)
    or the logistic loss of BPR on distances (`loss="logistic"`, see `ops.pairwise_logistic`), the penalty $L_c$ on
    correlated dimensions of the batch's users and items (`ops.covariance_penalty`), and an optional encoder $f$ of the
    items' features $x_j$, which places items without interactions. Unlike inner products, distances obey the triangle
    inequality: users who like the same items become neighbors, and so do the items.

    Train it with `fit(interactions.batches(…), steps_per_epoch=…)`. The optimizer projects vectors back into the ball
    after each step. The logistic loss works best without the ball, with a penalty on the norms:
    `loss="logistic", max_norm=None, norm_weight=0.01`.

    Args:
        user_count: int. Number of users.
        item_count: int. Number of items.
        dim: int. Size of the vectors. Default 32.
        margin: float, > 0. $m$ of the hinge, in squared distance. With few dimensions, smaller ones such as 0.1 suit.
            Default 1.0.
        covariance_weight: float, >= 0. $\lambda_c$. Default 1.0.
        max_norm: float, > 0. Radius of the ball; `None` for no ball. Default 1.0.
        item_encoder: `keras.Model` from item features to vectors `(batch, dim)`; its outputs are clipped to the ball.
            Default `None`.
        feature_weight: float, >= 0. $\lambda_f$. Default 0.1.
        seed: int. Seed of the initial vectors. Default 0.
        impostors: `"closest"` or `"all"`. Negative items that the hinge pushes, as for `ops.warp_hinge`. Default
            `"closest"`.
        loss: `"warp_hinge"` or `"logistic"`. $L_{ij}$. Default `"warp_hinge"`.
        scale: float, > 0. $s$ of the logistic loss. Without a ball, the norms adapt to it. Default 1.0.
        norm_weight: float, >= 0. $\lambda_n$. Default 0.0.
        initial_norm: float, > 0. Root mean square of the norms of the initial vectors. From large ones, vectors with
            few dimensions cannot reach their places. Default 0.1.
        **kwargs: `name` and other arguments of `keras.Model`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from tfdml import data, models
        >>> interactions = data.Interactions([0, 0, 1, 1], [0, 1, 2, 3])
        >>> model = models.CollaborativeModel(2, 4, dim=2)
        >>> model.compile("adam")
        >>> history = model.fit(interactions.batches(4, negatives=2), steps_per_epoch=2, verbose=0)
        >>> items, distances = model.recommend([0], k=2, exclude=interactions)
        >>> sorted(items[0].tolist())
        [2, 3]

    Reference:
        Hsieh et al., "Collaborative metric learning", WWW 2017; Rendle et al., "BPR: Bayesian personalized ranking from
        implicit feedback", UAI 2009; Feng et al., "Personalized ranking metric embedding for next new POI
        recommendation", IJCAI 2015.
    """

    def __init__(
        self,
        user_count: int,
        item_count: int,
        dim: int = 32,
        margin: float = 1.0,
        covariance_weight: float = 1.0,
        max_norm: float | None = 1.0,
        item_encoder: keras.Model | None = None,
        feature_weight: float = 0.1,
        seed: int = 0,
        impostors: str = "closest",
        loss: str = "warp_hinge",
        scale: float = 1.0,
        norm_weight: float = 0.0,
        initial_norm: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.user_count = check_whole_number("user_count", user_count, 1)
        self.item_count = check_whole_number("item_count", item_count, 2)
        self.dim = check_whole_number("dim", dim, 1)
        self.margin = check_positive("margin", margin)
        self.covariance_weight = check_not_negative("covariance_weight", covariance_weight)
        self.max_norm = None if max_norm is None else check_positive("max_norm", max_norm)
        self.item_encoder, self.feature_weight = item_encoder, check_not_negative("feature_weight", feature_weight)
        self.seed = check_whole_number("seed", seed, 0)
        self.impostors = check_choice("impostors", impostors, ops.collaborative.IMPOSTORS)
        # Keras has an attribute `loss`, which `compile` sets.
        self.objective, self.scale = check_choice("loss", loss, _LOSSES), check_positive("scale", scale)
        self.norm_weight = check_not_negative("norm_weight", norm_weight)
        self.initial_norm = check_positive("initial_norm", initial_norm)
        if item_encoder is not None and item_encoder.output_shape[1:] != (self.dim,):
            raise ValueError(
                f"The encoder has another output. Received: shape {item_encoder.output_shape}. Expected: (batch, "
                f"{self.dim})."
            )
        deviation = self.initial_norm / self.dim**0.5
        ball = None if self.max_norm is None else keras.constraints.MaxNorm(self.max_norm, axis=1)
        self.users, self.items = (
            keras.layers.Embedding(
                count,
                self.dim,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=deviation, seed=of_table),
                embeddings_constraint=ball,
                name=name,
            )
            for name, count, of_table in (("users", user_count, 2 * seed), ("items", item_count, 2 * seed + 1))
        )
        for table in (self.users, self.items):
            table.build((None,))
        self._loss_tracker_of_keras_2 = own_loss_tracker()

    def call(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """Return squared distances of users to their positive item and to the negative ones, `(batch, 1 + K)`.

        Args:
            inputs: dict of `"user"` `(batch,)`, `"item"` `(batch,)` and `"negatives"` `(batch, K)`.
        """
        items = tf.concat([inputs["item"][:, None], inputs["negatives"]], axis=1)
        difference = self.users(inputs["user"])[:, None, :] - self.items(items)
        return tf.reduce_sum(tf.square(tf.cast(difference, tf.float32)), axis=-1)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Return the loss of a batch, a scalar. There is no `y`; weights are of the pairs.

        Args:
            x: dict, as for `call`, with `"features"` `(batch, f)` if there is an encoder.
            y_pred: Output of `call`.
            sample_weight: float tensor `(batch,)`, or `None`.
        """
        if self.objective == "logistic":
            of_pairs = ops.pairwise_logistic(y_pred[:, 0], y_pred[:, 1:], self.scale)
        else:
            of_pairs = ops.warp_hinge(y_pred[:, 0], y_pred[:, 1:], self.margin, self.item_count, self.impostors)
        if self.norm_weight:
            of_pairs += self.norm_weight * self._squared_norms(x)
        loss = tf.reduce_mean(of_pairs if sample_weight is None else of_pairs * tf.cast(sample_weight, of_pairs.dtype))
        users, items = tf.cast(self.users(x["user"]), tf.float32), tf.cast(self.items(x["item"]), tf.float32)
        if self.covariance_weight:
            loss += self.covariance_weight * ops.covariance_penalty(tf.concat([users, items], axis=0))
        if self.item_encoder is not None:
            if "features" not in x:
                raise ValueError(
                    f"The encoder needs features of items. Received: a batch of {sorted(x)}. Expected: Interactions "
                    "with item_features."
                )
            encoded = self._in_ball(self.item_encoder(x["features"], training=training))
            loss += self.feature_weight * tf.reduce_mean(tf.reduce_sum(tf.square(encoded - items), axis=-1))
        loss += sum(self.losses)
        if self._loss_tracker_of_keras_2 is not None:
            self._loss_tracker_of_keras_2.update_state(loss)
        return loss

    def _squared_norms(self, x):
        """Sum the squared norm of each user and the mean one of the items that it is compared with, `(batch,)`."""
        items = tf.concat([x["item"][:, None], x["negatives"]], axis=1)
        users, items = (tf.cast(vectors, tf.float32) for vectors in (self.users(x["user"]), self.items(items)))
        return tf.reduce_sum(tf.square(users), axis=-1) + tf.reduce_mean(tf.reduce_sum(tf.square(items), -1), axis=-1)

    def _in_ball(self, vectors):
        return tf.cast(vectors, tf.float32) if self.max_norm is None else ops.l2_clip(vectors, self.max_norm)

    def user_vectors(self) -> np.ndarray:
        """Return the vectors of all users, float32 `(user_count, dim)`."""
        return np.asarray(self.users.get_weights()[0], np.float32)

    def item_vectors(self) -> np.ndarray:
        """Return the vectors of all items, float32 `(item_count, dim)`, for a `Gallery`, for example."""
        return np.asarray(self.items.get_weights()[0], np.float32)

    def encode_items(self, features: ArrayLike) -> np.ndarray:
        """Return the vectors of items from their features, float32 `(n, dim)`, also of items without interactions.

        Args:
            features: float array `(n, f)`.

        Raises:
            ValueError: If the model has no encoder.
        """
        if self.item_encoder is None:
            raise ValueError("The model has no encoder. Received: item_encoder=None. Expected: a Keras model.")
        return np.asarray(self._in_ball(self.item_encoder.predict(np.asarray(features), verbose=0)))

    def recommend(
        self, users: ArrayLike, k: int = 10, exclude: Interactions | None = None, item_vectors: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest items of users.

        Args:
            users: Integers `(n,)`.
            k: int. Items per user. Default 10.
            exclude: `Interactions` whose items are not recommended, such as those of the training. Default `None`.
            item_vectors: float array `(n, dim)` instead of the learned vectors, such as those of `encode_items`; with
                `exclude`, one for each of its items. Default `None`.

        Returns:
            Tuple of integers `(n, k)`, the items, and float32 `(n, k)`, their distances, ascending. Where fewer than
            `k` items are left, items are -1 and distances infinite.

        Raises:
            ValueError: If `k` or a user is out of range, or vectors of items have another shape.
        """
        users = np.asarray(users, np.int64)
        if users.size and not 0 <= users.min() <= users.max() < self.user_count:
            raise ValueError(f"Users are out of range. Received: {users}. Expected: 0 to {self.user_count - 1}.")
        items = self.item_vectors() if item_vectors is None else np.asarray(item_vectors, np.float32)
        if items.ndim != 2 or items.shape[1] != self.dim or (exclude is not None and len(items) != exclude.item_count):
            count = "n" if exclude is None else exclude.item_count
            raise ValueError(
                f"Vectors of items have the wrong shape. Received: {items.shape}. Expected: ({count}, {self.dim})."
            )
        k = check_whole_number("k", k, 1)
        if k > len(items):
            raise ValueError(f"There are too few items. Received: k={k}. Expected: at most {len(items)}.")
        found = []
        vectors = self.user_vectors()
        for start in range(0, len(users), _USERS_PER_BLOCK):
            block = users[start : start + _USERS_PER_BLOCK]
            distances = ops.pairwise_distances(vectors[block], items).numpy()
            if exclude is not None:
                for row, known in zip(distances, exclude.items_of(block)):
                    row[known] = np.inf
            nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
            nearest_distances = np.take_along_axis(distances, nearest, axis=1)
            found.append((np.where(np.isinf(nearest_distances), -1, nearest), nearest_distances))
        if not found:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        nearest, distances = map(np.concatenate, zip(*found))
        return nearest, distances

    def get_config(self) -> Config:
        names = (
            "user_count", "item_count", "dim", "margin", "covariance_weight", "max_norm", "item_encoder",
            "feature_weight", "seed", "impostors", "scale", "norm_weight", "initial_norm",
        )  # fmt: skip
        config = {name: getattr(self, name) for name in names} | {"loss": self.objective}
        config["item_encoder"] = keras.saving.serialize_keras_object(self.item_encoder)
        return {"name": self.name, **config}

    @classmethod
    def from_config(cls, config: Config) -> CollaborativeModel:
        encoder = keras.saving.deserialize_keras_object(config["item_encoder"])
        return cls(**{**config, "item_encoder": encoder})
