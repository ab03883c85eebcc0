"""Detect Keras callbacks that minimize a retrieval metric."""

import warnings

import keras

from tfdml.models.validation import is_retrieval_name

_MONITORING = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)


def minimizes_retrieval(callback):
    """Return whether a Keras callback monitors a retrieval metric and prefers smaller values.

    Without `mode="max"`, Keras 2 minimizes metrics that it does not know. Keras 3 requires the mode.

    Args:
        callback: `keras.callbacks.Callback`.
    """
    if not isinstance(callback, _MONITORING) or not getattr(callback, "save_best_only", True):
        return False
    smaller_is_better = callback.monitor_op
    monitors_retrieval = is_retrieval_name(str(callback.monitor).split("val_")[-1])
    return monitors_retrieval and smaller_is_better is not None and bool(smaller_is_better(0.0, 1.0))


def warn_of_minimized(callbacks, known):
    """Warn once about each callback that minimizes a retrieval metric.

    Args:
        callbacks: List of `keras.callbacks.Callback`.
        known: frozenset. Ids of the callbacks that were reported before.

    Returns:
        frozenset. Ids of all callbacks reported so far.

    Warns:
        UserWarning: For each new callback that minimizes a retrieval metric.
    """
    found = [callback for callback in callbacks if id(callback) not in known and minimizes_retrieval(callback)]
    for callback in found:
        warnings.warn(
            f"{type(callback).__name__} minimizes {callback.monitor!r}, but larger values are better. "
            f"Received: mode={getattr(callback, 'mode', 'auto')!r}. Expected: mode='max'. Pass mode='max'.",
            stacklevel=3,
        )
    return known | {id(callback) for callback in found}
