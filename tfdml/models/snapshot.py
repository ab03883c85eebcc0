"""Copies of weights stored in a model's own state, and a stable order of weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras

from tfdml._utils.keras_compat import IS_KERAS_2, direct_sublayers
from tfdml._utils.types import Weight


def ordered_weights(layer):
    """Return all weights of a layer or model in an order that freezing and unfreezing layers does not change.

    In Keras 2, `layer.weights` lists trainable weights first, within every nested layer. This function returns its
    order as it would be if all layers were trainable.

    Args:
        layer: `keras.layers.Layer` or `keras.Model`.
    """
    return _unfrozen_order(layer) if IS_KERAS_2 else list(layer.weights)


def ordered_variables(model):
    """Return all variables of a model, including its metrics, in an order that freezing does not change."""
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
    # In Keras 2, `variable.trainable` does not change when its layer is frozen.
    return [w for w in weights if w.trainable] + [w for w in weights if not w.trainable]


class _Originals:
    """Hides variables from Keras' weight tracking."""

    def __init__(self, variables):
        self.variables = list(variables)


@keras.saving.register_keras_serializable(package="tfdml")
class WeightSnapshot(keras.layers.Layer):
    """Copy of weights that is part of the model's state, and therefore of every Keras checkpoint.

    Use it to keep the best or the averaged weights of a model so that an interrupted training run can resume with
    them. Each copy is matched to its variable by identity, regardless of the order in which variables are passed later.

    Args:
        variables: Iterable of variables to copy. The copies start with the current values. Checkpoints store the copies
            in this order, which must be the same when they are loaded.

    Example:
        >>> import numpy as np
        >>> layer = keras.layers.Dense(1, kernel_initializer="ones")
        >>> layer.build((None, 2))
        >>> snapshot = WeightSnapshot(layer.weights)
        >>> layer.set_weights([np.zeros((2, 1)), np.zeros((1,))])
        >>> snapshot.restore()
        >>> layer.get_weights()[0].tolist()
        [[1.0], [1.0]]
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
            # One attribute per copy: tf.train.Checkpoint does not track lists of Keras 3 variables.
            setattr(self, f"copy_{index}", copy)
        self.copy_from()
        self.built = True

    @property
    def copies(self) -> list[Weight]:
        """The copies, in the order of the variables passed at construction."""
        return [getattr(self, f"copy_{index}") for index in range(len(self._originals.variables))]

    def pairs(self, variables: Iterable[Weight] | None = None) -> list[tuple[Weight, Weight]]:
        """Return pairs (variable, copy).

        Args:
            variables: Variables of the snapshot, in any order. `None` means all. Default `None`.

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
                f"{len(unknown[3:])} others. Expected: variables passed when the snapshot was made."
            )
        return [(variable, copy_of[id(variable)]) for variable in variables]

    def copy_from(self, variables: Iterable[Weight] | None = None) -> None:
        """Copy the current values of the variables, or of some of them, into the snapshot."""
        for variable, copy in self.pairs(variables):
            copy.assign(variable)

    def take(self, variables: Iterable[Weight] | None = None) -> None:
        """Former name of `copy_from`."""
        warnings.warn("WeightSnapshot.take is now WeightSnapshot.copy_from.", DeprecationWarning, stacklevel=2)
        self.copy_from(variables)

    def restore(self, variables: Iterable[Weight] | None = None) -> None:
        """Assign the copied values to the variables, or to some of them."""
        for variable, copy in self.pairs(variables):
            variable.assign(copy)


def _dtype_name(variable):
    return variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
