"""Heads: from the features of a frozen network to points in the embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import keras

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
) -> keras.Model:
    r"""Builds a head: features → (dense layer → activation) for each hidden layer → dense layer → normalisation.

    Without hidden layers it is linear: a Mahalanobis metric $(x - y)^\top W W^\top (x - y)$ on the features, for
    `normalization=None`. It stands wherever an embedder of images stands: in `MetricModel`, `CCPModel`, `embed` and
    `export_saved_model`.

    Args:
        input_size: Size of a feature.
        embedding_size: Size of the embedding.
        hidden: Sizes of the hidden layers, from the features on.
        activation: Of the hidden layers: a name that Keras knows, or a function.
        dropout: Share of what each dense layer receives, the features among it, that training sets to 0; 0 to 1.
        batch_normalization: Whether the features (which standardises them) and each hidden layer, before its
            activation, are batch-normalised.
        normalization: `"l2"` (unit length), `"clip"` (at most unit length), a layer, or `None`.
        name: The model's name.

    Returns:
        A functional `keras.Model` from features, float32 `(b, input_size)`, to embeddings `(b, embedding_size)`, with
        layers named `"embedding"` (the last dense one) and, if there is one, `"normalization"`.

    Raises:
        ValueError: If a size is no positive integer, the dropout is out of range or a name is unknown.

    Example:
        >>> build_head(384, 64, hidden=(256,)).count_params() == 384 * 256 + 256 + 256 * 64 + 64
        True
    """
    input_size = check_whole_number("input_size", input_size, minimum=1)
    embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
    sizes = [check_whole_number("hidden", size, minimum=1) for size in hidden]
    inputs = values = keras.Input((input_size,), name="features")
    if batch_normalization:
        values = _batch_normalization("input_batch_normalization")(values)
    for number, size in enumerate(sizes, start=1):
        values = _dropped_out(values, dropout, number)
        # Batch normalisation has an offset of its own.
        values = keras.layers.Dense(size, use_bias=not batch_normalization, name=f"hidden_{number}")(values)
        if batch_normalization:
            values = _batch_normalization(f"batch_normalization_{number}")(values)
        values = keras.layers.Activation(activation, name=f"activation_{number}")(values)
    values = _dropped_out(values, dropout, len(sizes) + 1)
    embeddings = keras.layers.Dense(embedding_size, name="embedding")(values)
    if normalization is not None:
        embeddings = resolve_normalization(normalization)(embeddings)
    return keras.Model(inputs, embeddings, name=name)


def _batch_normalization(name):
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=ops.has_replicas(), name=name)


def _dropped_out(values, rate, number):
    layer = CountedDropout(rate, name=f"dropout_{number}")
    return layer(values) if layer.rate else values
