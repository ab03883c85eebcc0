"""The warning about embeddings that become one vector."""

import keras
import numpy as np
import pytest

from tfdml import callbacks, layers, models


def play(values, embedder, **options):
    callback = callbacks.CollapseWarning(**options)
    model = models.MetricModel(embedder)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, None if value is None else {"val_interclass_distance": value})
    return callback.warned_epoch


@pytest.fixture(scope="module")
def embedders():
    return {
        "l2": keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), layers.L2Normalization()]),
        "free": keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
    }


@pytest.mark.parametrize(
    ("kind", "values", "epoch"),
    [
        ("l2", [1.0, 1.2, 0.5, 0.119], 3),
        ("l2", [1.0, 1.2, 0.121, 0.5], None),
        # Small from the beginning, and not growing; 0.05 is 2.5% of the largest distance of unit vectors.
        ("l2", [0.049, 0.049], 1),
        ("l2", [0.03, 0.04, 0.6], None),
        ("l2", [0.03, 0.06, 0.03], None),
        # Without a bound only the fall counts.
        ("free", [0.04, 0.03, 0.02], None),
        ("free", [40.0, 3.9], 1),
        ("free", [None, float("nan"), 1.0, None, 0.01, 0.001], 4),
    ],
)
def test_when_it_warns(embedders, kind, values, epoch):
    if epoch is None:
        assert play(values, embedders[kind]) is None
        return
    with pytest.warns(UserWarning, match=rf"collapsed.*after epoch {epoch + 1},.*in_batch_weight=1") as caught:
        assert play([*values, 0.0, 0.0], embedders[kind]) == epoch
    assert len(caught) == 1


def test_a_fraction(embedders):
    assert play([1.0, 0.3], embedders["free"], fraction=0.2) is None
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"Received: fraction={fraction}"):
            callbacks.CollapseWarning(fraction)


def test_in_fit(embedders):
    """Weights that a callback shrinks: every embedding becomes the bias."""
    points, labels = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.repeat(np.arange(4), 2)
    model = models.MetricModel(embedders["free"])
    model.compile(keras.optimizers.SGD(0.0), loss="c2", geometry=True, run_eagerly=True)
    kernel = model.embedder.weights[0]
    shrink = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: kernel.assign(0.05 * kernel))
    collapse = callbacks.CollapseWarning()
    with pytest.warns(UserWarning, match="collapsed"):
        model.fit(points, labels, validation_data=(points, labels), epochs=2, verbose=0, callbacks=[collapse, shrink])
    assert collapse.warned_epoch == 1
