"""Callbacks of Keras that take the larger of two retrieval metrics for the worse."""

import warnings

import keras

from tfdml.models.validation import is_retrieval_name

_MONITORING = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)


def minimizes_retrieval(callback):
    """Whether a callback of Keras monitors a retrieval metric and keeps the smallest.

    Keras 2 minimizes what it does not know unless `mode="max"` is given. Keras 3 asks for the mode itself.

    Args:
        callback: A Keras callback.
    """
    if not isinstance(callback, _MONITORING) or not getattr(callback, "save_best_only", True):
        return False
    smaller_is_better = callback.monitor_op
    monitors_retrieval = is_retrieval_name(str(callback.monitor).split("val_")[-1])
    return monitors_retrieval and smaller_is_better is not None and bool(smaller_is_better(0.0, 1.0))


def warn_of_minimized(callbacks, known):
    """Warns of the callbacks that minimize a retrieval metric.

    Args:
        callbacks: Keras callbacks.
        known: The ids of those that were warned of before.

    Returns:
        The ids of all that were warned of, a frozenset.

    Warns:
        UserWarning: For each such callback, the first time.
    """
    found = [callback for callback in callbacks if id(callback) not in known and minimizes_retrieval(callback)]
    for callback in found:
        warnings.warn(
            f"{type(callback).__name__} minimizes {callback.monitor!r}, of which larger is better. "
            f"Received: mode={getattr(callback, 'mode', 'auto')!r}. Expected: mode='max'. Pass mode='max'.",
            stacklevel=3,
        )
    return known | {id(callback) for callback in found}
