"""An interrupted and resumed training ends exactly like the uninterrupted one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning_loss import LearningLoss

from tfdml import callbacks, layers, models
from tfdml._utils.keras_compat import optimizer_variables, tensorflow_variable


class Interrupted(Exception):
    pass


class Interruption(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise Interrupted


def plain(embedder):
    model = models.CCPModel(embedder, layers.ClassProxies(4, 2, embedding_size=2), projection_weight=0.1)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="c2", run_eagerly=True)
    return model


def with_everything(embedder):
    hidden = keras.layers.Dense(8, kernel_initializer=keras.initializers.RandomNormal(0.0, 0.4, seed=1))
    outputs = keras.layers.Dense(2, name="embedding")(hidden(embedder.inputs[0]))
    references = [layers.ClassProxies(4, 2, embedding_size=2), layers.CrossBatchMemory(60, 2, warmup_steps=3)]
    model = models.CCPModel(keras.Model(embedder.inputs[0], outputs), references, projection_weight=0.1)
    model.compile(
        optimizer=keras.optimizers.Adam(0.5, global_clipnorm=1.0), loss=LearningLoss(), jit_compile=False,
        reference_optimizer=keras.optimizers.Adam(0.2, global_clipnorm=1.0), weight_decay=1e-3, warmup_steps=9,
    )  # fmt: skip
    return model


def run(blobs, linear_embedder, path, interrupt_at=None, epochs=8, build=plain, ccp=None):
    points, labels = blobs
    keras.utils.set_random_seed(0)
    model = build(linear_embedder())
    everything = tf.data.Dataset.from_tensor_slices((points, labels)).batch(24)
    pool = lambda draw: everything.shuffle(4, seed=draw)  # noqa: E731
    projections = callbacks.AlternatingProjections(pool, 6, patience=1, **(ccp or {}))
    stopping = callbacks.RetrievalEarlyStopping(patience=6)
    backup = callbacks.TrainingBackup(path, [projections, stopping])
    order = np.concatenate([np.random.default_rng(epoch).permutation(96) for epoch in range(epochs)])
    batches = tf.data.Dataset.from_tensor_slices((points[order], labels[order])).batch(24)
    logs = []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, values: logs.append((epoch, dict(values))))
    extra = [] if interrupt_at is None else [Interruption(interrupt_at)]
    try:
        model.fit(
            batches.skip(4 * backup.initial_epoch), steps_per_epoch=4, epochs=epochs, verbose=0,
            initial_epoch=backup.initial_epoch, validation_data=(points, labels),
            callbacks=[projections, stopping, log, *extra, backup],
        )  # fmt: skip
    except Interrupted:
        pass
    return model, logs, stopping


@pytest.mark.parametrize(
    ("build", "policy", "steps"),
    [
        (with_everything, "float32", (6,)),
        *(
            pytest.param(*case, marks=pytest.mark.integration)
            for case in [
                (plain, "float32", (2, 13, 21)),
                (with_everything, "float32", (2, 13, 21)),
                (with_everything, "mixed_float16", (2, 13, 21)),
            ]
        ),
    ],
)
def test_resume_equals_no_interruption(blobs, linear_embedder, tmp_path, build, policy, steps, dtype_policy):
    dtype_policy(policy)
    epochs = 5 if len(steps) == 1 else 8
    whole, whole_logs, whole_stopping = run(blobs, linear_embedder, tmp_path / "whole.npz", build=build, epochs=epochs)
    logs = {}
    for step in (*steps, None):
        model, new_logs, stopping = run(blobs, linear_embedder, tmp_path / "parts.npz", step, epochs, build)
        logs.update(new_logs)
    assert logs == dict(whole_logs)
    assert max(values["projection"] for values in logs.values()) >= 1
    assert (stopping.best, stopping.best_epoch) == (whole_stopping.best, whole_stopping.best_epoch)
    for ours, theirs in zip(model.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def remembering(embedder):
    references = layers.ClassProxies(4, 2, embedding_size=2)
    model = models.CCPModel(embedder, references, projection_weight=0.1, recent_size=24)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="c2", jit_compile=False)
    return model


@pytest.mark.integration
@pytest.mark.parametrize(
    ("restore", "refresh"),
    [
        ("best", "embed"), ("last", "partial"), ("best", "memory"), ("last", "memory"),
        # The other combinations of what these cover.
        pytest.param("best", "partial", marks=pytest.mark.slow), pytest.param("last", "embed", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_resume_within_a_problem_that_steps_end(blobs, linear_embedder, tmp_path, refresh, restore):
    """Problems of 7, 9, 10, … steps between validations every 4 steps, interrupted in the middle of problems."""
    ccp = {"max_steps": 7, "max_steps_growth": 1.2, "refresh": refresh, "restore": restore}
    options = {"build": remembering, "epochs": 10, "ccp": ccp}
    whole, whole_logs, _ = run(blobs, linear_embedder, tmp_path / "whole.npz", **options)
    logs = {}
    for step in (3, 10, 19, 33, None):
        model, new_logs, _ = run(blobs, linear_embedder, tmp_path / "parts.npz", step, **options)
        logs.update(new_logs)
    assert logs == dict(whole_logs)
    assert max(values["projection"] for values in logs.values()) >= 3
    # Some problems ended within an epoch.
    assert any(values["projection_steps"] % 4 for values in logs.values())
    for ours, theirs in zip(model.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["metric", "plain"])
def test_resume_outside_the_scope_of_the_strategy(kind, tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    def make():
        with strategy.scope():
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
            if kind == "metric":
                model = models.MetricModel(model)
            model.compile(keras.optimizers.Adam(), loss="c2" if kind == "metric" else "mse")
        return model

    begun, resumed = make(), make()
    backup = callbacks.TrainingBackup(tmp_path / "state.npz")
    backup.set_model(begun)
    backup.on_epoch_end(0)
    callbacks.TrainingBackup(tmp_path / "state.npz").set_model(resumed)
    for weight, expected in zip(resumed.get_weights(), begun.get_weights()):
        np.testing.assert_array_equal(weight, expected)
    # What the optimizer keeps lies on the devices of the strategy: two moments for each of two weights.
    variables = map(tensorflow_variable, optimizer_variables(resumed.optimizer))
    assert sum(isinstance(variable, tf.distribute.DistributedValues) for variable in variables) >= 4


def test_the_file_is_plain_arrays(blobs, linear_embedder, tmp_path):
    run(blobs, linear_embedder, tmp_path / "backup.npz", epochs=1)
    with np.load(tmp_path / "backup.npz", allow_pickle=False) as arrays:
        content = json.loads(str(arrays["content"]))
    assert content["epoch"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.npz"]


def test_any_name_and_the_home_folder(blobs, linear_embedder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(blobs, linear_embedder, "~/new/run [v2]*?/backup {1}.npz", epochs=1)
    assert (tmp_path / "new" / "run [v2]*?" / "backup {1}.npz").is_file()
    assert callbacks.TrainingBackup("~/new/run [v2]*?/backup {1}.npz").initial_epoch == 1


def test_no_backup(tmp_path):
    (tmp_path / "note.npz").write_text("hello")
    with pytest.raises(ValueError, match="not a training backup. Received: .*note.npz"):
        callbacks.TrainingBackup(tmp_path / "note.npz")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(ValueError, match="not a training backup. Received: .*other.npz"):
        callbacks.TrainingBackup(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x93NUMPY" + 60 * b"x", b"1", b"[]", b'{"layout": 2}',
     b'{"layout": 2, "epoch": 1, "variables": [{"__array__": "x"}], "callbacks": []}'],
)  # fmt: skip
def test_a_damaged_backup(content, tmp_path):
    path = tmp_path / "damaged.npz"
    if content[:1] in b"1[{" and content:
        np.savez(path, content=np.array(content.decode()))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="not a training backup. Received: .*damaged.npz.* Expected: .*Remove it"):
        callbacks.TrainingBackup(path)


def test_backup_of_other_callbacks(blobs, linear_embedder, tmp_path):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2", run_eagerly=True)
    stopping = callbacks.RetrievalEarlyStopping(2)
    model.fit(*blobs, verbose=0, callbacks=[callbacks.TrainingBackup(tmp_path / "backup.npz", [stopping])])
    with pytest.raises(ValueError, match="other callbacks. Received: 0 callbacks, and 1 in the file"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.TrainingBackup(tmp_path / "backup.npz")])


def test_backup_of_another_model(blobs, linear_embedder, tmp_path):
    run(blobs, linear_embedder, tmp_path / "backup.npz", epochs=1)
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2")
    with pytest.raises(ValueError, match="backup of another model"):
        model.fit(*blobs, verbose=0, callbacks=[callbacks.TrainingBackup(tmp_path / "backup.npz")])


def test_backup_of_an_earlier_version(blobs, linear_embedder, tmp_path):
    np.savez(tmp_path / "old.npz", content=np.array(json.dumps({"epoch": 1, "variables": [], "callbacks": []})))
    with pytest.raises(ValueError, match="old.npz was written by another version of tfdml.*Received: .*layout 1"):
        callbacks.TrainingBackup(tmp_path / "old.npz")
