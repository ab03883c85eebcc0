"""Gradient checkpointing: recompute activations in the backward pass instead of storing them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfdml._utils.keras_compat import all_layers, producer_of

# Random changes of images, which have neither a rate nor a deviation.
_RANDOM = tuple(getattr(keras.layers, name) for name in dir(keras.layers) if name.startswith("Rand"))


class _Cut(NamedTuple):
    """A tensor through which every path from the input to the output leads.

    Attributes:
        tensor: Symbolic tensor.
        size: Number of its values per image, as far as its shape is known.
        since: The same of all tensors after the previous cut, up to this one.
    """

    tensor: Any
    size: int
    since: int


def checkpointed(embedder: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the forward pass of training, which stores only a few of the activations for the backward pass.

    The network is cut into segments at tensors through which all paths lead. The backward pass recomputes the other
    activations, one segment at a time.

    Args:
        embedder: Functional or sequential `keras.Model` with one input and one output.

    Returns:
        Function from images to embeddings. Its gradients are those of `embedder(images, training=True)`.

    Raises:
        ValueError: If the model has no symbolic input and output, a layer would behave differently when it is computed
            again, or there is no place to cut the network.
    """
    _check(embedder)
    segments = _segments(embedder)
    if len(segments) < 2:
        raise ValueError(
            f"There is no place to cut the network for gradient checkpointing. Received: {embedder.name!r}, whose "
            "layers form a single segment. Expected: a functional network of many layers in a row."
        )

    def forward(images):
        features = images
        for segment in segments:
            # The function has no keyword arguments, which TensorFlow does not accept here in a graph.
            features = tf.recompute_grad(lambda inputs, segment=segment: segment(inputs, training=True))(features)
        return features

    return forward


def _check(embedder):
    if len(getattr(embedder, "inputs", None) or ()) != 1 or len(getattr(embedder, "outputs", None) or ()) != 1:
        raise ValueError(
            "Gradient checkpointing needs a functional or sequential model with one input and one output. Received: "
            f"{type(embedder).__name__} {embedder.name!r}."
        )
    for layer in all_layers(embedder):
        problem = _problem(layer)
        if problem is not None:
            raise ValueError(
                f"Gradient checkpointing computes layers twice, which changes the training of this one: {problem}. "
                f"Received: {type(layer).__name__} {layer.name!r}."
            )


def _problem(layer):
    """Return why a layer cannot be computed twice, or `None`."""
    if isinstance(layer, keras.layers.BatchNormalization):
        if layer.trainable and not getattr(layer, "frozen_statistics", False):
            return (
                "its moving statistics would be updated twice. Freeze them: frozen_batch_norm='statistics' of a "
                "backbone, or tfdml.models.freeze_batch_norm"
            )
    # Layers with random numbers have a rate or a deviation.
    elif any(getattr(layer, name, 0) for name in ("rate", "stddev", "drop_rate", "drop_path_rate")):
        return "its random numbers would differ. Set its rate to 0"
    elif isinstance(layer, _RANDOM):
        return "its random numbers would differ. Use tfdml.data.Augmentation"
    if getattr(layer, "activity_regularizer", None) is not None:
        return "it has an activity regularizer"
    return None


def _segments(model):
    """Split a model into functions of one tensor, so that the cuts and the largest segment need little memory."""
    segments: list[Callable[..., Any]] = []
    run: list[_Cut] = []
    start = model.inputs[0]

    def close_run():
        nonlocal start
        for cut in _chosen(run):
            segments.append(keras.Model(start, cut.tensor))
            start = cut.tensor
        run.clear()

    for cut in _cuts(model, _nodes(model)):
        layer, inputs, _ = producer_of(cut.tensor)
        before = run[-1].tensor if run else start
        if _is_network(layer) and len(inputs) == 1 and inputs[0] is before:
            close_run()
            segments += _segments(layer)
            start = cut.tensor
        else:
            run.append(cut)
    close_run()
    return segments


def _is_network(layer):
    """Return whether a layer is a model that can be cut itself."""
    has_one_each = all(len(getattr(layer, name, None) or ()) == 1 for name in ("inputs", "outputs"))
    return has_one_each and not isinstance(layer.input, dict)


def _nodes(model):
    """Return the outputs of the calls of layers that lead from a model's input to its output, in order."""
    seen, ordered = {id(model.inputs[0])}, []
    pending = [(model.outputs[0], False)]
    while pending:
        tensor, has_inputs = pending.pop()
        if id(tensor) in seen:
            continue
        _, inputs, outputs = producer_of(tensor)
        if has_inputs:
            seen.update(map(id, outputs))
            ordered.append((inputs, outputs))
        else:
            pending.append((tensor, True))
            pending.extend((one, False) for one in reversed(inputs))
    return ordered


def _cuts(model, nodes):
    """Return the cuts of a model in order, of which the last is its output."""
    last_use = {id(one): position for position, (inputs, _) in enumerate(nodes) for one in inputs}
    cuts, live, since = [], {id(model.inputs[0])}, 0
    for position, (_, outputs) in enumerate(nodes):
        since += sum(map(_size, outputs))
        live |= {id(one) for one in outputs}
        live = {one for one in live if last_use.get(one, -1) > position}
        is_last = position == len(nodes) - 1
        if is_last or (len(outputs) == 1 and live == {id(outputs[0])}):
            cuts.append(_Cut(outputs[0], _size(outputs[0]), since))
            since = 0
    return cuts


def _size(tensor):
    return math.prod(side or 1 for side in tuple(tensor.shape)[1:])


def _chosen(cuts):
    """Choose the cuts whose stored values and largest segment are smallest together."""
    if not cuts:
        return []
    total = sum(cut.since for cut in cuts)
    return min((_at_most(cuts, total / count) for count in range(1, len(cuts) + 1)), key=_memory)


def _at_most(cuts, limit):
    """Return segments as (cut, size) that end before they exceed a size, if possible."""
    chosen, size = [], 0
    for position, cut in enumerate(cuts):
        size += cut.since
        following = cuts[position + 1].since if position + 1 < len(cuts) else math.inf
        if size + following > limit:
            chosen.append(cut._replace(since=size))
            size = 0
    return chosen


def _memory(chosen):
    return sum(cut.size for cut in chosen) + max(cut.since for cut in chosen)
