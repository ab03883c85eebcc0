"""RetrievalMetrics gives a plain Keras model what MetricModel has."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import callbacks, losses, relations
from tfdml.metrics import retrieval_metrics


@pytest.mark.parametrize("as_dataset", [False, True])
def test_metrics_are_this_epochs(blobs, linear_embedder, as_dataset):
    model = linear_embedder()
    model.compile(optimizer="sgd", loss=losses.get("c2"), run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices(blobs).batch(7) if as_dataset else blobs
    expected = []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: expected.append(retrieval_metrics(np.asarray(model(blobs[0])), blobs[1]))
    )
    history = model.fit(*blobs, epochs=3, verbose=0, callbacks=[callbacks.RetrievalMetrics(data), after]).history
    for name in ("map_at_r", "precision_at_1", "recall_at_8"):
        np.testing.assert_allclose(history[f"val_{name}"], [values[name] for values in expected], atol=1e-9)
    assert "val_queries" not in history


def test_metrics_by_a_relation(blobs, linear_embedder):
    model, near = linear_embedder(), relations.Within(1.0, 2.0)
    places = np.random.default_rng(0).uniform(0, 9, len(blobs[0])).astype("float32")
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=losses.ContrastiveLoss(relation=near), run_eagerly=True)
    callback = callbacks.RetrievalMetrics((blobs[0], places), relation=near)
    found = model.fit(blobs[0], places, verbose=0, callbacks=[callback]).history
    expected = retrieval_metrics(np.asarray(model(blobs[0])), places, relation=near)
    assert found["val_map_at_r"] == [pytest.approx(expected["map_at_r"])]
    assert found["val_ndcg_at_8"] == [pytest.approx(expected["ndcg_at_8"])]


def test_images_without_labels(blobs, linear_embedder):
    model = linear_embedder()
    model.compile(optimizer="sgd", loss=losses.get("c2"), run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices(blobs[0]).batch(7)
    with pytest.raises(ValueError, match="without labels"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.RetrievalMetrics(data)])
