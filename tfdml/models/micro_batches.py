"""Embed a batch in parts, and compute the gradients of a loss of the whole batch with the memory of one part."""

from __future__ import annotations

import tensorflow as tf

# A batch consists of full parts, which a loop computes so that the graph stays small, and of a smaller rest.


def embed_in_parts(encoder, inputs, size, dim=None):
    """Embed a batch in training mode; only the activations of one part are in memory at a time.

    Args:
        encoder: Keras model or layer, built.
        inputs: Tensor or nest of tensors `(batch, …)`.
        size: int. Rows per part.
        dim: int. Size of the embeddings, or `None` if it is unknown. Default `None`.

    Returns:
        Tensor `(batch, dim)`, float64 if the encoder computes in it, otherwise float32.
    """
    dtype = tf.float64 if getattr(encoder, "compute_dtype", None) == "float64" else tf.float32

    def embed(start, count):
        return tf.cast(encoder(_rows(inputs, start, count), training=True), dtype)

    full, rest, number = _division(inputs, size)
    found = tf.TensorArray(dtype, full, element_shape=(size, dim))
    _, found = tf.while_loop(
        lambda part, _: part < full,
        lambda part, found: (part + 1, found.write(part, embed(part * size, size))),
        (0, found),
        parallel_iterations=1,
    )
    embedded = found.stack()
    embedded = tf.reshape(embedded, (full * size, tf.shape(embedded)[2] if dim is None else dim))
    last = _if_any(rest, lambda: embed(full * size, rest), lambda: embedded[:0])
    embedded = tf.concat([embedded, last], axis=0)
    embedded.set_shape((number, dim))
    return embedded


def gradients_in_parts(encoder, inputs, upstream, size):
    """Compute the gradients of an encoder's weights from those of its embeddings; the encoder runs again.

    Args:
        encoder: Keras model or layer, built.
        inputs: Tensor or nest of tensors `(batch, …)`.
        upstream: Tensor `(batch, dim)`. Gradient of the loss with respect to the embeddings.
        size: int. Rows per part.

    Returns:
        List of tensors, one for each of `encoder.trainable_variables`.
    """
    variables = list(encoder.trainable_variables)

    def added(start, count, totals):
        with tf.GradientTape() as tape:
            embedded = tf.cast(encoder(_rows(inputs, start, count), training=True), upstream.dtype)
            product = tf.reduce_sum(embedded * _rows(upstream, start, count))
        gradients = tape.gradient(product, variables)
        return [
            total if gradient is None else total + tf.cast(tf.convert_to_tensor(gradient), total.dtype)
            for total, gradient in zip(totals, gradients)
        ]

    full, rest, _ = _division(inputs, size)
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
    _, totals = tf.while_loop(
        lambda part, _: part < full,
        lambda part, totals: (part + 1, added(part * size, size, totals)),
        (0, zeros),
        parallel_iterations=1,
    )
    return _if_any(rest, lambda: added(full * size, rest, totals), lambda: totals)


def _division(inputs, size):
    """Return the number of full parts, the number of the other rows, and the number of all rows if it is static."""
    first = tf.nest.flatten(inputs)[0]
    number = first.shape[0]
    count = tf.shape(first)[0] if number is None else number
    return count // size, count % size, number


def _rows(inputs, start, count):
    def part(values):
        values = tf.convert_to_tensor(values)
        others = values.shape.rank - 1
        return tf.slice(values, [start, *[0] * others], [count, *[-1] * others])

    return tf.nest.map_structure(part, inputs)


def _if_any(count, function, otherwise):
    if tf.is_tensor(count):
        return tf.cond(count > 0, function, otherwise)
    return function() if count else otherwise()
