import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, linear, losses, models


def features(count=24, size=6):
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 4
    centres = generator.normal(size=(4, size)) * 2
    return (centres[labels] + generator.normal(size=(count, size))).astype("float32"), labels


def test_a_linear_head_is_a_matrix():
    head = models.build_head(6, 3, normalization=None)
    assert [layer.name for layer in head.layers] == ["features", "embedding"]
    kernel, bias = head.get_layer("embedding").get_weights()
    x, _ = features()
    np.testing.assert_allclose(head(x), x @ kernel + bias, atol=1e-5)


def test_an_mlp_by_hand():
    head = models.build_head(6, 3, hidden=(5, 4), activation="tanh", normalization="l2")
    values, _ = features()
    for name, activation in (("hidden_1", np.tanh), ("hidden_2", np.tanh), ("embedding", lambda value: value)):
        kernel, bias = head.get_layer(name).get_weights()
        values = activation(values @ kernel + bias)
    expected = values / np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(head(features()[0]), expected, atol=1e-5)


def test_batch_normalization_standardises_the_features():
    x, _ = features()
    head = models.build_head(6, 3, batch_normalization=True, normalization=None)
    kernel, bias = head.get_layer("embedding").get_weights()
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) @ kernel + bias
    np.testing.assert_allclose(head(x, training=True), expected, atol=1e-5)
    names = [layer.name for layer in models.build_head(6, 3, hidden=[5], batch_normalization=True).layers]
    assert names == [
        "features", "input_batch_normalization", "hidden_1", "batch_normalization_1", "activation_1", "embedding",
        "normalization",
    ]  # fmt: skip


def test_dropout_is_before_each_dense_layer():
    head = models.build_head(6, 3, hidden=[5], dropout=0.5)
    names = [layer.name for layer in head.layers]
    assert names.index("dropout_1") + 1 == names.index("hidden_1")
    assert names.index("dropout_2") + 1 == names.index("embedding")
    x, _ = features()
    assert (np.asarray(head(x, training=True)) != np.asarray(head(x))).any()


@pytest.mark.parametrize(("normalization", "largest"), [("l2", 1.0), ("clip", 1.0), (None, np.inf)])
def test_norms(normalization, largest):
    head = models.build_head(6, 3, normalization=normalization)
    norms = np.linalg.norm(head(features()[0] * 50), axis=1)
    assert (norms <= largest + 1e-5).all() and norms.max() >= min(largest, 2.0) - 1e-5
    assert models.build_head(6, 3, normalization=layers.L2Clip(0.5)).layers[-1].max_norm == 0.5


EVERYTHING = {"hidden": (5,), "dropout": 0.2, "batch_normalization": True, "normalization": "clip"}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["linear", "everything"])
def test_round_trip(options, tmp_path):
    head = models.build_head(6, 3, **options)
    head.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras", safe_mode=True)
    np.testing.assert_allclose(again(features()[0]), head(features()[0]), atol=1e-6)


def trained(head, loss, references=None, steps=6, **mode):
    """The loss of each of the steps on one batch."""
    model = models.MetricModel(head, references)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss, **mode)
    batch = tf.data.Dataset.from_tensors(features())
    return model.fit(batch, epochs=steps, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize(
    "loss", ["c1", "c2", "triplet", "multi_similarity", "normalized_softmax", "proxy_anchor", "soft_triple", "margin"]
)
def test_every_kind_of_loss_and_reference_trains_a_head(loss):
    keras.utils.set_random_seed(0)
    head = models.build_head(6, 3, hidden=(8,))
    references = [layers.ClassProxies(4, 2, embedding_size=3), layers.CrossBatchMemory(24, 3, 1)]
    before = [np.array(weight) for weight in head.trainable_variables]
    values = trained(head, losses.get(loss), references, run_eagerly=True)
    # The first step finds the memory empty.
    assert np.isfinite(values).all() and values[-1] < values[1]
    for weight, first in zip(head.trainable_variables, before):
        assert (np.asarray(weight) != first).any()


def test_ccp_and_the_metrics_of_the_model():
    keras.utils.set_random_seed(0)
    head = models.build_head(6, 3)
    model = models.CCPModel(head, layers.ClassProxies(4, 2, embedding_size=3), in_batch_weight=1.0)
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="c2", run_eagerly=True)
    x, labels = features()
    before = model.evaluate(x, labels, return_dict=True, verbose=0)
    model.fit(x, labels, batch_size=24, epochs=8, verbose=0)
    assert model.evaluate(x, labels, return_dict=True, verbose=0)["map_at_r"] > before["map_at_r"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        ("float32", {"jit_compile": True}),
        ("mixed_float16", {"jit_compile": False}),
        ("mixed_bfloat16", {"run_eagerly": True}),
    ],
)
def test_xla_and_mixed_precision(policy, mode, dtype_policy):
    dtype_policy(policy)
    keras.utils.set_random_seed(0)
    head = models.build_head(6, 3, **EVERYTHING)
    values = trained(head, "c2", layers.ClassProxies(4, 2, embedding_size=3), **mode)
    assert np.isfinite(values).all()
    assert models.embed(head, features()[0]).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "Received: input_size=0"),
        ({"embedding_size": 1.5}, "Received: embedding_size=1.5"),
        ({"hidden": (8, 0)}, "Received: hidden=0"),
        ({"dropout": 1.0}, "Received: rate=1.0"),
        ({"hidden": (8,), "activation": "rellu"}, "rellu"),
        ({"normalization": "l1"}, "Unknown normalization. Received: 'l1'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        models.build_head(**{"input_size": 6, **options})


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_start_from_a_linear_metric(hidden):
    x, labels = features()
    estimator = linear.ScatterDifference(lam=0.2, bound="orthonormal", n_components=4).fit(x, labels)
    head = models.build_head(6, 2 if hidden else 4, hidden=hidden, normalization=None, weights=estimator)
    kernel, bias = head.get_layer("hidden_1" if hidden else "embedding").get_weights()
    np.testing.assert_array_equal(kernel, estimator.components_.T.astype("float32"))
    assert not bias.any()
    if not hidden:
        # Whole numbers are exact in float32: the distances are the same bit for bit.
        whole, points = np.round(8 * estimator.components_), np.round(8 * x)
        head = models.build_head(6, 4, normalization=None, weights=whole)
        embeddings = np.asarray(head(points), "float64")
        expected = np.linalg.norm((points[:, None] - points) @ whole.T, axis=2)
        np.testing.assert_array_equal(np.linalg.norm(embeddings[:, None] - embeddings, axis=2), expected)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (np.eye(3, 5), {}, r"Received: an array of shape \(3, 5\). Expected: finite values \(3, 6\)"),
        (np.eye(3, 6), {"hidden": [4]}, r"Expected: finite values \(4, 6\)"),
        (np.full((3, 6), np.nan), {}, "Invalid weights"),
        (np.eye(3, 6), {"batch_normalization": True}, "Received: weights with batch_normalization=True"),
        (linear.LMNN(), {}, "no components_. Received: LMNN. Expected: a fitted estimator"),
    ],
)
def test_bad_weights(weights, options, message):
    with pytest.raises(ValueError, match=message):
        models.build_head(6, 3, weights=weights, **options)
