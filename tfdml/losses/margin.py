"""Margin loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_choice, check_not_negative, check_positive, check_whole_number
from tfdml._utils.types import DistanceName
from tfdml.losses.base import MarginRequirements, MetricLoss, per_sample_share
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class MarginLoss(FormerNames, MetricLoss):
    r"""Pulls positive pairs inside a boundary and pushes negative pairs outside of it, each by a margin.

    Unlike a triplet, a pair is compared with the boundary $\beta$ rather than with another pair. Use it inside the
    batch or with a memory, with `miner="distance_weighted"` as in the paper.

    $$\frac{\sum_{(i,j) \in P} [\alpha + d_{ij} - \beta_{y_i}]_+ + \sum_{(i,j) \in N} [\alpha - d_{ij} + \beta_{y_i}]_+}
      {\text{number of nonzero terms}} \; + \; \nu \, \frac{1}{b} \sum_i \beta_{y_i}$$

    The boundary is fixed, learned, or learned per class. A learned boundary is a weight of the layer `parameters`,
    which `MetricModel` trains; for other models see `MetricLoss`. With one boundary per class, a label outside of 0 to
    `num_classes - 1` is an error; under XLA, which drops assertions, the loss is NaN. Only `call_unseen`, which
    `MetricModel` uses for evaluation, accepts other classes and uses the mean boundary for them.

    The defaults are meant for unit vectors, where distances lie between 0 and 2.

    Args:
        margin: float, >= 0. $\alpha$. Default: 0.2.
        beta: float, > 0. $\beta$, or its initial value if it is learned. Default: 1.2.
        learn_beta: bool. Whether $\beta$ is learned. Default: `False`.
        num_classes: int or `None`. Learns one $\beta$ per class, for labels from 0 to `num_classes - 1`. Default:
            `None`, a single $\beta$.
        beta_weight: float, >= 0. $\nu$, the weight of a penalty on $\beta$. It only affects a learned $\beta$. Default:
            0.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`. Default: `"l2"`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin or the weight is negative, `beta` is not positive, the distance is unknown, or
            `num_classes` is passed without `learn_beta`.

    Reference:
        Wu et al., "Sampling matters in deep embedding learning", ICCV 2017, eqs. 3-5.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.MarginLoss(margin=0.2, beta=1.0)
        >>> round(float(loss([0, 0, 1], [[0.0], [1.0], [3.0]])), 4)  # only the positive pair has nonzero terms
        0.2
    """

    former_names = {"boundary": "beta", "trainable": "learn_beta", "boundary_weight": "beta_weight"}

    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 1.2,
        learn_beta: bool = False,
        num_classes: int | None = None,
        beta_weight: float = 0.0,
        distance: DistanceName = "l2",
        name: str = "margin",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.beta = check_positive("beta", beta)
        self.learn_beta = bool(learn_beta)
        if num_classes is not None and not self.learn_beta:
            raise ValueError(
                f"A fixed beta is the same for all classes. Received: num_classes={num_classes!r} with learn_beta="
                f"{learn_beta!r}. Expected: learn_beta=True to learn one beta per class."
            )
        self.num_classes = None if num_classes is None else check_whole_number("num_classes", num_classes, 1)
        self.beta_weight = check_not_negative("beta_weight", beta_weight)
        self.distance = check_choice("distance", distance, ops.DISTANCES)
        if self.learn_beta:
            self.parameters = _Boundaries(self.num_classes or 1, self.beta)

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        gap = 2 * self.margin
        reach = gap if self.parameters is not None else self.beta + self.margin
        return MarginRequirements(gap, reach, self.distance)

    @property
    def needs_classes(self) -> bool:  # type: ignore[override]
        return getattr(self, "num_classes", None) is not None

    @property
    def label_classes(self) -> int | None:  # type: ignore[override]
        return self.num_classes

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances(self.distance)
        boundary = self._boundaries(pairs, distances.dtype)
        excess = distances - boundary[:, None]
        nothing = tf.zeros_like(distances)
        terms = tf.where(pairs.positives, tf.nn.relu(self.margin + excess), nothing)
        terms += tf.where(pairs.negatives, tf.nn.relu(self.margin - excess), nothing)
        values = per_sample_share(tf.reduce_sum(terms, axis=1), tf.math.count_nonzero(terms), pairs)
        return values + self.beta_weight * boundary if self.beta_weight else values

    def _boundaries(self, pairs, dtype):
        labels, batch = pairs.labels, tf.shape(pairs.embeddings)[:1]
        if self.parameters is None:
            return tf.fill(batch, tf.constant(self.beta, dtype))
        boundaries = tf.cast(self.parameters.boundaries, dtype)
        if self.num_classes is None:
            return tf.fill(batch, boundaries[0])
        known = ops.known_labels(labels, self.num_classes)
        own = tf.gather(boundaries, tf.where(known, labels, tf.zeros_like(labels)))
        return tf.where(known, own, tf.reduce_mean(boundaries))


@keras.saving.register_keras_serializable(package="tfdml")
class _Boundaries(keras.layers.Layer):
    """The learned boundaries, `(classes,)`, or a single one, `(1,)`."""

    def __init__(self, count, value, **kwargs):
        super().__init__(**{"name": "boundaries", **kwargs})
        self.boundaries = self.add_weight(
            name="boundaries", shape=(count,), initializer=keras.initializers.Constant(value), dtype="float32"
        )
        self.built = True
