"""The relation of a `MetricModel`: what it can be combined with, and the checks of its labels."""

from __future__ import annotations

import warnings

import keras

from tfdml import losses, relations
from tfdml.layers import ClassProxies, CrossBatchMemory


def related(relation, loss, model, mixing, geometry):
    """Return the relation of a model and the loss that uses it.

    Args:
        relation: Anything that `tfdml.relations.get` accepts, or `None` for the relation of the loss.
        loss: Keras loss.
        model: `MetricModel`.
        mixing: As for `MetricModel.compile`.
        geometry: As for `MetricModel.compile`.

    Returns:
        Pair of a `Relation` and a loss.

    Raises:
        ValueError: If the loss has another relation, or something needs classes and the relation does not compare them.

    Warns:
        UserWarning: If the loss is not a `MetricLoss`, so that the relation serves evaluation only.
    """
    own = getattr(loss, "relation", None)
    if relation is None:
        relation = relations.SameClass() if own is None else own
    else:
        relation = relations.get(relation)
        if own is not None and _configuration(own) != _configuration(relation):
            raise ValueError(
                f"The loss has another relation. Received: relation={relation!r} and a loss with {own!r}. Expected: "
                "one of the two."
            )
    if relation.names_classes:
        return relation, loss
    _check_parts(relation, loss, model, mixing, geometry)
    if not isinstance(loss, losses.MetricLoss):
        warnings.warn(
            f"The relation does not reach this loss, which gets the labels as they are: it serves evaluation only. "
            f"Received: {type(loss).__name__} {loss.name!r} with {relation!r}. Expected: a `tfdml.losses.MetricLoss`, "
            "to train on pairs of the relation.",
            stacklevel=4,
        )
        return relation, loss
    return relation, loss if own is not None else loss.with_relation(relation)


def _check_parts(relation, loss, model, mixing, geometry):
    wanting = [type(layer).__name__ for layer in model.references if isinstance(layer, ClassProxies)]
    wanting += [] if model.zero_shot is None else [type(model.zero_shot).__name__]
    wanting += [] if getattr(model, "cross_batch", None) is None else [type(model.cross_batch).__name__]
    wanting += [] if mixing is None else [type(mixing).__name__]
    wanting += ["geometry=True"] if geometry else []
    wanting += [type(loss).__name__] if getattr(loss, "needs_classes", False) else []
    if wanting:
        raise ValueError(
            f"This needs class labels, and the relation compares other ones. Received: {', '.join(wanting)} with "
            f"{relation!r}. Expected: the relation SameClass; or a loss on pairs within the batch and against a "
            "CrossBatchMemory, without proxies."
        )
    for memory in model.memories:
        if isinstance(memory, CrossBatchMemory) and not _fits(memory, relation):
            form = ("label_shape=(n,)" if relation.label_rank else "label_shape=()") + (
                ", label_dtype='float32'" if relation.label_dtype == "float64" else ", label_dtype='int64'"
            )
            raise ValueError(
                f"The memory cannot store the labels of the relation. Received: CrossBatchMemory(label_shape="
                f"{memory.label_shape}, label_dtype={memory.label_dtype!r}) with {relation!r}. Expected: "
                f"CrossBatchMemory(size, embedding_size, {form})."
            )


def _fits(memory, relation):
    is_float = relation.label_dtype == "float64"
    return len(memory.label_shape) == relation.label_rank and (memory.label_dtype != "int64") == is_float


def _configuration(relation):
    return keras.saving.serialize_keras_object(relation)
