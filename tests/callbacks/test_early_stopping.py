"""RetrievalEarlyStopping against a scripted sequence of validations."""

import keras
import numpy as np
import pytest

from tfdml import callbacks


def fit(values, stopping, epochs=None):
    """Trains a one-weight model whose weight is the epoch's number while `values` are its validations."""
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse", run_eagerly=True)

    def script(epoch, logs):
        dense.set_weights([np.full((1, 1), float(epoch))])
        if values[epoch] is not None:
            logs["val_map_at_r"] = values[epoch]

    data = np.ones((2, 1), "float32")
    history = model.fit(
        data, data, epochs=epochs or len(values), verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=script), stopping],
    )  # fmt: skip
    return float(dense.get_weights()[0].item()), len(history.epoch)


def test_stops_after_patience_and_restores_the_best():
    stopping = callbacks.RetrievalEarlyStopping(patience=2)
    weight, epochs = fit([0.1, 0.3, 0.2, 0.3, 0.9], stopping)
    assert (weight, epochs) == (1.0, 4)
    assert (stopping.best, stopping.best_epoch, stopping.stopped_epoch) == (0.3, 1, 3)


def test_restores_the_best_also_without_an_early_stop():
    stopping = callbacks.RetrievalEarlyStopping(patience=5)
    assert fit([0.1, 0.3, 0.2], stopping) == (1.0, 3)
    assert stopping.stopped_epoch is None


def test_can_keep_the_last_weights():
    assert fit([0.3, 0.1], callbacks.RetrievalEarlyStopping(5, restore_best_weights=False)) == (1.0, 2)


def test_min_delta():
    stopping = callbacks.RetrievalEarlyStopping(patience=2, min_delta=0.05)
    assert fit([0.30, 0.34, 0.33], stopping) == (0.0, 3)


def test_epochs_of_a_warm_up_are_passed_over():
    stopping = callbacks.RetrievalEarlyStopping(patience=2, start_from_epoch=2)
    assert fit([0.9, 0.8, 0.1, 0.3, 0.2, 0.2, 0.5], stopping) == (3.0, 6)
    with pytest.raises(ValueError, match="start_from_epoch"):
        callbacks.RetrievalEarlyStopping(patience=2, start_from_epoch=-1)


def test_nan_is_never_better():
    nan = float("nan")
    assert fit([0.1, nan, nan, nan], callbacks.RetrievalEarlyStopping(2)) == (0.0, 3)


def test_a_missing_metric_names_those_that_exist():
    with pytest.warns(UserWarning, match="Available metrics: loss"):
        fit([None], callbacks.RetrievalEarlyStopping(2))


def test_a_second_fit_starts_afresh():
    stopping = callbacks.RetrievalEarlyStopping(patience=2)
    fit([0.9, 0.1], stopping)
    assert fit([0.1, 0.2], stopping) == (1.0, 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match="patience=0"):
        callbacks.RetrievalEarlyStopping(0)
    with pytest.raises(ValueError, match="min_delta=-1"):
        callbacks.RetrievalEarlyStopping(1, min_delta=-1)
