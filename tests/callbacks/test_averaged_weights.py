import keras
import numpy as np
import pytest

from tfdml import callbacks, layers, models


def build(linear_embedder):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", run_eagerly=True)
    return model


class Watch(keras.callbacks.Callback):
    """The weights after every step and at every epoch's end."""

    def __init__(self):
        super().__init__()
        self.steps, self.ends = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.embedder.get_weights()[0].copy())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.model.embedder.get_weights()[0].copy())


def averages_by_hand(start, steps, momentum):
    average, averages = np.array(start, np.float64), []
    for number, weights in enumerate(steps, start=1):
        mu = min(momentum, (1 + number) / (10 + number))
        average = mu * average + (1 - mu) * weights
        averages.append(average)
    return averages


@pytest.mark.parametrize(("momentum", "validate"), [(0.0, True), (0.5, True), (0.9, True), (0.9, False)])
def test_averages_are_judged_and_kept_and_training_goes_on_with_the_weights(blobs, linear_embedder, momentum, validate):
    model, plain = build(linear_embedder), build(linear_embedder)
    watch = Watch()
    options = dict(epochs=4, shuffle=False, verbose=0, validation_data=blobs if validate else None)
    averaged = callbacks.AveragedWeights(momentum)
    history = model.fit(*blobs, **options, callbacks=[averaged, watch]).history
    without = Watch()
    plain.fit(*blobs, **options, callbacks=[without])
    np.testing.assert_array_equal(watch.steps, without.steps)
    expected = averages_by_hand(linear_embedder().get_weights()[0], without.steps, momentum)[2::3]
    np.testing.assert_allclose(watch.ends, expected, atol=1e-5)
    np.testing.assert_allclose(model.embedder.get_weights()[0], expected[-1], atol=1e-5)
    if validate:
        last = model.evaluate(*blobs, verbose=0, return_dict=True)
        assert history["val_map_at_r"][-1] == pytest.approx(last["map_at_r"], abs=1e-6)


def test_a_resumed_training_goes_on_with_weights_and_averages(blobs, linear_embedder, tmp_path):
    def fit(path, epochs):
        model, averaged, watch = build(linear_embedder), callbacks.AveragedWeights(0.9), Watch()
        stopping = callbacks.RetrievalEarlyStopping(patience=9)
        backup = callbacks.TrainingBackup(path, callbacks=[averaged, stopping])
        model.fit(
            *blobs, epochs=epochs, initial_epoch=backup.initial_epoch, shuffle=False, verbose=0, validation_data=blobs,
            callbacks=[averaged, stopping, watch, backup],
        )  # fmt: skip
        return model, watch

    whole, watched = fit(tmp_path / "whole", 5)
    _, begun = fit(tmp_path / "parts", 2)
    parts, rest = fit(tmp_path / "parts", 5)
    np.testing.assert_array_equal(begun.ends + rest.ends, watched.ends)
    np.testing.assert_array_equal(begun.steps + rest.steps, watched.steps)
    for ours, theirs in zip(parts.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_refused(blobs, linear_embedder):
    with pytest.raises(ValueError, match="momentum=1.5"):
        callbacks.AveragedWeights(1.5)
    model = models.CCPModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    model.compile(optimizer="sgd", loss="c2")
    with pytest.raises(TypeError, match="Received: CCPModel"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.AveragedWeights()])


def test_several_steps_in_one_execution_are_refused(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2", steps_per_execution=2)
    with pytest.raises(ValueError, match="Received: steps_per_execution=2. Expected: steps_per_execution=1"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.AveragedWeights()])
    model.compile(optimizer="sgd", loss="c2")
    model.steps_per_execution = 3
    with pytest.raises(ValueError, match="Received: steps_per_execution=3. Expected: steps_per_execution=1"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.AveragedWeights()])


def test_the_average_does_not_begin_again_when_compiled_again(blobs, linear_embedder):
    model = build(linear_embedder)
    model.fit(*blobs, epochs=4, shuffle=False, verbose=0)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", run_eagerly=True)
    start, watch = model.embedder.get_weights()[0], Watch()
    model.fit(*blobs, batch_size=96, verbose=0, callbacks=[callbacks.AveragedWeights(0.9), watch])
    momentum = min(0.9, (1 + 13) / (10 + 13))
    expected = momentum * start + (1 - momentum) * watch.steps[0]
    np.testing.assert_allclose(model.embedder.get_weights()[0], expected, atol=1e-6)
