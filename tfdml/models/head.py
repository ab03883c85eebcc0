"""Build heads: small networks from precomputed features to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import keras
import numpy as np

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml.layers import CountedDropout
from tfdml.models.embedder import resolve_normalization


def build_head(
    input_size: int,
    embedding_size: int = 128,
    hidden: Sequence[int] = (),
    activation: str | Callable[..., Any] | None = "relu",
    dropout: float = 0.0,
    batch_normalization: bool = False,
    normalization: str | keras.layers.Layer | None = "l2",
    name: str = "head",
    weights: Any = None,
) -> keras.Model:
    r"""Build a head: features → (dense layer → activation) per hidden layer → dense layer → normalization.

    Use it to train on precomputed features of a frozen network, which takes seconds instead of hours. It can be used
    wherever an embedder can: in `MetricModel`, `CCPModel`, `embed` and `export_saved_model`. Without hidden layers and
    with `normalization=None`, it is the Mahalanobis metric $(x - y)^\top W W^\top (x - y)$ on the features.

    Args:
        input_size: int. Size of a feature vector.
        embedding_size: int. Size of the embedding. Default 128.
        hidden: Sequence of int. Sizes of the hidden layers, from input to output. Default `()`.
        activation: str or function. Activation of the hidden layers. Default `"relu"`.
        dropout: float in 0–1. Dropout rate of the input of each dense layer, including the features. Default 0.
        batch_normalization: bool. Batch-normalize the features, which standardizes them, and each hidden layer before
            its activation. Default `False`.
        normalization: `"l2"` (unit length), `"clip"` (at most unit length), a layer, or `None`. Default `"l2"`.
        name: str. Name of the model. Default `"head"`.
        weights: Array `(size, input_size)`, or a fitted estimator with `components_`, such as those of `tfdml.linear`.
            The first dense layer starts as the transpose of this matrix, without offset; `size` must be that of the
            layer, `hidden[0]` or `embedding_size`. Without hidden layers and normalization, distances of embeddings are
            the distances of the estimator. Default `None`, random weights.

    Returns:
        Functional `keras.Model` from features, float32 `(batch, input_size)`, to embeddings
        `(batch, embedding_size)`. Its last dense layer is named `"embedding"`; the layer `"normalization"` follows
        unless `normalization` is `None`.

    Raises:
        ValueError: If a size is not a positive integer, the dropout is out of range, a name is unknown, or `weights`
            has another shape, is not finite or comes with `batch_normalization`, which rescales the features first.

    Example:
        >>> build_head(384, 64, hidden=(256,)).count_params() == 384 * 256 + 256 + 256 * 64 + 64
        True
    """
    input_size = check_whole_number("input_size", input_size, minimum=1)
    embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
    sizes = [check_whole_number("hidden", size, minimum=1) for size in hidden]
    kernel = None
    if weights is not None:
        kernel = _first_kernel(weights, input_size, [*sizes, embedding_size][0], batch_normalization)
    inputs = values = keras.Input((input_size,), name="features")
    if batch_normalization:
        values = _batch_normalization("input_batch_normalization")(values)
    for number, size in enumerate(sizes, start=1):
        values = _dropped_out(values, dropout, number)
        # Batch normalization adds its own offset.
        values = keras.layers.Dense(size, use_bias=not batch_normalization, name=f"hidden_{number}")(values)
        if batch_normalization:
            values = _batch_normalization(f"batch_normalization_{number}")(values)
        values = keras.layers.Activation(activation, name=f"activation_{number}")(values)
    values = _dropped_out(values, dropout, len(sizes) + 1)
    embeddings = keras.layers.Dense(embedding_size, name="embedding")(values)
    if normalization is not None:
        embeddings = resolve_normalization(normalization)(embeddings)
    head = keras.Model(inputs, embeddings, name=name)
    if kernel is not None:
        first = head.get_layer("hidden_1" if sizes else "embedding")
        first.set_weights([kernel, np.zeros(kernel.shape[1], kernel.dtype)])
    return head


def _first_kernel(weights, input_size, size, batch_normalization):
    """Kernel of the first dense layer from a matrix, or from the one of an estimator."""
    if batch_normalization:
        raise ValueError(
            "Batch normalization rescales the features before the first layer. Received: weights with "
            "batch_normalization=True. Expected: one of them; standardize features before fitting the estimator."
        )
    if not hasattr(weights, "components_") and hasattr(weights, "get_params"):
        raise ValueError(
            f"The estimator has no components_. Received: {type(weights).__name__}. Expected: a fitted estimator with "
            "components_, or an array."
        )
    matrix = np.asarray(getattr(weights, "components_", weights), np.float32)
    if matrix.shape != (size, input_size) or not np.isfinite(matrix).all():
        raise ValueError(
            f"Invalid weights. Received: an array of shape {matrix.shape}. Expected: finite values "
            f"({size}, {input_size}), the size of the first dense layer and input_size."
        )
    return matrix.T


def _batch_normalization(name):
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=ops.has_replicas(), name=name)


def _dropped_out(values, rate, number):
    layer = CountedDropout(rate, name=f"dropout_{number}")
    return layer(values) if layer.rate else values
