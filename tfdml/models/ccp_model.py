"""Chance-constrained programming (CCP): metric learning as a sequence of proxy problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_not_negative
from tfdml._utils.types import Config, TensorLike, Weight
from tfdml._utils.variables import number
from tfdml.layers import ClassProxies, CrossBatchMemory
from tfdml.models.batches import data_errors
from tfdml.models.embedder import inference_function, largest_distance
from tfdml.models.metric_model import MetricModel
from tfdml.models.snapshot import WeightSnapshot, ordered_weights


@keras.saving.register_keras_serializable(package="tfdml")
class CCPModel(MetricModel):
    r"""Trains an embedder as a sequence of proxy problems (chance-constrained programming, CCP).

    Use it instead of `MetricModel` to improve generalization to unseen classes with any loss that compares pairs. Each
    problem starts with new proxies and is regularized towards the solution of the previous problem. Train it with the
    callback `AlternatingProjections`, which detects when a problem is solved, makes its best weights the new anchor
    $\theta^*$, and selects the proxies of the next problem. Without the callback, only the first problem is trained.

    Problem $k$ of the sequence is

    $$\theta^{(k)} = \arg\min_{\theta, \rho} \; \frac{\lambda_k}{2} \lVert \theta - \theta^* \rVert_2^2
      + \mathbb{E}_z \big[ \ell(\rho, z; \theta) \big] \; \big( + w \, \ell_{\text{batch}} \big),$$

    so the term $\lambda_k (\theta - \theta^*)$ is added to the gradient of the embedder's trainable weights $\theta$.
    The proxies $\rho$ are not regularized. The first problem ($k = 0$) has no anchor and no penalty; after that
    $\lambda_k = \lambda \gamma^{k - 1}$.

    All state needed to resume an interrupted training run is stored in the model's weights, and therefore in every
    Keras checkpoint: the anchor $\theta^*$ (`anchor`); for the current problem its best weights (`best`), number
    (`projection`), best validation value (`best_value`), number of validations since then (`wait`) and first step
    (`projection_start`); over all problems the best weights (`incumbent`), their validation value
    (`incumbent_value`) and problem (`incumbent_projection`). Steps are counted by `steps`, which compiling again does
    not reset.

    Args:
        embedder: `keras.Model` from images to embeddings. It must be built.
        references: `ClassProxies`, or a list that contains exactly one `ClassProxies` and other reference layers, such
            as `CrossBatchMemory`.
        projection_weight: float, $\lambda \ge 0$. Weight of the penalty. Default 2e-4.
        in_batch_weight: float, $w \ge 0$. Weight of the same loss within the batch. `None` means 0 if the proxies are
            the only references, else 1. Default `None`.
        projection_decay: float, $\gamma$ in 0–1. Factor by which the penalty weight is multiplied from one problem to
            the next. Default 1.0.
        recent_size: int. Number of recent embeddings to remember for `AlternatingProjections(refresh="memory")`, about
            its `pool_size` per class. They are not references of the loss. `None` remembers none. Default `None`.
        **kwargs: `zero_shot`, `zero_shot_weight`, `cross_batch`, `cross_batch_weight` and `name`, as for `MetricModel`.

    Raises:
        ValueError: If a weight is negative, the decay is out of range, `references` does not contain exactly one
            `ClassProxies`, or the embedder is not built.

    Example:
        >>> from tfdml.callbacks import AlternatingProjections
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = CCPModel(embedder, ClassProxies(num_classes=3, embedding_size=2))
        >>> model.compile(optimizer="adam", loss="c2")
        >>> float(model.projection_penalty())  # The first problem has no anchor.
        0.0

        Then train with `model.fit(data, callbacks=[AlternatingProjections(pool)])`.

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
        recent_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not embedder.built:
            raise ValueError(
                f"CCPModel copies the embedder's weights, but the embedder has none yet. Received: {embedder!r}, which "
                "is not built. Expected: a built model. Start it with keras.Input, or call it on a batch first."
            )
        super().__init__(embedder, references, in_batch_weight, **kwargs)
        if sum(isinstance(layer, ClassProxies) for layer in self.references) != 1:
            raise ValueError(
                f"CCPModel needs exactly one ClassProxies layer. Received: references={references!r}. Expected: "
                "ClassProxies, or a list with one of them."
            )
        self.projection_weight = check_not_negative("projection_weight", projection_weight)
        self.projection_decay = check_between("projection_decay", projection_decay, 0.0, 1.0)
        self.recent = (
            None if recent_size is None else CrossBatchMemory(recent_size, self.proxies.embedding_size, name="recent")
        )
        self._head_function: Any = None
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

    def check_head(self) -> None:
        """Raise a ValueError if proxies cannot be what the embedder normalizes: they must be normalized alike."""
        if largest_distance(self.embedder) is not None and self.proxies.normalization is None:
            raise ValueError(
                "The embedder normalizes its output, and the proxies are not normalized. Received: "
                "ClassProxies(normalization=None) with k_center_on='head'. Expected: "
                "ClassProxies(normalization='clip') or 'l2', as in the embedder."
            )

    def head_of_batch(self, images: TensorLike) -> tf.Tensor:
        """Return what the embedder's last layer clips or normalizes for one batch, in inference mode.

        Args:
            images: float array or tensor, `(batch, height, width, channels)`.

        Returns:
            float32 tensor `(batch, dim)`: the embeddings themselves if they are not normalized.
        """
        if self._head_function is None:
            head = self.embedder
            if largest_distance(head) is not None:
                with self.distribute_strategy.scope():
                    head = keras.Model(self.embedder.input, self.embedder.layers[-1].input)
            self._head_function = inference_function(head, self.workers, self.run_eagerly)
        with data_errors():
            return self._head_function(images)

    def retrace(self) -> None:
        self._head_function = None
        super().retrace()

    @property
    def solution(self) -> list[Weight]:
        """Variables of a problem: the weights of the embedder, the proxies and the zero-shot loss."""
        zero_shot = [] if self.zero_shot is None else self.zero_shot.weights
        return [*ordered_weights(self.embedder), *self.proxies.weights, *zero_shot]

    def take_validation(self, value: float) -> bool:
        """Record the validation value of the current weights, and save the weights if they are the best.

        Args:
            value: float. Validation value; larger is better.

        Returns:
            bool. Whether it is the best value of the current problem.
        """
        # Compare in the stored precision; otherwise an equal value could count as an improvement.
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

    @property
    def memories(self) -> list[Any]:
        return [*super().memories, *([] if self.recent is None else [self.recent])]

    def begin_projection(self, proxies: TensorLike, anchor: bool = True) -> None:
        """Start the next problem.

        Args:
            proxies: float array or tensor, `(num_classes, per_class, dim)`. Initial proxies of the next problem.
            anchor: bool. Make the current weights the anchor. Default `True`.
        """
        if anchor:
            self.anchor.copy_from()
        self.proxies.assign(proxies)
        self.projection.assign(self.projection + 1)
        self.projection_start.assign(self.steps)
        self.wait.assign(0)
        self.best_value.assign(float("-inf"))

    def penalty(self) -> tf.Tensor | float:
        return super().penalty() + self.projection_penalty()

    def projection_penalty(self) -> tf.Tensor | float:
        r"""Return $\frac{\lambda_k}{2} \lVert \theta - \theta^* \rVert_2^2$, which is 0 in the first problem."""
        if not self.projection_weight:
            return 0.0
        problem = tf.cast(tf.convert_to_tensor(self.projection), tf.float32)
        decay = self.projection_decay ** tf.maximum(problem - 1.0, 0.0)
        return self.projection_weight * tf.where(problem > 0.0, decay, 0.0) * self._half_square_from_anchor()

    def weight_change(self) -> float:
        r"""Return $\lVert \theta - \theta^* \rVert_2$, the distance of the trainable weights from the anchor."""
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
            "recent_size": None if self.recent is None else self.recent.size,
        }
