"""Cross-batch metric learning (XML): express embeddings by prototypes that were fitted to other classes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_positive
from tfdml._utils.types import Config, Labels, TensorLike
from tfdml.layers.zero_shot import in_second_half


@keras.saving.register_keras_serializable(package="tfdml")
class CrossBatchPrototypes(keras.layers.Layer):
    r"""Express embeddings as combinations of prototypes that were fitted to other classes (XML).

    Use it as `MetricModel(cross_batch=…)` together with a pooling that returns attributes, such as
    `GeneralizedSumPooling(ratio=1.0, return_attributes=True)` for average pooling. The metric loss of the expressed
    embeddings is added to that of the embeddings themselves, which favors entities that several classes share. It has
    no weights.

    The attributes $z_j \ge 0$ of an image are the shares of its local features that belong to each of $m$ prototypes,
    and sum to 1. If the prototypes $V = (\nu_1, \dots, \nu_m)$ cover the features within a distance of $\delta$, the
    average of the features is the convex combination $V z_j$ up to $\delta$. The batch is split into two halves
    $b_1, b_2$ without a common class. To each half prototypes are fitted, by which the images of the other half are
    expressed:

    $$V_k = \arg\min_V \sum_{j \in b_k} \lVert V z_j - e_j \rVert_2^2 + \epsilon \lVert V \rVert_F^2, \qquad
      \hat e_j = V_k z_j \quad \text{for } j \notin b_k,$$

    with the embeddings $e_j$ before their normalization. `MetricModel` normalizes $\hat e_j$ like $e_j$ and applies
    its loss, with all references, to the whole batch of them. Gradients flow through the fit to attributes and
    embeddings of both halves.

    Classes are assigned to the halves as in `ZeroShotPrediction`. In a batch with a single class there is nothing to
    fit to; its embeddings are returned unchanged, without gradients.

    This formula is derived from the abstract of the paper and its public appendix, which proves the bound above; the
    text and the code of the paper were not at hand. In particular, the ridge penalty, the use of embeddings before
    normalization as targets, and the comparison of the halves with each other are choices made here.

    Args:
        ridge: float, > 0. $\epsilon$, not scaled by the number of samples. Default: 0.05, as in `ZeroShotPrediction`.
        dtype: `"float32"` or `"float64"`. Type of the result for inputs of lower precision, under every dtype policy.
            Default: `"float32"`.
        **kwargs: `name` and other arguments of a Keras layer.

    Call arguments:
        - `attributes`: float tensor, `(batch, prototypes)`.
        - `embeddings`: float tensor, `(batch, dim)`.
        - `labels`: int tensor, `(batch,)` or `(batch, 1)`. Class labels.

    Returns:
        Tuple of a tensor `(batch, dim)`, the expressed embeddings, and a bool scalar, whether the batch has two
        classes.

    Raises:
        ValueError: If an argument is out of range or the shapes do not match.

    Reference:
        Gürbüz and Alatan, "Generalizable embeddings with cross-batch metric learning", ICIP 2023, arXiv 2307.07620.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> attributes, embeddings = tf.eye(2), tf.constant([[2.0, 0.0], [0.0, 2.0]])
        >>> expressed, is_split = layers.CrossBatchPrototypes(ridge=1.0)(attributes, embeddings, tf.constant([0, 1]))
        >>> expressed.numpy().tolist(), bool(is_split)  # The classes have no attribute in common.
        ([[0.0, 0.0], [0.0, 0.0]], True)
    """

    def __init__(self, ridge: float = 0.05, dtype: str = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.ridge = check_positive("ridge", ridge)
        self.built = True

    def call(self, attributes: TensorLike, embeddings: TensorLike, labels: Labels) -> tuple[tf.Tensor, tf.Tensor]:
        attributes = ops.at_least_float32(attributes)
        embeddings = tf.cast(embeddings, attributes.dtype)
        for name, tensor, shape in (("attributes", attributes, "prototypes"), ("embeddings", embeddings, "dim")):
            if tensor.shape.rank not in (None, 2):
                raise ValueError(f"Wrong rank of {name}. Received: shape {tensor.shape}. Expected: (batch, {shape}).")
        if not attributes.shape[:1].is_compatible_with(embeddings.shape[:1]):
            raise ValueError(
                f"Attributes and embeddings do not match. Received: shapes {attributes.shape} and {embeddings.shape}. "
                "Expected: one row of each per sample."
            )
        is_second = in_second_half(ops.check_labels(labels, attributes))
        prototypes = ops.ridge_regression(
            attributes, embeddings, self.ridge, weights=tf.stack([is_second, ~is_second])
        )
        of_first, of_second = tf.unstack(tf.matmul(attributes, prototypes, transpose_b=True))
        expressed = tf.where(is_second[:, None], of_second, of_first)
        is_split = tf.reduce_any(is_second)
        return tf.where(is_split, expressed, tf.stop_gradient(embeddings)), is_split

    def compute_output_spec(self, attributes: Any, embeddings: Any, labels: Any) -> Any:
        return keras.KerasTensor(embeddings.shape, dtype=self.compute_dtype), keras.KerasTensor((), dtype="bool")

    def get_config(self) -> Config:
        return {**super().get_config(), "ridge": self.ridge}
