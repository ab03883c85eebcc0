"""Training and evaluation by a relation: equal to classes where the pairs are, and the errors."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import losses, metrics, relations
from tfdml.layers import ClassProxies, CrossBatchMemory, CrossBatchPrototypes
from tfdml.models import MetricModel, Mixup
from tfdml.models.relating import related

NEAR = relations.Within(1.0, 3.0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
CLASSES = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 4])


def model_of(references=None, seed=0):
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), dense])
    dense.set_weights([np.random.default_rng(seed).normal(size=(4, 2)).astype("float32")])
    return MetricModel(model, references)


def trained(labels, relation, memory, eager):
    model = model_of(memory)
    model.compile("sgd", "triplet", relation=relation, run_eagerly=eager)
    history = model.fit(X, labels, batch_size=6, epochs=1, shuffle=False, verbose=0, validation_data=(X, labels))
    return model, {name: values[-1] for name, values in history.history.items()}


@pytest.mark.parametrize("eager", [True, pytest.param(False, marks=pytest.mark.integration)])
def test_a_relation_of_the_same_pairs_trains_alike(eager):
    memory = CrossBatchMemory(8, 2)
    by_class, logs = trained(CLASSES, None, memory, eager)
    places = 9.0 * CLASSES
    memory = CrossBatchMemory(8, 2, label_shape=(1,), label_dtype="float32")
    by_place, other_logs = trained(places.astype("float32"), NEAR, memory, eager)
    assert other_logs == pytest.approx(logs, abs=1e-6) and 0 < logs["anchors_without_positive"] < 1
    np.testing.assert_array_equal(by_place.get_weights()[0], by_class.get_weights()[0])
    np.testing.assert_array_equal(memory().labels[:4, 0], places[8:])


def test_evaluation_uses_the_relation(tmp_path):
    places = RNG.uniform(0, 6, (12, 2)).astype("float32")
    model = model_of()
    model.compile("sgd", losses.ContrastiveLoss(), relation=NEAR, metrics=["map_at_r", "recall_at_2"], run_eagerly=True)
    logs = model.evaluate(X, places, batch_size=5, return_dict=True, verbose=0)
    embeddings = model.embedder.predict(X, verbose=0)
    expected = metrics.retrieval_metrics(embeddings, places, ks=(2,), relation=NEAR)
    assert logs["map_at_r"] == pytest.approx(expected["map_at_r"])
    assert logs["recall_at_2"] == pytest.approx(expected["recall_at_2"])
    roles = {"label": places, "is_query": np.arange(12) < 5}
    assert 0 <= model.evaluate(X, roles, return_dict=True, verbose=0)["map_at_r"] <= 1
    # The compiled model survives a file.
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.relation.get_config() == NEAR.get_config() == again.metric_loss.relation.get_config()
    assert again.evaluate(X, places, batch_size=5, return_dict=True, verbose=0) == pytest.approx(logs)


def test_the_loss_brings_its_relation():
    model = model_of()
    loss = losses.ContrastiveLoss(relation=NEAR)
    model.compile("sgd", loss)
    assert model.relation is NEAR and model.metric_loss is loss
    model.compile("sgd", loss, relation=relations.Within(1.0, 3.0))
    with pytest.raises(ValueError, match="loss has another relation.*Overlap"):
        model.compile("sgd", loss, relation="overlap")
    model.compile("sgd", "c2")
    assert model.relation.names_classes


def test_a_loss_of_another_model_keeps_its_relation():
    loss = losses.ContrastiveLoss()
    model = model_of()
    model.compile("sgd", loss, relation=NEAR)
    assert loss.relation is None and model.metric_loss.relation is NEAR


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: model_of(ClassProxies(3, embedding_size=2)), {}, "needs class labels.*ClassProxies with Within"),
        (lambda: model_of(), {"loss": "proxy_anchor"}, "ProxyAnchorLoss with Within"),
        (lambda: model_of(), {"loss": losses.MarginLoss(learn_beta=True, num_classes=3)}, "MarginLoss with Within"),
        (lambda: model_of(), {"geometry": True}, "geometry=True with"),
        (
            lambda: model_of(CrossBatchMemory(8, 2)),
            {},
            r"memory cannot store.*\(n,\), label_dtype='float32'",
        ),
    ],
)
def test_what_needs_classes_refuses_other_relations(make, options, message):
    with pytest.raises(ValueError, match=message):
        make().compile("sgd", **{"loss": "c2", **options}, relation=NEAR)


def test_a_memory_of_vectors_does_not_fit_ids():
    model = model_of(CrossBatchMemory(8, 2, label_shape=(3,)))
    with pytest.raises(ValueError, match=r"Received: CrossBatchMemory\(label_shape=\(3,\).*label_shape=\(\)"):
        model.compile("sgd", "c2", relation=relations.Pairs.from_pairs([(0, 1)]))


def test_attributes_and_mixing_need_classes():
    parts = types.SimpleNamespace(references=(), memories=(), zero_shot=None, cross_batch=CrossBatchPrototypes())
    with pytest.raises(ValueError, match="CrossBatchPrototypes, Mixup with"):
        related(NEAR, losses.ContrastiveLoss(), parts, Mixup(1.0), geometry=False)


def test_other_losses_get_the_labels_as_they_are():
    model = model_of()
    with pytest.warns(UserWarning, match="does not reach this loss"):
        model.compile("sgd", "mse", relation=NEAR)
    places = RNG.uniform(0, 6, (12, 2)).astype("float32")
    logs = model.evaluate(X, places, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(np.mean((model.embedder.predict(X, verbose=0) - places) ** 2), rel=1e-4)
    assert "map_at_r" in logs


@pytest.mark.parametrize("way", ["array", "dataset", "generator", "validation", "evaluate"])
def test_positions_with_nan_are_refused(way):
    places = np.where(np.arange(12) == 7, np.nan, 1.0).astype("float32")[:, None]
    model = model_of()
    model.compile("sgd", "c2", relation=NEAR)
    data = tf.data.Dataset.from_tensor_slices((X, places)).batch(6)
    calls = {
        "array": lambda: model.fit(X, places, verbose=0),
        "dataset": lambda: model.fit(data, verbose=0),
        "generator": lambda: model.fit(iter([(X, places)]), steps_per_epoch=1, verbose=0),
        "validation": lambda: model.fit(X, np.ones(12), validation_data=(X, places), verbose=0),
        "evaluate": lambda: model.evaluate(data, verbose=0),
    }
    with pytest.raises(ValueError, match="Labels must be finite"):
        calls[way]()


def test_batches_without_positives_are_reported():
    model = model_of()
    model.compile("sgd", "c2", relation=NEAR)
    with pytest.warns(UserWarning, match="100% of the samples have no positive.*related_batches"):
        history = model.fit(X[:4], 0.5 * np.arange(4) + 1.5 * np.arange(4), verbose=0)
    assert history.history["anchors_without_positive"] == [1.0]
    assert np.isfinite(model.get_weights()[0]).all()
