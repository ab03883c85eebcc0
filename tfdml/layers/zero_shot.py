"""Zero-shot prediction: predict classes from attributes learned on other classes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_positive, check_whole_number
from tfdml._utils.types import Config, Identifier, Labels, TensorLike


class _LabelRegression(keras.layers.Layer):
    """Loss of label embeddings that are predicted from attributes, with trainable label embeddings."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float,
        initializer: Identifier | None,
        dtype: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.num_classes = check_whole_number("num_classes", num_classes, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.temperature = check_positive("temperature", temperature)
        self.initializer = keras.initializers.get(
            initializer or keras.initializers.RandomNormal(stddev=self.embedding_size**-0.5)
        )
        self.label_embeddings = self.add_weight(
            name="label_embeddings",
            shape=(self.num_classes, self.embedding_size),
            initializer=self.initializer,
            trainable=True,
        )

    def call(self, attributes: TensorLike, labels: Labels) -> tf.Tensor:
        attributes = ops.at_least_float32(attributes)
        if attributes.shape.rank not in (None, 2):
            raise ValueError(
                f"The attributes have a wrong rank. Received: shape {attributes.shape}. Expected: (batch, prototypes)."
            )
        given = labels
        labels = ops.check_labels(labels, attributes)
        labels = ops.check_label_range(labels, self.num_classes, f"{type(self).__name__}({self.num_classes}, …)")
        embeddings = tf.cast(self.label_embeddings, attributes.dtype)
        predictions, counts = self._predict(attributes, labels, embeddings)
        logits = tf.matmul(predictions, embeddings, transpose_b=True) / self.temperature
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        losses = tf.where(counts, losses, 0.0)
        # XLA drops the assertions, so the loss marks unknown labels, too.
        known = ops.known_labels(tf.reshape(given, (-1,)), self.num_classes)
        return tf.where(known, losses, tf.constant(np.nan, losses.dtype))

    def _predict(self, attributes, labels, embeddings):
        """Return the label embeddings predicted for the batch, and whether they count (bool)."""
        raise NotImplementedError

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "embedding_size": self.embedding_size,
            "temperature": self.temperature,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable(package="tfdml")
class ZeroShotPrediction(FormerNames, _LabelRegression):
    r"""Loss that trains GSP attributes to transfer to classes they were not fitted on.

    Use it together with `GeneralizedSumPooling(return_attributes=True)` as an auxiliary loss:
    `MetricModel(zero_shot=…)`. It trains prototypes to react to parts that classes have in common. Start with a small
    weight, such as the default of `MetricModel`, 0.1.

    The attributes $z_j$ of an image are the shares of its mass that the prototypes received. Each class $c$ has a
    trainable label embedding $\upsilon_c$. The batch is split into two halves $b_1, b_2$ without a common class. On
    each half a linear map from attributes to label embeddings is fitted by ridge regression, which then predicts the
    images of the other half among all training classes:

    $$A_k = \arg\min_A \sum_{j \in b_k} \lVert A z_j - \upsilon_{y_j} \rVert_2^2 + \epsilon \lVert A \rVert_F^2,
      \qquad
      \ell_j = -\log \frac{\exp(\upsilon_{y_j}^\top A_k z_j / \tau)}{\sum_c \exp(\upsilon_c^\top A_k z_j / \tau)}
      \quad \text{for } j \notin b_k.$$

    The loss is the mean of $\ell_j$ over the whole batch. Its gradient flows through the regression, so the network and
    the prototypes learn attributes that transfer.

    Classes are assigned to the halves alternately, in the order in which they first appear. With an odd number of
    classes the first half has one more. With a sampler that draws classes at random, the halves are random. A batch
    with a single class has the value 0, with zero gradients.

    With `ratio=1.0`, the attributes are those of global average pooling: the mean soft assignment of the features to
    the prototypes.

    Args:
        num_classes: int, >= 1. Number of training classes. Labels run from 0 to `num_classes - 1`.
        embedding_size: int, >= 1. Size of the label embeddings. It may differ from that of the image embeddings.
        ridge: float, > 0. $\epsilon$, not scaled by the number of samples. Default: 0.05.
        temperature: float, > 0. $\tau$. Default: 1/9.5.
        initializer: Keras initializer of the label embeddings. Default: `None`, normal with a standard deviation of
            `embedding_size**-0.5`, that is, about unit length.
        dtype: `"float32"` or `"float64"`. Type of the label embeddings and of all computations, under every dtype
            policy. Default: `"float32"`.
        **kwargs: `name` and other arguments of a Keras layer.

    Call arguments:
        - `attributes`: float tensor, `(batch, prototypes)`.
        - `labels`: int tensor, `(batch,)` or `(batch, 1)`. Class labels. A label out of range is an error; under XLA,
          which drops assertions, its loss is NaN.

    Returns:
        Tensor `(batch,)` of the values $\ell_j$.

    Raises:
        ValueError: If an argument is out of range or the shapes do not match.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.2.3. Equation 5.2.4
        as printed adds the means of the two halves and counts the own class twice; here the loss is the cross-entropy
        with one mean.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> zero_shot = layers.ZeroShotPrediction(num_classes=10, embedding_size=16)
        >>> attributes = tf.nn.softmax(tf.random.normal((6, 8)))
        >>> tuple(zero_shot(attributes, tf.constant([3, 3, 7, 7, 1, 1])).shape)
        (6,)
    """

    former_names = {"dim": "embedding_size"}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        ridge: float = 0.05,
        temperature: float = 1 / 9.5,
        initializer: Identifier | None = None,
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, temperature, initializer, dtype, **kwargs)
        self.ridge = check_positive("ridge", ridge)
        self.built = True

    def _predict(self, attributes, labels, embeddings):
        is_second = in_second_half(labels)
        # Each half is predicted by the regression fitted on the other.
        predictors = ops.ridge_regression(
            attributes, tf.gather(embeddings, labels), self.ridge, weights=tf.stack([is_second, ~is_second])
        )
        of_first, of_second = tf.unstack(tf.matmul(attributes, predictors, transpose_b=True))
        return tf.where(is_second[:, None], of_second, of_first), tf.reduce_any(is_second)

    def get_config(self) -> Config:
        return {**super().get_config(), "ridge": self.ridge}


@keras.saving.register_keras_serializable(package="tfdml")
class AttributeRegression(_LabelRegression):
    r"""Loss that trains GSP attributes to predict the class by one trainable linear map.

    The author's code trains this in place of `ZeroShotPrediction` if its zero-shot prediction is off. Use it as
    `MetricModel(zero_shot=…)` to find out what the transfer between classes contributes: the label embeddings, the
    softmax over all training classes and the weight of the loss are the same, but the map $A$ is a weight that is
    trained on all classes, not a regression fitted on other classes than it predicts:

    $$\ell_j = -\log \frac{\exp(\upsilon_{y_j}^\top A z_j / \tau)}{\sum_c \exp(\upsilon_c^\top A z_j / \tau)}.$$

    A batch with a single class counts like any other.

    Args:
        num_classes: int, >= 1. Number of training classes. Labels run from 0 to `num_classes - 1`.
        num_attributes: int, >= 1. Number of attributes, that is, of the prototypes of the pooling.
        embedding_size: int, >= 1. Size of the label embeddings. It may differ from that of the image embeddings.
        temperature: float, > 0. $\tau$. Default: 1/9.5.
        initializer: Keras initializer of the label embeddings. Default: `None`, normal with a standard deviation of
            `embedding_size**-0.5`, that is, about unit length. $A$ starts as He normal.
        dtype: `"float32"` or `"float64"`. Type of the weights and of all computations, under every dtype policy.
            Default: `"float32"`.
        **kwargs: `name` and other arguments of a Keras layer.

    Call arguments:
        - `attributes`: float tensor, `(batch, num_attributes)`.
        - `labels`: int tensor, `(batch,)` or `(batch, 1)`. Class labels. A label out of range is an error; under XLA,
          which drops assertions, its loss is NaN.

    Returns:
        Tensor `(batch,)` of the values $\ell_j$.

    Raises:
        ValueError: If an argument is out of range or the shapes do not match.

    Reference:
        The public code of Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022. The thesis
        does not describe it.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> regression = layers.AttributeRegression(num_classes=10, num_attributes=8, embedding_size=16)
        >>> attributes = tf.nn.softmax(tf.random.normal((6, 8)))
        >>> tuple(regression(attributes, tf.constant([3, 3, 7, 7, 1, 1])).shape)
        (6,)
    """

    def __init__(
        self,
        num_classes: int,
        num_attributes: int,
        embedding_size: int,
        temperature: float = 1 / 9.5,
        initializer: Identifier | None = None,
        dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, temperature, initializer, dtype, **kwargs)
        self.num_attributes = check_whole_number("num_attributes", num_attributes, minimum=1)
        self.regressor = self.add_weight(
            name="regressor", shape=(self.num_attributes, self.embedding_size), initializer="he_normal"
        )
        self.built = True

    def _predict(self, attributes, labels, embeddings):
        if not attributes.shape[-1:].is_compatible_with((self.num_attributes,)):
            raise ValueError(
                f"The attributes do not match the regressor. Received: shape {attributes.shape}. Expected: (batch, "
                f"{self.num_attributes})."
            )
        return tf.matmul(attributes, tf.cast(self.regressor, attributes.dtype)), tf.constant(True)

    def get_config(self) -> Config:
        return {**super().get_config(), "num_attributes": self.num_attributes}


def in_second_half(labels):
    """Split a batch into two halves without a common class.

    Classes are assigned alternately, in the order of their first samples.

    Args:
        labels: int tensor, `(batch,)`.

    Returns:
        Bool tensor `(batch,)`. The first half (`False`) has as many classes as the second, or one more.
    """
    places = tf.range(tf.shape(labels)[0])
    same = labels[:, None] == labels[None, :]
    first_of_class = tf.reduce_min(tf.where(same, places[None, :], places.dtype.max), axis=1)
    classes_so_far = tf.cumsum(tf.cast(first_of_class == places, tf.int32))
    return tf.gather(classes_so_far, first_of_class) % 2 == 0
