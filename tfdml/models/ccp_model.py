"""Chance constrained programming: metric learning as a chain of proxy problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_not_negative
from tfdml._utils.types import Config, TensorLike, Weight
from tfdml._utils.variables import number
from tfdml.layers import ClassProxies
from tfdml.models.metric_model import MetricModel
from tfdml.models.snapshot import WeightSnapshot, ordered_weights


@keras.saving.register_keras_serializable(package="tfdml")
class CCPModel(MetricModel):
    r"""Solves a chain of proxy problems, each pulled towards the solution of the one before.

    Problem $k$ of the chain is

    $$\theta^{(k)} = \arg\min_{\theta, \rho} \; \frac{\lambda_k}{2} \lVert \theta - \theta^* \rVert_2^2
      + \mathbb{E}_z \big[ \ell(\rho, z; \theta) \big] \; \big( + w \, \ell_{\text{batch}} \big),$$

    so a step's gradient gets the pull $\lambda_k (\theta - \theta^*)$ on the embedder's trainable weights $\theta$;
    the proxies $\rho$ are not pulled. There is no pull in the first problem ($k = 0$), which has no $\theta^*$ yet;
    after that $\lambda_k = \lambda \gamma^{k - 1}$. The callback `AlternatingProjections` tells when a problem is
    solved, makes its best weights $\theta^*$ and draws the next proxies. Any loss of this package that compares pairs
    can be $\ell$.

    All that is needed to go on after an interruption is among the model's weights, so that every Keras
    checkpoint holds it: $\theta^*$ (`anchor`), the best weights of the present problem (`best`), its number
    (`projection`), best validation (`best_value`), validations since then (`wait`) and first step
    (`projection_start`); the best weights of all problems (`incumbent`), their validation (`incumbent_value`) and
    problem (`incumbent_projection`). The steps are those of `steps`, which compiling again does not set back.

    Args:
        embedder: A model from images to embeddings.
        references: `ClassProxies`, or a list with such a layer and others, for instance a `CrossBatchMemory`.
        projection_weight: $\lambda \ge 0$.
        in_batch_weight: $w \ge 0$, the weight of the same loss inside the batch. `None` is 0 with proxies alone and 1
            with other references beside them.
        projection_decay: $\gamma$ from 0 to 1: the pull of a problem relative to that of the one before.
        **kwargs: `zero_shot` and `zero_shot_weight`, as for `MetricModel`.

    Raises:
        ValueError: If a weight is negative, the decay is out of range, there is not one layer of proxies, or the
            embedder is not built.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithm 1 (with the sign of
        the pull corrected) and eq. 3.2.11.
    """

    def __init__(
        self,
        embedder: keras.Model,
        references: keras.layers.Layer | Sequence[keras.layers.Layer],
        projection_weight: float = 2e-4,
        in_batch_weight: float | None = None,
        projection_decay: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if not embedder.built:
            raise ValueError(
                f"CCPModel copies the embedder's weights, and the embedder has none yet. Received: {embedder!r}, which "
                "is not built. Expected: a model that is built. Begin it with keras.Input, or call it on a batch first."
            )
        super().__init__(embedder, references, in_batch_weight, **kwargs)
        if sum(isinstance(layer, ClassProxies) for layer in self.references) != 1:
            raise ValueError(f"CCP re-initialises one layer of class proxies. Received: references={references!r}.")
        self.projection_weight = check_not_negative("projection_weight", projection_weight)
        self.projection_decay = check_between("projection_decay", projection_decay, 0.0, 1.0)
        self.anchor = WeightSnapshot(ordered_weights(embedder), name="anchor")
        self.best = WeightSnapshot(self.solution, name="best")
        self.incumbent = WeightSnapshot(self.solution, name="incumbent")
        self.projection = self._state("projection", "int64", 0)
        self.projection_start = self._state("projection_start", "int64", 0)
        self.wait = self._state("wait", "int64", 0)
        self.best_value = self._state("best_value", "float32", float("-inf"))
        self.incumbent_value = self._state("incumbent_value", "float32", float("-inf"))
        self.incumbent_projection = self._state("incumbent_projection", "int64", 0)

    def _state(self, name, dtype, value):
        return self.add_weight(
            name=name, shape=(), dtype=dtype, initializer=keras.initializers.Constant(value), trainable=False
        )

    @property
    def proxies(self) -> ClassProxies:
        """The `ClassProxies` among the references."""
        proxies = super().proxies
        assert proxies is not None  # The constructor refuses a model without them.
        return proxies

    @property
    def solution(self) -> list[Weight]:
        """What a problem is solved for: the weights of the embedder, the proxies and the zero-shot loss."""
        zero_shot = [] if self.zero_shot is None else self.zero_shot.weights
        return [*ordered_weights(self.embedder), *self.proxies.weights, *zero_shot]

    def take_validation(self, value: float) -> bool:
        """Notes the validation of the present weights, and keeps them if they are the best.

        Args:
            value: Larger is better.

        Returns:
            Whether it is the best of the present problem.
        """
        # As it is kept: an equal one must not be better by the digits that are lost.
        value = np.float32(value)
        if not value > number(self.best_value):
            self.wait.assign(self.wait + 1)
            return False
        self.best_value.assign(value)
        self.best.copy_from()
        self.wait.assign(0)
        if value > number(self.incumbent_value):
            self.incumbent_value.assign(value)
            self.incumbent.copy_from()
            self.incumbent_projection.assign(self.projection)
        return True

    def begin_projection(self, proxies: TensorLike) -> None:
        """Begins the next problem from the best weights of the present one.

        Args:
            proxies: The proxies to begin with, `(num_classes, per_class, dim)`.
        """
        self.anchor.copy_from()
        self.proxies.assign(proxies)
        self.projection.assign(self.projection + 1)
        self.projection_start.assign(self.steps)
        self.wait.assign(0)
        self.best_value.assign(float("-inf"))

    def penalty(self) -> tf.Tensor | float:
        return super().penalty() + self.projection_penalty()

    def projection_penalty(self) -> tf.Tensor | float:
        r"""$\frac{\lambda_k}{2} \lVert \theta - \theta^* \rVert_2^2$ of the trainable $\theta$; at first 0."""
        if not self.projection_weight:
            return 0.0
        problem = tf.cast(tf.convert_to_tensor(self.projection), tf.float32)
        decay = self.projection_decay ** tf.maximum(problem - 1.0, 0.0)
        return self.projection_weight * tf.where(problem > 0.0, decay, 0.0) * self._half_square_from_anchor()

    def weight_change(self) -> float:
        r"""$\lVert \theta - \theta^* \rVert_2$ of the trainable $\theta$: how far they are from the anchor."""
        return float(tf.sqrt(2.0 * self._half_square_from_anchor()))

    def _half_square_from_anchor(self):
        trainable = {id(variable) for variable in self.embedder.trainable_variables}
        squares = [
            tf.nn.l2_loss(tf.convert_to_tensor(variable) - tf.convert_to_tensor(anchor))
            for variable, anchor in self.anchor.pairs()
            if id(variable) in trainable
        ]
        return tf.add_n(squares) if squares else tf.zeros(())

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "projection_weight": self.projection_weight,
            "projection_decay": self.projection_decay,
        }
