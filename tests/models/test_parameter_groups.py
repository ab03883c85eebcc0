"""Groups of layers with a learning rate of their own, against updates computed with separate optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import backbones, layers, models
from tfdml.models import ParameterGroup, freeze_batch_norm, freeze_layers, layer_decay_groups
from tfdml.models.parameter_groups import leaf_layers


def embedder():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((8,)), keras.layers.Dense(6, activation="tanh", name="block_1"),
        keras.layers.Dense(5, activation="tanh", name="block_2"),
        keras.layers.Dense(2, use_bias=False, name="embedding"),
    ])  # fmt: skip


def model_with(groups, optimizer, references=None, **options):
    model = models.MetricModel(embedder(), references)
    model.compile(optimizer, "c2", parameter_groups=groups, **options)
    return model


def values(model):
    return {weight.name.split("/")[-1] + str(i): np.array(weight) for i, weight in enumerate(model.trainable_weights)}


def gradients(model, points, labels):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.sample_losses(tf.constant(labels), model.embedder(points, training=True)))
    return tape.gradient(loss, model.trainable_variables)


OPTIMIZERS = {
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": lambda rate: keras.optimizers.Adam(rate),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_another_learning_rate(blobs, name):
    points, labels = blobs
    groups = [ParameterGroup("block_1", 0.1), ParameterGroup("block_*", 0.5)]
    model, plain = (model_with(given, OPTIMIZERS[name](0.01), run_eagerly=True) for given in (groups, None))
    # Three optimizers of Keras, one for each learning rate, in the place of the groups.
    separate = [OPTIMIZERS[name](0.01 * factor) for factor in (0.1, 0.5, 1.0)]
    for _ in range(4):
        found, variables = gradients(plain, points, labels), plain.trainable_variables
        for number, optimizer in enumerate(separate):
            part = slice(2 * number, 2 * number + 2)
            optimizer.apply_gradients(zip(found[part], variables[part]))
        model.train_on_batch(points, labels)
        for one, other in zip(model.trainable_variables, variables):
            np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_frozen_steps(blobs, jit_compile):
    groups = [ParameterGroup("block_1", 0.1, frozen_steps=3), ParameterGroup("block_2", frozen_steps=1)]
    model = model_with(groups, keras.optimizers.AdamW(0.01, weight_decay=0.1), jit_compile=jit_compile)
    history = [values(model)]
    for _ in range(4):
        model.train_on_batch(*blobs)
        history.append(values(model))
    moved = [
        [bool(np.abs(after[name] - before[name]).max() > 0) for name in before]
        for before, after in zip(history, history[1:])
    ]
    # Kernel and bias of both blocks, and the kernel of the embedding. What is frozen is not decayed, either.
    assert moved[0] == [False, False, False, False, True]
    assert moved[1] == moved[2] == [False, False, True, True, True]
    assert all(moved[3])


def test_proxies_and_other_layers_are_trained_as_before(blobs):
    start_of = keras.initializers.RandomNormal
    proxies = [layers.ClassProxies(4, 2, embedding_size=2, initializer=start_of(seed=1)) for _ in range(2)]
    grouped, plain = (
        model_with(groups, keras.optimizers.SGD(0.1), layer, run_eagerly=True)
        for groups, layer in zip([[ParameterGroup("block_1", 0.0)], None], proxies)
    )
    start = np.array(grouped.trainable_variables[0])
    for model in (grouped, plain):
        model.train_on_batch(*blobs)
    np.testing.assert_array_equal(grouped.trainable_variables[0], start)
    for one, other in zip(grouped.trainable_variables[2:], plain.trainable_variables[2:]):
        np.testing.assert_array_equal(one, other)


def test_a_multiplier_of_one_changes_no_bit(blobs):
    groups = [ParameterGroup("backbone", 1.0, frozen_steps=0)]
    one, other = (model_with(given, "adam", run_eagerly=True) for given in (groups, None))
    for model in (one, other):
        model.train_on_batch(*blobs)
    for mine, theirs in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


def test_paths_of_layers_inside_layers():
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(5, 1, name="conv")], name="trunk")
    inputs = keras.Input((4, 4, 3))
    outer = keras.Model(inputs, keras.layers.Dense(2, name="embedding")(keras.layers.Flatten()(inner(inputs))))
    with_weights = [path for path, layer in leaf_layers(outer).items() if layer.weights]
    assert with_weights == ["trunk/conv", "embedding"]
    for pattern in ("trunk", "trunk/*", "*/conv", "backbone"):
        assert freeze_layers(outer, pattern) == ["trunk/conv"]
    assert len(outer.trainable_variables) == 2


def test_layers_of_class_and_patch_tokens_are_not_of_the_backbone():
    images = keras.Input((4, 4, 3))
    tokens = keras.layers.Dense(5, name="block")(keras.layers.Reshape((16, 3))(images))
    model = models.build_embedder(keras.Model(images, tokens), "cls+gap", 4, skip_tokens=1)
    assert freeze_layers(model) == ["block"]
    assert {weight.shape[-1] for weight in model.trainable_variables} == {2}


def test_freezing_until_a_layer():
    model = embedder()
    assert freeze_layers(model, "block_2", until=True) == ["block_1", "block_2"]
    assert [weight.shape[-1] for weight in model.trainable_variables] == [2]
    grouped = models.MetricModel(model)
    # What is frozen for good has no place in a group, which is no error.
    grouped.compile("adam", parameter_groups=[ParameterGroup("backbone", 0.1)])


def test_freezing_batch_normalization():
    backbone = backbones.get("resnet20", (16, 16, 3))
    model = models.build_embedder(backbone, embedding_size=4)
    images = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
    assert np.abs(np.asarray(model(images, training=True) - model(images))).max() > 1e-4
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert freeze_batch_norm(model) == len(normalizations) > 0
    np.testing.assert_array_equal(model(images, training=True), model(images))
    assert not any(layer.trainable_variables for layer in normalizations)


def test_layer_decay():
    model = embedder()
    groups = layer_decay_groups(model, 0.5, blocks=2)
    assert groups == [ParameterGroup("block_1", 0.25), ParameterGroup("block_2", 0.5)]
    assert layer_decay_groups(model, 0.5) == groups
    (one,) = layer_decay_groups(model, 0.5, blocks=1)
    assert one == ParameterGroup(["block_1", "block_2"], 0.5)
    resnet = models.build_embedder("resnet20", input_shape=(16, 16, 3))
    multipliers = [group.learning_rate_multiplier for group in layer_decay_groups(resnet, 0.9)]
    np.testing.assert_allclose(multipliers, 0.9 ** np.arange(12, 0, -1))
    models.MetricModel(resnet).compile("sgd", parameter_groups=layer_decay_groups(resnet, 0.9))


def test_groups_are_saved(blobs, tmp_path):
    groups = [ParameterGroup("block_1", 0.1, frozen_steps=3)]
    model = model_with(groups, "adam")
    model.train_on_batch(*blobs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.parameter_groups == tuple(groups)
    start = np.array(loaded.embedder.get_layer("block_1").kernel)
    for number in range(3):
        np.testing.assert_array_equal(loaded.embedder.get_layer("block_1").kernel, start)
        loaded.train_on_batch(*blobs)
        assert int(loaded.steps) == number + 2
    assert np.abs(np.asarray(loaded.embedder.get_layer("block_1").kernel) - start).max() > 0


def test_bad_groups():
    for arguments, message in [
        (([],), "A parameter group has no layers"), (("x", -1.0), "learning_rate_multiplier"),
        (("x", 1.0, -1), "frozen_steps"), (("x", 1.0, 1.5), "frozen_steps"), (([""],), "no layers"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ParameterGroup(*arguments)
    with pytest.raises(ValueError, match=r"No layer matches the pattern. Received: 'blok.*: block_1, block_2"):
        model_with([ParameterGroup("blok*")], "adam")
    with pytest.raises(ValueError, match="No layer matches the pattern"):
        freeze_layers(embedder(), "conv*")
    with pytest.raises(TypeError, match="parameter_groups is not a list of groups. Received: 'block_1'"):
        model_with(["block_1"], "adam")
    with pytest.raises(ValueError, match="use_ema=True with parameter_groups"):
        model_with([ParameterGroup("block_1", 0.1)], keras.optimizers.Adam(use_ema=True))
    for options in ({"decay": 0.0}, {"decay": 1.5}, {"blocks": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            layer_decay_groups(embedder(), **options)
