"""LearningRateOnPlateau against scripted validations."""

import keras
import numpy as np
import pytest

from tfdml import callbacks
from tfdml.layers import ClassProxies
from tfdml.losses import ContrastiveLoss
from tfdml.models import MetricModel


def plain_model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.8), loss="mse", run_eagerly=True)
    return model


def rates(model, values, plateau, initial_epoch=0, labels=np.float32):
    """The learning rates after each epoch of a training whose validations are `values`."""
    seen = []

    def script(epoch, logs):
        if values[epoch] is not None:
            logs["val_map_at_r"] = values[epoch]

    def note(epoch, logs):
        seen.append(float(model.optimizer.learning_rate))

    before, after = (keras.callbacks.LambdaCallback(on_epoch_end=function) for function in (script, note))
    model.fit(
        np.ones((4, 1), "float32"), np.array([0, 0, 1, 1]).astype(labels), epochs=len(values),
        initial_epoch=initial_epoch, verbose=0, callbacks=[before, plateau, after],
    )  # fmt: skip
    return seen


VALUES = [0.1, 0.3, 0.3, 0.2, 0.25, 0.1, 0.4, 0.3]


def expected_rates(values, patience, factor, rate):
    """The rule by a loop: the rate falls when `patience` validations in a row were not above the best."""
    result, best, since = [], -1.0, 0
    for value in values:
        since = 0 if value > best else since + 1
        best = max(best, value)
        if since == patience:
            rate, since = rate * factor, 0
        result.append(rate)
    return result


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_the_rate_falls_on_a_plateau(patience, factor):
    seen = rates(plain_model(), VALUES, callbacks.LearningRateOnPlateau(patience, factor))
    np.testing.assert_allclose(seen, expected_rates(VALUES, patience, factor, 0.8), rtol=1e-6)


def test_a_second_fit_begins_afresh_but_with_the_rate_of_the_first():
    model, plateau = plain_model(), callbacks.LearningRateOnPlateau(2)
    rates(model, [0.5, 0.1], plateau)
    assert rates(model, [0.2, 0.3], plateau) == pytest.approx([0.8, 0.8])


def test_an_interrupted_training_goes_on():
    whole = rates(plain_model(), VALUES, callbacks.LearningRateOnPlateau(2))
    for stop in (1, 4, 5):
        first = callbacks.LearningRateOnPlateau(2)
        begun = rates(plain_model(), VALUES[:stop], first)
        second = callbacks.LearningRateOnPlateau(2)
        second.set_model(plain_model())
        second.set_state(first.get_state())
        assert begun + rates(second.model, VALUES, second, initial_epoch=stop) == pytest.approx(whole)


def test_the_optimizer_of_the_proxies_slows_down_too():
    embedder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model = MetricModel(embedder, ClassProxies(2, 1, embedding_size=2))
    model.compile(
        optimizer=keras.optimizers.SGD(0.8), loss=ContrastiveLoss(), reference_optimizer=keras.optimizers.SGD(8.0),
        run_eagerly=True,
    )  # fmt: skip
    rates(model, [0.3, 0.2, 0.1], callbacks.LearningRateOnPlateau(1), labels=np.int64)
    assert [float(optimizer.learning_rate) for optimizer, _ in model.optimizer_groups()] == pytest.approx([0.2, 2.0])


@pytest.mark.filterwarnings("ignore:Metric")
def test_a_validation_without_the_metric_is_passed_over():
    assert rates(plain_model(), [0.3, None, 0.2], callbacks.LearningRateOnPlateau(1)) == pytest.approx([0.8, 0.8, 0.4])


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 2, "factor": 1.0}, {"patience": 2, "factor": 0.0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="Received"):
        callbacks.LearningRateOnPlateau(**options)
