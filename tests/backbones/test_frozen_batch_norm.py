import importlib

import keras
import numpy as np
import pytest

from tfdml import backbones, models
from tfdml.backbones.batch_normalization import FROZEN, BatchNormalization, Normalizer
from tfdml.models import training_step

STATISTICS = ("moving_mean", "moving_variance")
AFFINE = ("gamma", "beta")
TRAINED = {"none": AFFINE, "statistics": AFFINE, "all": ()}
CHANGED = {"none": (*AFFINE, *STATISTICS), "statistics": AFFINE, "all": ()}


def normalizations(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def parts(layer):
    return {name: getattr(layer, name) for name in (*AFFINE, *STATISTICS)}


def ids(variables):
    return {id(variable) for variable in variables}


def small(frozen):
    keras.utils.set_random_seed(0)
    normalize = Normalizer(0.9, frozen)
    images = keras.Input((6, 6, 1))
    features = keras.layers.Conv2D(4, 3, use_bias=False)(images)
    features = keras.layers.ReLU()(normalize(features, "first"))
    features = keras.layers.Conv2D(4, 3, use_bias=False)(features)
    return keras.Model(images, normalize(features, "second"))


def make_images():
    return np.random.default_rng(0).random((8, 6, 6, 1), np.float32)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [*((None, frozen) for frozen in FROZEN), ("resnet20", "all"), ("resnet20v2", "statistics")],
)
def test_exactly_these_variables_train(name, frozen, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tfdml.backbones.resnet20"), "BLOCKS_PER_STAGE", 1)
    backbone = backbones.get(name, (16, 16, 1), frozen_batch_norm=frozen) if name else small(frozen)
    expected = [layer.kernel for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in normalizations(backbone):
        expected += [parts(layer)[part] for part in TRAINED[frozen]]
    assert ids(backbone.trainable_variables) == ids(expected)
    assert len(backbone.trainable_variables) == len(expected)


@pytest.mark.parametrize("frozen", FROZEN)
def test_exactly_these_change_in_a_training_step(frozen):
    backbone = small(frozen)
    embedder = models.build_embedder(backbone, embedding_size=4)
    model = models.MetricModel(embedder)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="c2", weight_decay=1e-2, run_eagerly=True)
    layers = normalizations(backbone)
    before = [{part: np.array(v) for part, v in parts(layer).items()} for layer in layers]
    kernels = [np.array(v) for v in training_step.decayed_variables(embedder)]
    model.train_on_batch(make_images(), np.arange(8) // 2)
    for layer, old in zip(layers, before):
        changed = {part for part, v in parts(layer).items() if not np.array_equal(v, old[part])}
        assert changed == set(CHANGED[frozen]), layer.name
    assert all(
        not np.array_equal(v, old) for v, old in zip(training_step.decayed_variables(embedder), kernels)
    )


@pytest.mark.parametrize("frozen", FROZEN)
def test_weight_decay_leaves_batch_normalisation_alone(frozen):
    backbone = small(frozen)
    kernels = [layer.kernel for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert ids(training_step.decayed_variables(backbone)) == ids(kernels)


@pytest.mark.parametrize("frozen", FROZEN)
def test_training_uses_the_moving_statistics_only_if_frozen(frozen):
    backbone = small(frozen)
    images = make_images()
    at_inference = np.asarray(backbone(images, training=False))
    difference = np.abs(np.asarray(backbone(images, training=True)) - at_inference).max()
    assert difference > 0.01 if frozen == "none" else difference == 0


@pytest.mark.parametrize("frozen", FROZEN)
def test_settling_changes_what_is_not_frozen(frozen):
    backbone = small(frozen)
    before = backbone.get_weights()
    models.calibrate_batch_norm(backbone, make_images())
    same = [np.array_equal(one, other) for one, other in zip(before, backbone.get_weights())]
    assert all(same) == (frozen != "none")


@pytest.mark.parametrize("frozen", FROZEN)
def test_file_round_trip(frozen, tmp_path):
    backbone = small(frozen)
    backbone.set_weights([np.random.default_rng(0).uniform(0.1, 0.2, w.shape) for w in backbone.get_weights()])
    backbone.save(tmp_path / "backbone.keras")
    restored = keras.models.load_model(tmp_path / "backbone.keras", safe_mode=True)
    images = make_images()
    np.testing.assert_array_equal(restored(images, training=False), backbone(images, training=False))
    assert [layer.trainable for layer in normalizations(restored)] == [frozen != "all"] * 2
    assert {layer.frozen_statistics for layer in normalizations(restored)} == {frozen == "statistics"}
    if frozen != "none":
        np.testing.assert_array_equal(restored(images, training=True), backbone(images, training=False))


@pytest.mark.parametrize("name", ["bn_inception", "googlenet", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize(
    ("weights", "given", "expected"),
    [(None, None, "none"), ("some.npz", None, "statistics"), ("some.npz", "none", "none"), (None, "all", "all")],
)
def test_pretrained_statistics_are_frozen_by_default(name, weights, given, expected, monkeypatch):
    module = importlib.import_module(f"tfdml.backbones.{name.replace('lite0', 'lite')}")
    seen = []

    class Seen(Exception):
        pass

    def normalizer(momentum, frozen, epsilon=None):
        seen.append(frozen)
        raise Seen

    monkeypatch.setattr(module, "Normalizer", normalizer)
    with pytest.raises(Seen):
        backbones.get(name, (64, 64, 3), weights=weights, frozen_batch_norm=given)
    assert seen == [expected]


def test_layer_equals_its_formula():
    layer = BatchNormalization(frozen_statistics=True, epsilon=0.1)
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    layer.build(x.shape)
    scale, offset, mean, variance = np.random.default_rng(1).uniform(0.5, 2.0, (4, 4)).astype(np.float32)
    layer.set_weights([scale, offset, mean, variance])
    expected = (x - mean) / np.sqrt(variance + 0.1) * scale + offset
    for training in (True, False, None):
        np.testing.assert_allclose(layer(x, training=training), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", ["None", None, True, "gamma", ["all"]])
def test_another_word(frozen):
    with pytest.raises(ValueError, match=r"Expected: one of \('none', 'statistics', 'all'\)") as raised:
        Normalizer(0.9, frozen)
    assert f"Received: frozen_batch_norm={frozen!r}. Expected:" in str(raised.value)
