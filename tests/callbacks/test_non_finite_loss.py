"""A loss that is no number ends the training, names its step, and leaves the best weights."""

import keras
import numpy as np

from tfdml import callbacks, models


def test_stops_at_the_step_and_keeps_the_best_weights(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="c2", run_eagerly=True)
    best = {}

    def spoil(batch, logs=None):
        if int(model.optimizer.iterations) == 7:
            model.embedder.set_weights([np.full((8, 2), np.nan)])

    def remember(epoch, logs=None):
        if np.isfinite(logs["val_map_at_r"]) and logs["val_map_at_r"] > best.get("value", -1):
            best.update(value=logs["val_map_at_r"], weights=model.embedder.get_weights())

    stop, early = callbacks.StopOnNonFiniteLoss(), callbacks.RetrievalEarlyStopping(5)
    script = keras.callbacks.LambdaCallback(on_train_batch_end=spoil, on_epoch_end=remember)
    history = model.fit(
        points, labels, epochs=9, verbose=0, validation_data=(points, labels), callbacks=[script, stop, early]
    )
    assert stop.stopped_step == 8
    assert len(history.epoch) == 3
    assert np.isnan(history.history["val_map_at_r"][-1])
    np.testing.assert_array_equal(model.embedder.get_weights()[0], best["weights"][0])


def test_a_finite_loss_passes(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2", run_eagerly=True)
    stop = callbacks.StopOnNonFiniteLoss()
    model.fit(*blobs, epochs=2, verbose=0, callbacks=[stop])
    assert stop.stopped_step is None
