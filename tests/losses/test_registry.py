"""Losses from names, configurations and instances."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, losses, models


def test_names_and_forms():
    c1, c2 = losses.get("c1"), losses.get("C2", negative_margin=0.4)
    assert (c1.distance, c1.average, c1.negative_margin) == ("cosine", "anchor", 0.5)
    assert (c2.distance, c2.average, c2.negative_margin) == ("l2", "nonzero", 0.4)
    assert set(losses.names()) >= {"c1", "c2", "contrastive"}


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
    """Keras 3 only looks up names of its own losses; names that Keras defines remain Keras'."""
    if keras.__version__.startswith("3."):
        with pytest.raises(ValueError, match="Could not interpret loss identifier: multi_similarity"):
            keras.losses.get("multi_similarity")
        return
    for name in losses.names():
        assert keras.losses.get(name).get_config() == losses.get(name).get_config()
    assert keras.losses.get("cosine_similarity") is keras.losses.cosine_similarity
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss="c1", run_eagerly=True)
    x, labels = np.random.default_rng(0).normal(size=(4, 4)).astype("float32"), np.array([0, 0, 1, 1])
    expected = float(losses.get("c1")(labels, model(x)))
    assert model.train_on_batch(x, labels) == pytest.approx(expected, rel=1e-5)


@keras.saving.register_keras_serializable(package="tests")
def spread(y_true, y_pred):
    """The squared length of an embedding, halved for class 0."""
    return tf.reduce_sum(tf.square(y_pred), axis=1) * tf.where(tf.reshape(y_true, (-1,)) == 0, 0.5, 1.0)


X, LABELS = np.array([[1.0, 2.0], [0.0, 1.0], [2.0, 0.0], [3.0, 1.0]], "float32"), np.array([0, 0, 1, 1])
VALUES = np.array([2.5, 0.5, 4.0, 10.0])


def test_class_names():
    assert type(losses.get("ContrastiveLoss")) is losses.ContrastiveLoss
    assert losses.get("TripletLoss", margin=0.3).margin == losses.get(losses.TripletLoss, margin=0.3).margin == 0.3
    with pytest.raises(ValueError, match=r"Received: 'ContrastivLoss'. .*Did you mean 'contrastive'\?"):
        losses.get("ContrastivLoss")


def test_losses_of_keras():
    assert type(losses.get("CosineSimilarity", axis=1)) is keras.losses.CosineSimilarity
    with pytest.raises(ValueError, match="does not take these options. Received: 'axes'"):
        losses.get("CosineSimilarity", axes=1)
    y, z = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    for name in ("mse", "mean_squared_error"):
        assert float(losses.get(name)(y, z)) == 1.0
    # Names of tfdml take precedence.
    assert type(losses.get("circle")) is losses.CircleLoss
    for name in ("serialize", "get", "deserialize", "Loss"):
        with pytest.raises(ValueError, match="Unknown loss"):
            losses.get(name)


def test_functions_are_losses():
    loss = losses.get(spread)
    assert isinstance(loss, keras.losses.Loss) and loss.name == "spread"
    np.testing.assert_allclose(loss.call(LABELS, X), VALUES)
    assert float(loss(LABELS, X)) == pytest.approx(VALUES.mean())
    assert losses.get(lambda y_true, y_pred: y_pred).call(LABELS, X).shape == (4,)
    again = losses.deserialize(losses.serialize(spread))
    np.testing.assert_allclose(again.call(LABELS, X), VALUES)
    for wrong in (lambda y_true: y_true, lambda: 0, lambda a, b, c: a):
        with pytest.raises(TypeError, match=r"A loss function must accept \(y_true, y_pred\)\. Received: <func"):
            losses.get(wrong)


def test_what_is_not_registered_is_not_loaded():
    for function, name in ((lambda y_true, y_pred: y_pred[:, 0], "<lambda>"), (tf.add, "add")):
        with pytest.raises(ValueError, match=rf"The function of a loss is not registered\. Received: '{name}'"):
            losses.deserialize(losses.serialize(function))
    assert losses.deserialize(losses.serialize("mse")).function is losses.get("mse").function


def test_a_registered_function(registries):
    @losses.register("spread_out")
    def spread_out(y_true, y_pred):
        return -spread(y_true, y_pred)

    np.testing.assert_allclose(losses.get("spread_out").call(LABELS, X), -VALUES)
    np.testing.assert_allclose(losses.deserialize(losses.serialize("spread_out")).call(LABELS, X), -VALUES)
    with pytest.raises(ValueError, match=r"Received: 'margin'\. Expected: 'name', 'reduction'"):
        losses.get("spread_out", margin=1)
    if keras.__version__.startswith("2."):
        assert keras.losses.get("spread_out").name == "spread_out"


LOSSES = [spread, losses.get(spread), losses.serialize(spread)]


@pytest.mark.parametrize("loss", LOSSES, ids=["function", "loss", "dict"])
def test_training_by_a_function(loss):
    """The batch is its own reference, labels stay integers, and sample weights apply."""
    embedder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity")])
    model = models.MetricModel(embedder)
    model.compile("sgd", loss, run_eagerly=True)
    assert float(model.train_on_batch(X, LABELS)) == pytest.approx(VALUES.mean(), rel=1e-5)
    embedder.layers[0].set_weights([np.eye(2), np.zeros(2)])
    weights = np.array([1.0, 0.0, 2.0, 1.0], "float32")
    weighted = model.evaluate(X, LABELS, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    assert weighted == pytest.approx((weights * VALUES).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", [spread, "mse", keras.losses.CosineSimilarity()], ids=["function", "name", "keras"])
def test_references_need_a_loss_that_compares_with_them(loss):
    embedder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    for references in (layers.ClassProxies(2, embedding_size=2), layers.CrossBatchMemory(8, embedding_size=2)):
        with pytest.raises(ValueError, match=rf"references {type(references).__name__}\. Expected: no references, or"):
            models.MetricModel(embedder, references).compile("sgd", loss)


def test_a_loss_with_against_is_enough():
    class Far(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return spread(y_true, y_pred)

        def against(self, labels, embeddings, references):
            return tf.reduce_sum(tf.matmul(embeddings, references.embeddings, transpose_b=True), axis=1)

    embedder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model = models.MetricModel(embedder, layers.ClassProxies(2, embedding_size=2))
    model.compile("sgd", Far(), run_eagerly=True)
    assert np.isfinite(float(model.train_on_batch(X, LABELS)))
