"""Plain proxy training draws the proxies of a class together; chance constrained programming keeps them apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfdml import callbacks, layers, models
from tfdml.metrics import class_spread, proxy_spread

PER_CLASS, STEPS, EPOCHS = 4, 20, 20


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16.0).astype("float32"), labels.astype("int64")


def train(digits, with_ccp):
    """Spread of each class' proxies relative to that of its samples, over the epochs, and the projections."""
    images, labels = digits
    keras.utils.set_random_seed(0)
    embedder = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(8), layers.L2Clip()]
    )
    model = models.CCPModel(embedder, layers.ClassProxies(10, PER_CLASS, embedding_size=8), projection_weight=2e-4)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="c2")
    everything = tf.data.Dataset.from_tensor_slices((images, labels))
    # Plain proxy training is one problem that never ends.
    projections = callbacks.AlternatingProjections(
        lambda draw: everything.shuffle(len(labels), seed=draw).batch(600),
        pool_size=12,
        patience=1 if with_ccp else EPOCHS + 1,
        max_steps=None,
    )
    spreads = []

    def measure(epoch, logs):
        samples = class_spread(models.embed(embedder, images), labels, reduction=None)
        spreads.append((proxy_spread(np.asarray(model.proxies.proxies)) / samples).mean())

    history = model.fit(
        everything.shuffle(len(labels), seed=0).repeat().batch(64), steps_per_epoch=STEPS, epochs=EPOCHS, verbose=0,
        validation_data=(images[:400], labels[:400]),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure), projections],
    )  # fmt: skip
    return np.array(spreads), history.history["projection"]


@pytest.mark.integration
def test_spread_of_the_proxies(digits):
    plain, problems = train(digits, with_ccp=False)
    assert set(problems) == {0}
    assert plain[-1] < 0.4 * plain[0]
    ccp, problems = train(digits, with_ccp=True)
    assert max(problems) >= 2
    # Measured before the proxies of an ended problem are replaced, so at their smallest.
    assert ccp[-5:].mean() > 2 * plain[-5:].mean()
