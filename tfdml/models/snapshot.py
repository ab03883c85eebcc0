"""Copies of a model's weights, kept as weights, and an order of weights that lasts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from tfdml._utils.keras_compat import IS_KERAS_2, direct_sublayers
from tfdml._utils.types import Weight


def ordered_weights(layer):
    """All weights of a layer or model, in an order that freezing and unfreezing does not change.

    `layer.weights` of Keras 2 puts the weights that are trainable now before the others, inside of every layer that
    has layers of its own. This is its order while everything is trainable.

    Args:
        layer: A Keras layer or model.
    """
    return _unfrozen_order(layer) if IS_KERAS_2 else list(layer.weights)


def ordered_variables(model):
    """All variables of a model, those of its metrics included, in an order that freezing does not change."""
    return _unfrozen_order(model) if IS_KERAS_2 else list(model.variables)


def _unfrozen_order(layer):
    nested, seen = [], set()
    for child in direct_sublayers(layer):
        for weight in _unfrozen_order(child):
            if id(weight) not in seen:
                seen.add(id(weight))
                nested.append(weight)
    own = [weight for weight in layer.weights if id(weight) not in seen]
    if isinstance(layer, keras.Model):
        return nested + own
    weights = own + nested
    # `trainable` of a variable of Keras 2 stays as the variable was made.
    return [w for w in weights if w.trainable] + [w for w in weights if not w.trainable]


class _Originals:
    """Holds variables where Keras does not look for weights."""

    def __init__(self, variables):
        self.variables = list(variables)


@keras.saving.register_keras_serializable(package="tfdml")
class WeightSnapshot(keras.layers.Layer):
    """A copy of some weights that is part of the model's own state, so that every checkpoint of Keras holds it.

    Each copy belongs to its variable for good, in whatever order variables are given later.

    Args:
        variables: The variables to hold a copy of; the copy starts with their present values. A checkpoint holds the
            copies in this order, which must be the same when it is loaded: give `ordered_weights`.
    """

    def __init__(self, variables: Iterable[Weight], **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self._originals = _Originals(variables)
        for index, variable in enumerate(self._originals.variables):
            copy = self.add_weight(
                name=f"copy_{index}",
                shape=tuple(variable.shape),
                dtype=_dtype_name(variable),
                initializer="zeros",
                trainable=False,
            )
            # An attribute each: tf.train.Checkpoint does not look into a list of Keras 3 variables.
            setattr(self, f"copy_{index}", copy)
        self.copy_from()
        self.built = True

    @property
    def copies(self) -> list[Weight]:
        """The copies, in the order of the variables that the snapshot was made of."""
        return [getattr(self, f"copy_{index}") for index in range(len(self._originals.variables))]

    def pairs(self, variables: Iterable[Weight] | None = None) -> list[tuple[Weight, Weight]]:
        """Variables with their copies: a list of pairs.

        Args:
            variables: Some of the variables that the snapshot was made of, in any order; `None` for all.

        Raises:
            ValueError: If the snapshot has no copy of a variable.
        """
        originals, copies = self._originals.variables, self.copies
        if variables is None:
            return list(zip(originals, copies))
        copy_of = {id(original): copy for original, copy in zip(originals, copies)}
        variables = list(variables)
        unknown = [variable.name for variable in variables if id(variable) not in copy_of]
        if unknown:
            raise ValueError(
                f"The snapshot has no copy of some variables. Received: {unknown[:3]} and "
                f"{len(unknown[3:])} others. Expected: variables that the snapshot was made of."
            )
        return [(variable, copy_of[id(variable)]) for variable in variables]

    def copy_from(self, variables: Iterable[Weight] | None = None) -> None:
        """Copies the present values of the variables, or of some of them."""
        for variable, copy in self.pairs(variables):
            copy.assign(variable)

    def take(self, variables: Iterable[Weight] | None = None) -> None:
        """Former name of `copy_from`."""
        warnings.warn("WeightSnapshot.take is now WeightSnapshot.copy_from.", DeprecationWarning, stacklevel=2)
        self.copy_from(variables)

    def restore(self, variables: Iterable[Weight] | None = None) -> None:
        """Gives the copied values back to the variables, or to some of them."""
        for variable, copy in self.pairs(variables):
            variable.assign(copy)


def _dtype_name(variable):
    return variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
