"""Chance constrained programming: metric learning as a chain of proxy problems."""

import keras
import tensorflow as tf

from tfdml.arguments import check_not_negative
from tfdml.layers import ClassProxies
from tfdml.models.metric_model import MetricModel
from tfdml.models.snapshot import WeightSnapshot


@keras.saving.register_keras_serializable(package="tfdml")
class CCPModel(MetricModel):
    r"""Solves a chain of proxy problems, each pulled towards the solution of the one before.

    Problem $k$ of the chain is

    $$\theta^{(k)} = \arg\min_{\theta, \rho} \; \frac{\lambda}{2} \lVert \theta - \theta^* \rVert_2^2
      + \mathbb{E}_z \big[ \ell(\rho, z; \theta) \big] \; \big( + w \, \ell_{\text{batch}} \big),$$

    so a step's gradient gets the pull $\lambda (\theta - \theta^*)$ on the embedder's trainable weights $\theta$;
    the proxies $\rho$ are not pulled, and there is no pull in the first problem, which has no $\theta^*$ yet. The
    callback `AlternatingProjections` tells when a problem is solved, makes its best weights $\theta^*$ and draws the
    next proxies. Any loss of this package that compares pairs can be $\ell$.

    All that is needed to go on after an interruption is among the model's weights, so that every Keras
    checkpoint holds it: $\theta^*$ (`anchor`), the best weights of the present problem (`best`), its number
    (`projection`), best validation (`best_value`), validations since then (`wait`) and first step (`projection_start`).

    Args:
        embedder: A model from images to embeddings.
        references: `ClassProxies`, or a list with such a layer and others, for instance a `CrossBatchMemory`.
        projection_weight: $\lambda \ge 0$.
        in_batch_weight: $w \ge 0$, the weight of the same loss inside the batch. `None` is 0 with proxies alone and 1
            with other references beside them.
        **kwargs: `zero_shot` and `zero_shot_weight`, as for `MetricModel`.

    Raises:
        ValueError: If a weight is negative or there is not one layer of proxies.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithm 1 (with the sign of
        the pull corrected) and eq. 3.2.11.
    """

    def __init__(self, embedder, references, projection_weight=2e-4, in_batch_weight=None, **kwargs):
        super().__init__(embedder, references, in_batch_weight, **kwargs)
        if sum(isinstance(layer, ClassProxies) for layer in self._all_references()) != 1:
            raise ValueError(f"CCP re-initialises one layer of class proxies. Received: references={references!r}.")
        self.projection_weight = check_not_negative("projection_weight", projection_weight)
        self.anchor = WeightSnapshot(embedder.weights, name="anchor")
        self.best = WeightSnapshot(self.solution, name="best")
        self.projection = self._state("projection", "int64", 0)
        self.projection_start = self._state("projection_start", "int64", 0)
        self.wait = self._state("wait", "int64", 0)
        self.best_value = self._state("best_value", "float32", float("-inf"))

    def _state(self, name, dtype, value):
        return self.add_weight(
            name=name, shape=(), dtype=dtype, initializer=keras.initializers.Constant(value), trainable=False
        )

    @property
    def solution(self):
        """What a problem is solved for: the weights of the embedder, the proxies and the zero-shot loss."""
        zero_shot = [] if self.zero_shot is None else self.zero_shot.weights
        return [*self.embedder.weights, *self.proxies.weights, *zero_shot]

    def begin_projection(self, proxies):
        """Begins the next problem from the best weights of the present one.

        Args:
            proxies: The proxies to begin with, `(num_classes, per_class, dim)`.
        """
        self.anchor.take(self.embedder.weights)
        self.proxies.assign(proxies)
        self.projection.assign(self.projection + 1)
        self.projection_start.assign(tf.cast(self.optimizer.iterations, tf.int64))
        self.wait.assign(0)
        self.best_value.assign(float("-inf"))

    def penalty(self):
        return super().penalty() + self.projection_penalty()

    def projection_penalty(self):
        r"""$\frac{\lambda}{2} \lVert \theta - \theta^* \rVert_2^2$ of the trainable $\theta$; at first 0."""
        if not self.projection_weight:
            return 0.0
        trainable = {id(variable) for variable in self.embedder.trainable_variables}
        squares = [
            tf.nn.l2_loss(tf.convert_to_tensor(variable) - tf.convert_to_tensor(anchor))
            for variable, anchor in zip(self.embedder.weights, self.anchor.copies)
            if id(variable) in trainable
        ]
        pulled = tf.cast(tf.convert_to_tensor(self.projection) > 0, tf.float32)
        return self.projection_weight * pulled * tf.add_n(squares)

    def get_config(self):
        return {**super().get_config(), "projection_weight": self.projection_weight}
