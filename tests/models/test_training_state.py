"""What a model keeps when it is compiled again or saved, and what compile refuses of optimizers and callbacks."""

import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import callbacks, layers, models
from tfdml._utils.variables import array_of
from tfdml.models.monitors import minimizes_retrieval
from tfdml.models.step_counter import StepCounter

IS_KERAS_3 = keras.__version__ >= "3"


def compiled(linear_embedder, kind=models.MetricModel, references=None, **options):
    model = kind(linear_embedder(), references)
    model.compile(**{"optimizer": keras.optimizers.Adam(0.05), "loss": "c2", "run_eagerly": True, **options})
    return model


def with_embedding(frozen_until):
    embedder = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="embedding")]
    )
    model = models.MetricModel(embedder)
    model.compile(keras.optimizers.SGD(0.1), "c2", warmup_steps=frozen_until, run_eagerly=True)
    return model


def test_steps_outlive_compiling_again(blobs, linear_embedder):
    model = compiled(linear_embedder)
    model.fit(*blobs, verbose=0)
    model.compile(keras.optimizers.SGD(0.01), "c2", run_eagerly=True)
    assert int(model.optimizer.iterations) == 0
    model.fit(*blobs, verbose=0)
    assert int(model.steps) == 6


def test_steps_are_counted_in_a_compiled_graph(blobs, linear_embedder):
    model = compiled(linear_embedder, run_eagerly=False, jit_compile=True)
    model.fit(*blobs, verbose=0)
    assert int(model.steps) == 3


def test_a_warm_up_does_not_begin_again(blobs):
    model = with_embedding(frozen_until=3)
    kernel = model.embedder.get_layer("hidden").kernel
    start = array_of(kernel).copy()
    model.fit(*blobs, verbose=0)
    np.testing.assert_array_equal(array_of(kernel), start)
    model.compile(keras.optimizers.SGD(0.1), "c2", warmup_steps=3, run_eagerly=True)
    model.train_on_batch(*blobs)
    assert np.abs(array_of(kernel) - start).max() > 0


def test_ccp_goes_on_when_compiled_again(blobs, linear_embedder):
    model = compiled(linear_embedder, models.CCPModel, layers.ClassProxies(4, 2, embedding_size=2))
    pool = tf.data.Dataset.from_tensor_slices(blobs).batch(32)
    projections = callbacks.AlternatingProjections(pool, 4, patience=20)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(array_of(model.proxies.proxies).copy())
    )

    def fit():
        options = dict(epochs=2, verbose=0, validation_data=blobs, callbacks=[projections, look])
        return model.fit(*blobs, **options).history

    fit()
    trained, best = array_of(model.proxies.proxies).copy(), float(model.best_value)
    model.compile(keras.optimizers.SGD(0.0), "c2", run_eagerly=True)
    assert fit()["projection_steps"] == [9, 12]
    np.testing.assert_array_equal(seen[2], trained)
    assert float(model.best_value) >= best


@pytest.mark.parametrize("form", ["keras", "weights.h5"])
def test_files_hold_the_steps(blobs, linear_embedder, tmp_path, form):
    model = compiled(linear_embedder)
    model.fit(*blobs, verbose=0)
    path = tmp_path / f"model.{form}"
    if form == "keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = compiled(linear_embedder)
        again.load_weights(path)
    assert int(again.steps) == 3


@pytest.mark.parametrize("projection", [0, 1])
def test_ccp_goes_on_from_a_file_of_an_earlier_version(blobs, linear_embedder, tmp_path, projection):
    """Such a file holds the problem but not the steps."""
    model = compiled(linear_embedder, models.CCPModel, layers.ClassProxies(4, 2, embedding_size=2))
    model.take_validation(0.25)
    if projection:
        model.steps.assign(12)
        model.begin_projection(array_of(model.proxies.proxies) + 1.0)
    model.save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        names = []
        file.visit(lambda name: names.append(name) if name.endswith("step_counter") else None)
        for name in names:
            del file[name]
    assert names
    again = compiled(linear_embedder, models.CCPModel, layers.ClassProxies(4, 2, embedding_size=2))
    again.load_weights(tmp_path / "model.weights.h5")
    assert int(again.steps) == 0
    proxies = array_of(model.proxies.proxies)
    again.compile(keras.optimizers.SGD(0.0), "c2", run_eagerly=True)
    pool = tf.data.Dataset.from_tensor_slices(blobs).batch(32)
    options = dict(verbose=0, validation_data=blobs, callbacks=[callbacks.AlternatingProjections(pool, 4, patience=20)])
    assert again.fit(*blobs, **options).history["projection_steps"] == [3]
    assert int(again.projection) == projection and int(again.steps) == 12 * projection + 3
    np.testing.assert_array_equal(array_of(again.proxies.proxies), proxies)


def test_a_file_without_steps_leaves_them():
    counter = StepCounter()
    counter.advance(2)
    counter.load_own_variables({})
    assert int(counter.steps) == 2


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": False}, {"steps_per_execution": 4}])
def test_options_of_compile_outlive_saving(linear_embedder, tmp_path, options):
    model = models.MetricModel(linear_embedder())
    model.compile("sgd", "c2", **options)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    (name,) = options
    assert again.get_compile_config()[name] == options[name]
    if name == "run_eagerly":
        assert again.run_eagerly


def test_one_optimizer_in_two_roles_is_refused(linear_embedder):
    shared = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="different objects.*same SGD as optimizer and reference_optimizer"):
        compiled(
            linear_embedder,
            references=layers.ClassProxies(4, embedding_size=2),
            optimizer=shared,
            reference_optimizer=shared,
        )


@pytest.mark.parametrize("which", ["optimizer", "reference_optimizer"])
def test_moving_averages_of_two_optimizers_are_refused(linear_embedder, which):
    optimizers = {"optimizer": keras.optimizers.Adam(0.1), "reference_optimizer": keras.optimizers.Adam(0.1)}
    optimizers[which] = keras.optimizers.Adam(0.1, use_ema=True)
    with pytest.raises(ValueError, match="use_ema=True with a reference_optimizer. Expected: use_ema=False"):
        compiled(linear_embedder, references=layers.ClassProxies(4, embedding_size=2), **optimizers)


def test_moving_averages_of_one_optimizer_reach_all_weights(blobs, linear_embedder):
    model = compiled(
        linear_embedder,
        references=layers.ClassProxies(4, embedding_size=2),
        optimizer=keras.optimizers.SGD(0.1, use_ema=True),
    )
    last = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: last.append([array_of(v) for v in model.trainable_variables])
    )
    model.fit(*blobs, verbose=0, callbacks=[note])
    assert len(model.trainable_variables) == 2
    for variable, value in zip(model.trainable_variables, last[-1]):
        assert np.abs(array_of(variable) - value).max() > 0


KERAS_CALLBACKS = {
    "early_stopping": lambda **mode: keras.callbacks.EarlyStopping("val_map_at_r", **mode),
    "plateau": lambda **mode: keras.callbacks.ReduceLROnPlateau("val_recall_at_1", **mode),
    "checkpoint": lambda **mode: keras.callbacks.ModelCheckpoint(
        "unused.weights.h5", "val_map_at_r", save_best_only=True, save_weights_only=True, **mode
    ),
}


@pytest.mark.parametrize("name", KERAS_CALLBACKS)
def test_a_callback_of_keras_that_would_minimize_retrieval(blobs, linear_embedder, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = compiled(linear_embedder)

    def fit(**mode):
        return model.fit(*blobs, epochs=2, verbose=0, validation_data=blobs, callbacks=[KERAS_CALLBACKS[name](**mode)])

    if IS_KERAS_3:
        with pytest.raises(ValueError, match="mode='max'"):
            fit()
    else:
        with pytest.warns(UserWarning, match="minimizes 'val_.*Pass mode='max'") as caught:
            fit()
        assert sum("minimizes" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(mode="max")
    assert not [warning for warning in caught if "minimizes" in str(warning.message)]


def test_a_callback_of_keras_that_monitors_another_recall():
    stopping = keras.callbacks.EarlyStopping("val_recall_at_16", mode="min")
    stopping.monitor_op = np.less  # As Keras 2 chooses it for what it does not know.
    assert minimizes_retrieval(stopping)
    stopping.monitor = "val_recall_at_least"
    assert not minimizes_retrieval(stopping)
