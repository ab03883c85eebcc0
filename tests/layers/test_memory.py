"""CrossBatchMemory: a queue like the end of a list, in every mode of execution; checkpoints and errors."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers

MODES = {
    "eager": lambda function: function,
    "graph of unknown batch": lambda function: tf.function(
        function, input_signature=[tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 3))]
    ),
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def batch(rng, size):
    embeddings = rng.normal(size=(size, 3)).astype("float32")
    return rng.integers(0, 2**62, size), embeddings


def held(memory):
    """The valid samples, in the order in which they were added."""
    references = memory()
    valid = np.asarray(references.valid)
    order = np.roll(np.arange(memory.size), -int(memory.samples_seen) % memory.size)
    order = order[valid[order]]
    return np.asarray(references.embeddings)[order], np.asarray(references.labels)[order]


@pytest.mark.parametrize("mode", MODES)
def test_it_holds_the_last_samples(mode):
    rng = np.random.default_rng(0)
    memory = layers.CrossBatchMemory(5, 3)
    update = MODES[mode](memory.update)
    embeddings, labels = np.zeros((0, 3), "float32"), np.zeros(0, "int64")
    # Some batches fill the memory, some wrap around, and some are as large as the memory or larger.
    for size in (2, 2, 2, 5, 1, 7, 3, 12, 4):
        new_labels, new_embeddings = batch(rng, size)
        update(tf.constant(new_labels), tf.constant(new_embeddings))
        embeddings, labels = np.concatenate([embeddings, new_embeddings]), np.concatenate([labels, new_labels])
        kept = held(memory)
        np.testing.assert_array_equal(kept[0], embeddings[-5:])
        np.testing.assert_array_equal(kept[1], labels[-5:])
    assert int(memory.batches_seen) == 9


def test_xla_compiles_one_program_for_all_places():
    memory = layers.CrossBatchMemory(5, 3)
    update = tf.function(memory.update, jit_compile=True)
    arguments = [tf.constant(values) for values in batch(np.random.default_rng(0), 2)]
    programs = []
    for _ in range(2):
        program = update.experimental_get_compiler_ir(*arguments)(stage="hlo")
        programs.append(re.sub(r"inference_update_\d+", "", program.split("\n", 1)[1]))
        update(*arguments)
    assert programs[0] == programs[1]


def test_it_fills_during_the_warm_up_and_starts_full():
    rng = np.random.default_rng(0)
    memory = layers.CrossBatchMemory(4, 3, warmup_steps=3)
    for step in range(4):
        assert bool(tf.reduce_any(memory().valid)) == (step == 3)
        memory.update(*batch(rng, 2))
    assert memory().valid.numpy().tolist() == [True] * 4


def test_an_empty_memory_is_worth_nothing():
    from tfdml import losses

    memory = layers.CrossBatchMemory(4, 3)
    labels, embeddings = batch(np.random.default_rng(0), 6)
    with tf.GradientTape() as tape:
        variable = tf.Variable(embeddings)
        values = losses.get("c1").against(labels, variable, memory())
    np.testing.assert_array_equal(values, np.zeros(6))
    np.testing.assert_array_equal(tape.gradient(values, variable), np.zeros((6, 3)))


def test_no_gradient_passes_and_nothing_is_trained():
    memory = layers.CrossBatchMemory(4, 3)
    with tf.GradientTape() as tape:
        variable = tf.Variable(tf.ones((2, 3)))
        memory.update([0, 1], variable)
        value = tf.reduce_sum(memory().embeddings)
    assert float(value) == 6.0
    assert tape.gradient(value, variable) is None
    assert not memory.trainable_variables and len(memory.non_trainable_variables) == 4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_it_stores_float32_under_every_policy(policy, dtype_policy):
    dtype_policy(policy)
    memory = layers.CrossBatchMemory(4, 3)
    memory.update(tf.constant([0, 2**31 + 1], tf.int64), tf.ones((2, 3), policy[len("mixed_") :]))
    references = memory()
    assert references.embeddings.dtype == tf.float32
    assert references.labels.numpy()[:2].tolist() == [0, 2**31 + 1]


def test_round_trip():
    memory = layers.CrossBatchMemory(4, 3, warmup_steps=7, name="past")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(memory))
    assert again.get_config() == memory.get_config()
    assert (again.size, again.embedding_size, again.warmup_steps, again.name) == (4, 3, 7, "past")
    memory.update(*batch(np.random.default_rng(0), 6))
    again.set_weights(memory.get_weights())
    for values, others in zip(held(memory), held(again)):
        np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 0, "integer >= 1"),
        ("size", 2.5, "integer >= 1"),
        ("embedding_size", -1, ">= 1"),
        ("warmup_steps", -1, ">= 0"),
    ],
)
def test_bad_numbers(name, value, message):
    with pytest.raises(ValueError, match=f"Received: {name}={value}. Expected: an? .*{message}"):
        layers.CrossBatchMemory(**{"size": 4, "embedding_size": 3, name: value})


def test_labels_that_are_not_integers():
    memory = layers.CrossBatchMemory(4, 3)
    memory.update([[1.0], [0.0]], tf.ones((2, 3)))
    assert memory().labels.numpy()[:2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="Labels must be whole numbers. Received: 0.5"):
        memory.update([0.5, 1.0], tf.ones((2, 3)))


def test_a_batch_of_another_size():
    with pytest.raises(ValueError, match=r"Received: shape \(2, 4\). Expected: \(batch, 3\)"):
        layers.CrossBatchMemory(4, 3).update([0, 1], tf.ones((2, 4)))
