"""Losses by name, configuration and instance."""

import keras
import numpy as np
import pytest

from tfdml import losses


def test_names_and_forms():
    c1, c2 = losses.get("c1"), losses.get("C2", negative_margin=0.4)
    assert (c1.distance, c1.average, c1.negative_margin) == ("cosine", "anchor", 0.5)
    assert (c2.distance, c2.average, c2.negative_margin) == ("l2", "nonzero", 0.4)
    assert set(losses.loss_names()) >= {"c1", "c2", "contrastive"}


def test_instance_is_returned_as_it_is():
    loss = keras.losses.MeanSquaredError()
    assert losses.get(loss) is loss


def test_errors():
    with pytest.raises(ValueError, match="Did you mean 'contrastive'"):
        losses.get("contrastve")
    with pytest.raises(ValueError, match="margin"):
        losses.get("c2", margin=1)
    with pytest.raises(ValueError, match="Options go with a loss"):
        losses.get(losses.get("c2"), negative_margin=1)
    with pytest.raises(TypeError, match="Received: 3"):
        losses.get(3)


def test_names_in_a_plain_keras_model():
    """Keras 3 looks up names among its own losses only; names that Keras has stay Keras'."""
    if keras.__version__.startswith("3."):
        with pytest.raises(ValueError, match="Could not interpret loss identifier: multi_similarity"):
            keras.losses.get("multi_similarity")
        return
    for name in losses.loss_names():
        assert keras.losses.get(name).get_config() == losses.get(name).get_config()
    assert keras.losses.get("cosine_similarity") is keras.losses.cosine_similarity
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss="c1", run_eagerly=True)
    x, labels = np.random.default_rng(0).normal(size=(4, 4)).astype("float32"), np.array([0, 0, 1, 1])
    expected = float(losses.get("c1")(labels, model(x)))
    assert model.train_on_batch(x, labels) == pytest.approx(expected, rel=1e-5)
