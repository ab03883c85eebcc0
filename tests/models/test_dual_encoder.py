"""DualEncoder: its loss against NumPy, training, round trips, ids, memory, correction, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import finish, start

from tfdml import layers, metrics
from tfdml.models import DualEncoder


def tower(size, dim=2):
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(dim, use_bias=False)])


def sample(batch=6, negatives=2, seed=0):
    rng = np.random.default_rng(seed)
    query, item, hard = (rng.normal(size=size) for size in ((batch, 4), (batch, 3), (batch, negatives, 3)))
    ids = rng.integers(0, 4, batch)
    hard_ids = rng.integers(-1, 6, (batch, negatives))
    extras = {"item_ids": ids, "query_ids": rng.integers(0, 5, batch), "negatives": hard, "negative_ids": hard_ids,
              "weights": rng.uniform(size=batch)}  # fmt: skip
    return tf.nest.map_structure(tf.constant, (query.astype("float32"), item.astype("float32"), {
        **extras, "negatives": hard.astype("float32"), "weights": extras["weights"].astype("float32")
    }))  # fmt: skip


def test_encoders_are_traced_once_whatever_the_size_of_the_last_batch():
    model = DualEncoder(tower(4), tower(3))
    for embed, size in ((model.embed_queries, 4), (model.embed_items, 3)):
        assert embed(np.zeros((7, size), "float32"), batch_size=3).shape == (7, 2)
    for function in (model._query_function, model._item_function):
        assert function.experimental_get_tracing_count() == 1


def normalized(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def loop(model, data, memory=None, log_q=None):
    """The loss of a batch in float64, one query at a time."""
    query, item, extras = tf.nest.map_structure(np.asarray, data)
    encoders = model.query_encoder, model.item_encoder
    kernels = [np.asarray(encoder.get_weights()[0], np.float64) for encoder in encoders]
    queries, items = query @ kernels[0], item @ kernels[1]
    ids = extras.get("item_ids", np.arange(len(queries)))
    candidates, candidate_ids = [items], [ids]
    if "negatives" in extras:
        candidates.append((extras["negatives"] @ kernels[1]).reshape(-1, 2))
        candidate_ids.append(extras["negative_ids"].reshape(-1))
    if memory is not None:
        candidates.append(memory[0])
        candidate_ids.append(memory[1])
    candidates, candidate_ids = np.concatenate(candidates), np.concatenate(candidate_ids)
    if model.similarity == "cosine":
        queries, candidates = normalized(queries), normalized(candidates)
    s = queries @ candidates.T / float(model.temperature)
    z = s if log_q is None else s - log_q[np.maximum(candidate_ids, 0)]
    batch, query_ids = len(queries), extras.get("query_ids", np.arange(len(queries)))

    def value(i, logits, is_negative):
        negatives = [logits[j] for j in range(len(logits)) if is_negative(j)]
        return -np.log(np.exp(logits[i]) / (np.exp(logits[i]) + np.sum(np.exp(negatives))))

    values = np.zeros(batch)
    for i in range(batch):

        def is_negative(j, i=i):
            of_query = {ids[k] for k in range(batch) if query_ids[k] == query_ids[i]}
            return candidate_ids[j] not in {-1, *of_query}

        values[i] = value(i, z[i], is_negative)
        if model.symmetric:
            values[i] = (values[i] + value(i, s[:, i], lambda j, i=i: is_negative(i, j))) / 2
    return np.mean(values * extras.get("weights", 1.0))


ALL = ("item_ids", "query_ids", "negatives", "negative_ids", "weights")
CASES = {
    "pairs only": ({}, ()),
    "ids": ({}, ("item_ids", "query_ids")),
    "everything": ({"symmetric": True, "temperature": 0.5}, ALL),
    "dot": ({"similarity": "dot", "temperature": 1.0}, ("item_ids", "negatives", "negative_ids")),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_equals_the_loop(case):
    options, keys = CASES[case]
    query, item, extras = sample()
    model = DualEncoder(tower(4), tower(3), **options)
    data = query, item, {key: extras[key] for key in keys}
    logs = model.test_step(data)
    assert float(logs["loss"]) == pytest.approx(loop(model, data), rel=1e-4)


def test_references_and_correction_in_training():
    memory = layers.CrossBatchMemory(4, 2)
    q = np.array([0.4, 0.3, 0.15, 0.05, 0.05, 0.05])
    frequencies = layers.ItemFrequencies.from_counts(q * 100)
    model = DualEncoder(tower(4), tower(3), temperature=0.5, memory=memory, frequencies=frequencies)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    data, held = sample(), None
    for _ in range(2):
        logs = model.train_step(data)
        assert float(logs["loss"]) == pytest.approx(loop(model, data, held, np.log(q)), rel=1e-4)
        model.loss_tracker.reset_state()
        embedded = np.asarray(model.item_encoder(data[1]))
        held = embedded[-4:], np.asarray(data[2]["item_ids"])[-4:]


def test_popular_items_are_counted_in_training():
    model = DualEncoder(tower(4), tower(3), frequencies=layers.ItemFrequencies(10))
    model.compile(run_eagerly=True)
    data = sample()
    model.train_step(data)
    model.test_step(data)
    assert int(model.frequencies.steps) == 1
    assert set(np.flatnonzero(np.asarray(model.frequencies.gaps))) == set(np.asarray(data[2]["item_ids"]).tolist())


def test_metrics_of_a_batch():
    identity = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    model = DualEncoder(identity)
    assert model.is_shared
    x = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    logs = model.test_step((x, tf.constant([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), tf.constant([1, 2, 2])))
    assert float(logs["in_batch_accuracy"]) == pytest.approx(2 / 3)
    logs = model.test_step((x[:1], x[:1]))
    assert float(logs["queries_without_negative"]) == pytest.approx(1 / 4)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_gradients_of_a_step_lower_the_loss(jit_compile):
    keras.utils.set_random_seed(0)
    memory, frequencies = layers.CrossBatchMemory(12, 2), layers.ItemFrequencies(10)
    model = DualEncoder(
        tower(4), tower(3), learn_temperature=True, symmetric=True, memory=memory, frequencies=frequencies
    )
    model.compile(keras.optimizers.SGD(1e-3), jit_compile=jit_compile)
    dataset = tf.data.Dataset.from_tensors(sample()).repeat(3)
    before = model.evaluate(dataset, verbose=0, return_dict=True)["loss"]
    history = model.fit(dataset, verbose=0).history
    assert model.evaluate(dataset, verbose=0, return_dict=True)["loss"] < before
    assert set(history) == {"loss", "in_batch_accuracy", "queries_without_negative", "temperature"}
    assert float(model.temperature) != 0.05


def regularized(size):
    layer = keras.layers.Dense(2, "tanh", kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((size,)), layer])


def step_of(micro_batch_size, make=tower, data=None, drop_remainder=False, **options):
    """The weights and logs after two epochs of gradient descent on everything that a batch can have."""
    keras.utils.set_random_seed(0)
    compile_options = {name: options.pop(name) for name in ("jit_compile", "run_eagerly") if name in options}
    towers = (make(4),) if options.get("shared_ids") else (make(4), make(3))
    model = DualEncoder(
        *towers, temperature=0.5, learn_temperature=True, symmetric=True, memory=layers.CrossBatchMemory(4, 2),
        frequencies=layers.ItemFrequencies(10), **options,
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(1.0), micro_batch_size=micro_batch_size, **compile_options)
    dataset = tf.data.Dataset.from_tensor_slices(sample() if data is None else data).batch(6, drop_remainder)
    history = model.fit(dataset, epochs=2, verbose=0).history
    return [np.asarray(weight) for weight in model.get_weights()], {name: history[name][-1] for name in history}


MICRO = {
    "parts and a rest": (4, {}),
    "equal parts": (3, {"similarity": "dot"}),
    "single rows": (1, {}),
    "one part": (100, {}),
    "penalty": (4, {"make": regularized}),
}


RARE = ("single rows", "one part")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.integration if case in RARE else ()) for case in MICRO]
)
def test_gradients_of_parts_are_those_of_the_whole_batch(case):
    size, options = MICRO[case]
    (whole, logs), (parts, other_logs) = (step_of(one, run_eagerly=True, **options) for one in (None, size))
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert other_logs == pytest.approx(logs, rel=1e-4)


@pytest.mark.integration
def test_parts_in_graphs_with_a_smaller_last_batch():
    """Six and three of nine pairs, by parts of two."""
    data = tf.nest.map_structure(lambda one: tf.concat([one, one[:3]], axis=0), sample())
    (whole, logs), (parts, other_logs) = (step_of(size, data=data) for size in (None, 2))
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert other_logs == pytest.approx(logs, rel=1e-4)


@pytest.mark.integration
def test_parts_under_xla():
    (whole, _), (parts, _) = (step_of(size, jit_compile=True, drop_remainder=True) for size in (None, 4))
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="XLA cannot divide.*drop_remainder=True"):
        step_of(4, jit_compile=True)


def test_a_shared_encoder_of_dicts_in_parts():
    def shared(size):
        inputs = {"x": keras.Input((size,), name="x")}
        return keras.Model(inputs, keras.layers.Dense(2)(inputs["x"]))

    rng = np.random.default_rng(0)
    query, item = ({"x": rng.normal(size=(5, 4)).astype("float32")} for _ in range(2))
    data = query, item, {"item_ids": np.arange(5), "query_ids": np.arange(5) + 3}
    whole, parts = (step_of(size, shared, data, shared_ids=True, run_eagerly=True)[0] for size in (None, 2))
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_the_size_of_parts_is_checked_and_saved(tmp_path):
    model = DualEncoder(tower(4), tower(3))
    with pytest.raises(ValueError, match="micro_batch_size=0"):
        model.compile(micro_batch_size=0)
    model.compile("sgd", micro_batch_size=3)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").micro_batch_size == 3
    model = DualEncoder(keras.layers.Dense(2))
    model.compile("sgd", micro_batch_size=3, run_eagerly=True)
    with pytest.raises(ValueError, match="micro_batch_size=3 and query_encoder 'dense.*not built"):
        model.train_step((tf.ones((4, 2)), tf.ones((4, 2))))


def dict_encoder():
    inputs = {"tokens": keras.Input((3,), dtype="int32", name="tokens"), "price": keras.Input((1,), name="price")}
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(inputs["tokens"]))
    joined = keras.layers.Concatenate()([embedded, inputs["price"]])
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


@pytest.mark.integration
def test_encoders_of_dicts_and_a_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    items = {"tokens": rng.integers(0, 10, (7, 3)), "price": rng.normal(size=(7, 1)).astype("float32")}
    queries = rng.normal(size=(5, 4)).astype("float32")
    model = DualEncoder(tower(4), dict_encoder(), learn_temperature=True, memory=layers.CrossBatchMemory(4, 2),
                        frequencies=layers.ItemFrequencies(9, rate=0.1), symmetric=True)  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01))
    hard = np.array([[5, 6]] * 5)
    negatives = {key: value[hard] for key, value in items.items()}
    extras = {"item_ids": np.arange(5), "negatives": negatives, "negative_ids": hard}
    dataset = tf.data.Dataset.from_tensors((queries, {key: value[:5] for key, value in items.items()}, extras))
    model.fit(dataset, verbose=0)
    found = model.ranking_metrics(queries, items, relevant=range(5), ks=(3,))
    assert found == metrics.ranking_metrics(model.embed_queries(queries), model.embed_items(items), range(5), ks=(3,))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert loaded.get_config()["symmetric"] and float(loaded.temperature) == float(model.temperature)
    # Weights of the optimizer, too: both continue alike.
    for one in (model, loaded):
        one.fit(dataset, verbose=0)
    np.testing.assert_allclose(loaded.embed_items(items), model.embed_items(items), rtol=1e-5)


def test_a_shared_encoder_is_shared_after_loading(tmp_path):
    model = DualEncoder(tower(4), shared_ids=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.is_shared and loaded.shared_ids and len(loaded.trainable_weights) == 1


def test_a_learned_temperature_has_a_bound():
    model = DualEncoder(tower(4), tower(3), temperature=0.0101, learn_temperature=True)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.temperature_layer.log_scale.assign(6.0)
    model.train_step(sample()[:2])
    assert float(model.temperature) == pytest.approx(0.01)


def test_half_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = DualEncoder(tower(4), tower(3))
        model.compile("sgd", run_eagerly=True)
        assert np.isfinite(float(model.train_step(sample())["loss"]))
        assert model.embed_queries(np.ones((2, 4), "float32")).dtype == np.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")


def changed(**changes):
    query, item, extras = sample()
    extras = {**extras, **changes}
    return query, item, {key: value for key, value in extras.items() if value is not None}


BATCHES = {
    "no items": (lambda: sample()[:1], "Batches must be pairs"),
    "triplets": (lambda: (*sample()[:2], tf.ones((6, 3), tf.int32)), "explicit negatives {'negatives'"),
    "weights alone": (lambda: (*sample()[:2], tf.ones(6)), "third part of a batch must be ids or a dict"),
    "unknown key": (lambda: changed(labels=tf.ones(6)), r"Unknown keys in a batch. Received: \['labels'\]"),
    "float ids": (lambda: changed(item_ids=tf.ones(6)), "item_ids of type float32"),
    "negatives without ids": (lambda: changed(negative_ids=None), "a batch without negative_ids"),
    "negatives without item ids": (lambda: changed(item_ids=None), "a batch without item_ids"),
    "negatives without an axis": (lambda: changed(negatives=tf.ones((6, 3))), "one more axis than items"),
    "negatives of another form": (lambda: changed(negatives={"a": tf.ones((6, 2, 3))}), "the structure of items"),
    "other negative ids": (lambda: changed(negative_ids=tf.ones((6, 3), tf.int64)), r"negative_ids of shape \(6, 3\)"),
    "fewer ids": (lambda: changed(query_ids=tf.range(4)), r"query_ids of shape \(4,\).*Expected: \(6,\)"),
    "fewer items": (lambda: (sample()[0], sample()[1][:4]), "6 queries and 4 items"),
}


@pytest.mark.parametrize("mistake", BATCHES)
def test_mistakes_in_batches(mistake):
    make, message = BATCHES[mistake]
    with pytest.raises(ValueError, match=message):
        DualEncoder(tower(4), tower(3)).test_step(make())


def test_references_need_ids():
    for options in ({"memory": layers.CrossBatchMemory(4, 2)}, {"frequencies": layers.ItemFrequencies(4)}):
        with pytest.raises(ValueError, match=f"a model with {next(iter(options))} and batches without item_ids"):
            DualEncoder(tower(4), tower(3), **options).test_step(sample()[:2])
    with pytest.raises(ValueError, match="shared_ids=True and batches without query_ids"):
        DualEncoder(tower(4), tower(3), shared_ids=True).test_step((*sample()[:2], tf.range(6)))


OPTIONS = {
    "temperature": (dict(temperature=0.0), ValueError, "temperature=0.0"),
    "negative temperature": (dict(temperature=-1.0), ValueError, "temperature=-1.0"),
    "low learned temperature": (dict(temperature=0.001, learn_temperature=True), ValueError, "temperature=0.001"),
    "similarity": (dict(similarity="l2"), ValueError, "similarity='l2'"),
    "sizes": (dict(item_encoder=tower(3, dim=5)), ValueError, "2 for queries and 5 for items"),
    "size of the memory": (dict(memory=layers.CrossBatchMemory(4, 3)), ValueError, "a memory of size 3 for embeddings"),
    "encoder": (dict(item_encoder="tower"), TypeError, "item_encoder of type str. Expected: Layer"),
    "memory": (dict(memory=4), TypeError, "memory of type int. Expected: CrossBatchMemory or None"),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_mistakes_in_options(mistake):
    changes, kind, message = OPTIONS[mistake]
    with pytest.raises(kind, match=message):
        DualEncoder(tower(4), **{"item_encoder": tower(3), **changes})


def test_other_mistakes():
    model = DualEncoder(tower(4), tower(3))
    with pytest.raises(ValueError, match="has its own loss and metrics. Received: loss='mse'"):
        model.compile(loss="mse")
    with pytest.raises(ValueError, match="There is nothing to embed"):
        model.embed_queries(np.zeros((0, 4), "float32"))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2"):
        model.embed_items(np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0]], "float32"))
    with pytest.raises(ValueError, match="The dataset is endless"):
        model.embed_items(tf.data.Dataset.from_tensors(np.ones((1, 3), "float32")).repeat())


@pytest.mark.integration
def test_two_devices_train_in_parts_as_one_on_the_whole_batch(tmp_path):
    results = []
    for devices in (1, 2):
        code, output = finish(start("towers_on_devices.py", tmp_path / f"{devices}.npz", devices), timeout=200)
        assert code == 0, output
        results.append(dict(np.load(tmp_path / f"{devices}.npz")))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
