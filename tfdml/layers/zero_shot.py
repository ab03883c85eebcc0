"""Predicting classes from attributes that were learnt on other classes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_positive, check_whole_number
from tfdml._utils.types import Config, Identifier, Labels, TensorLike


@keras.saving.register_keras_serializable(package="tfdml")
class ZeroShotPrediction(FormerNames, keras.layers.Layer):
    r"""Loss of a batch whose attributes must tell classes apart that the predictor was not fitted on.

    The attributes $z_j$ of an image are the shares of its mass that the prototypes of generalized sum pooling
    received. Each class $c$ has a trainable label embedding $\upsilon_c$. The batch is split into two halves $b_1, b_2$
    without a common class; on each a linear map from attributes to label embeddings is fitted by ridge regression, and
    it predicts the images of the other half, against all training classes:

    $$A_k = \arg\min_A \sum_{j \in b_k} \lVert A z_j - \upsilon_{y_j} \rVert_2^2 + \epsilon \lVert A \rVert_F^2,
      \qquad
      \ell_j = -\log \frac{\exp(\upsilon_{y_j}^\top A_k z_j / \tau)}{\sum_c \exp(\upsilon_c^\top A_k z_j / \tau)}
      \quad \text{for } j \notin b_k.$$

    The loss is the mean of $\ell_j$ over the whole batch. Its gradient passes through the regression, so that what is
    learnt, prototypes included, is to fit attributes that transfer.

    Classes go to the halves in turns, in the order in which they first appear: an odd number of them leaves one more to
    the first half, and a sampler that draws classes at random draws the halves at random. A batch of one class has
    nothing to transfer: it is worth 0, with zero gradients.

    `GeneralizedSumPooling(…, return_attributes=True)` gives the attributes, and with `ratio=1.0` those of global
    average pooling: the mean soft assignment of the features to the prototypes.

    Args:
        num_classes: How many training classes there are; labels run from 0 to `num_classes - 1`.
        embedding_size: Size of the label embeddings; it need not be that of the image embeddings.
        ridge: $\epsilon > 0$; it is not scaled by the number of samples.
        temperature: $\tau > 0$.
        initializer: Of the label embeddings; the default has about unit length.
        dtype: Of the label embeddings and of all that is computed: `"float32"`, under every precision policy, or
            `"float64"`.

    Call arguments:
        attributes: `(batch, prototypes)`.
        labels: Integer class labels, `(batch,)` or `(batch, 1)`. A label out of range is an error; under XLA, which
            drops assertions, its loss is NaN.

    Returns:
        $\ell_j$, `(batch,)`.

    Raises:
        ValueError: If an argument is out of range or the shapes do not fit.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.2.3. Equation 5.2.4
        as printed adds the means of the two halves and counts the own class twice; here it is the cross-entropy, and
        one mean.

    Example:
        >>> zero_shot = ZeroShotPrediction(num_classes=10, embedding_size=16)
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
        super().__init__(dtype=dtype, **kwargs)
        self.num_classes = check_whole_number("num_classes", num_classes, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.ridge = check_positive("ridge", ridge)
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
        self.built = True

    def call(self, attributes: TensorLike, labels: Labels) -> tf.Tensor:
        attributes = ops.at_least_float32(attributes)
        if attributes.shape.rank not in (None, 2):
            raise ValueError(f"Attributes must be (batch, prototypes). Received: shape {attributes.shape}.")
        given = labels
        labels = ops.check_labels(labels, attributes)
        labels = ops.check_label_range(labels, self.num_classes, f"ZeroShotPrediction({self.num_classes}, …)")
        # XLA drops the checks.
        known = ops.known_labels(tf.reshape(given, (-1,)), self.num_classes)
        embeddings = tf.cast(self.label_embeddings, attributes.dtype)
        is_second = in_second_half(labels)
        # The predictor of the first half is fitted on the second, and the other way round.
        predictors = ops.ridge_regression(
            attributes, tf.gather(embeddings, labels), self.ridge, weights=tf.stack([is_second, ~is_second])
        )
        of_first, of_second = tf.unstack(tf.matmul(attributes, predictors, transpose_b=True))
        predictions = tf.where(is_second[:, None], of_second, of_first)
        logits = tf.matmul(predictions, embeddings, transpose_b=True) / self.temperature
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        losses = tf.where(tf.reduce_any(is_second), losses, 0.0)
        return tf.where(known, losses, tf.constant(np.nan, losses.dtype))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "embedding_size": self.embedding_size,
            "ridge": self.ridge,
            "temperature": self.temperature,
            "initializer": keras.initializers.serialize(self.initializer),
        }


def in_second_half(labels):
    """Splits a batch into two halves without a common class: classes take turns in the order of their first samples.

    Args:
        labels: Integers, `(batch,)`.

    Returns:
        Boolean, `(batch,)`. The first half has as many classes as the second, or one more.
    """
    places = tf.range(tf.shape(labels)[0])
    same = labels[:, None] == labels[None, :]
    first_of_class = tf.reduce_min(tf.where(same, places[None, :], places.dtype.max), axis=1)
    classes_so_far = tf.cumsum(tf.cast(first_of_class == places, tf.int32))
    return tf.gather(classes_so_far, first_of_class) % 2 == 0
