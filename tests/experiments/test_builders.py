"""Objects built from recipes and presets: references, loss and miner, optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_steps import what_a_step_does

from tfdml import data, layers, losses, miners
from tfdml._utils.typed_values import to_mapping
from tfdml.experiments import (
    InputError,
    RecipeError,
    RunFolderError,
    builders,
    load_preset,
    load_recipe,
    preset_names,
    recipe_names,
    runner,
    train,
)
from tfdml.experiments.builders import dry_build, make_embedder, make_loss, make_model, make_optimizer, make_pooling
from tfdml.experiments.recipe_files import merge
from tfdml.experiments.run_folder import RunFolder
from tfdml.models import ParameterGroup, layer_decay_groups


def images(classes=40, of_each=3):
    labels = np.repeat(np.arange(classes), of_each)
    return data.LabeledImages(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, [str(n) for n in range(classes)])


def embedder(size, attributes=False):
    if not attributes:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(size, name="embedding")])
    inputs = keras.Input((4,))
    features = keras.layers.Reshape((2, size))(keras.layers.Dense(2 * size, name="embedding")(inputs))
    pooling = layers.GeneralizedSumPooling(3, return_attributes=True, name="pooling")
    return keras.Model(inputs, pooling(features)[0])


def model_of(recipe="gap", presets=(), **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = load_recipe(recipe, {"model.embedding_size": 8, **changes}, presets)
    return make_model(recipe, embedder(8), images())


def with_preset(name):
    return load_recipe("gap", {"model.embedding_size": 8, "references.memory_warmup": 0}, [name])


# Several datasets share their values.
DIFFERENT_PRESETS = sorted({str(load_preset(name)): name for name in preset_names()}.values())


def of_every_way_to_train():
    """One preset per way to train: presets that differ only in numbers have the same training step."""
    gap = to_mapping(load_recipe("gap"))
    return sorted({what_a_step_does(merge(gap, load_preset(name))): name for name in DIFFERENT_PRESETS}.values())


def test_every_preset_makes_loss_and_optimizer():
    for name in DIFFERENT_PRESETS:
        recipe = with_preset(name)
        make_loss(recipe), make_optimizer(recipe, steps_per_epoch=10)


@pytest.mark.parametrize("name", of_every_way_to_train())
def test_every_preset_trains(name):
    keras.utils.set_random_seed(0)
    recipe = with_preset(name)
    model = make_model(recipe, embedder(8, recipe.zero_shot.enabled), images())
    model.run_eagerly = True
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.permutation(40)[:4], recipe.batches.samples_per_class)
    start = np.array(model.embedder.get_layer("embedding").kernel)
    for _ in range(2):
        batch = tf.constant(rng.normal(size=(len(labels), 4)), tf.float32), tf.constant(labels)
        assert np.isfinite(float(model.train_step(batch)["loss"]))
    assert np.abs(np.array(model.embedder.get_layer("embedding").kernel) - start).max() > 0


def test_presets_say_what_the_thesis_says():
    recipe = load_recipe("default", presets=["thesis/training", "thesis/proxy-anchor"])
    assert (recipe.batches.classes, recipe.batches.samples_per_class) == (32, 1)
    assert recipe.optimizer.learning_rate == 1e-5 and recipe.optimizer.beta_2 == 0.99
    assert recipe.optimizer.l2_weight_decay == 1e-4 and recipe.optimizer.global_clipnorm == 10
    assert recipe.optimizer.proxy_learning_rate_multiplier == 100 and recipe.optimizer.warmup_epochs == 1
    assert not recipe.ccp.enabled and recipe.references.per_class == 1
    recipe = load_recipe("gap", presets=["thesis/training", "thesis/c2-cars196", "thesis/ccp-cars196"])
    assert recipe.loss.options == {"positive_margin": 0.2652, "negative_margin": 0.5409}
    assert recipe.ccp.enabled and recipe.references.per_class == 8 and recipe.model.normalization == "clip"
    recipe = load_recipe("gap", presets=["thesis/training", "thesis/proxy-anchor", "thesis/gsp-proxy-large"])
    gsp = recipe.model.gsp
    assert recipe.model.pooling == "gsp" and (gsp.prototypes, gsp.ratio, gsp.smoothing) == (128, 0.3, 0.5)
    assert recipe.zero_shot.enabled and recipe.zero_shot.weight == 0.1 and recipe.model.embedding_size == 128


OF_CONSTRUCTORS = [
    ("gap", {"loss.name": "info_nce", "loss.options.temperature": 0.0}, "loss.options.temperature: ", ""),
    ("gap", {"loss.options.negative_margin": "x"}, "Loss 'c2' cannot be made from these options", ""),
    ("gap", {"loss.name": "c3"}, "Unknown loss. Received: 'c3'", ""),
    ("gap", {"loss.miner.name": "hard", "loss.miner.options.distance": "l9"}, "loss.miner.options.distance: ", ""),
    ("gap", {"augmentation.rotation": 200.0}, "augmentation.rotation: ", "Received: rotation=200.0"),
    ("gsp", {"model.gsp.ratio": 1.5}, "model.gsp.ratio: ", "Received: ratio=1.5"),
    ("gap", {"model.pooling": "generalized_mean", "model.pooling_options.power": 0.0}, "model.pooling_options.p", ""),
    ("gap-ccp", {"references.per_class": 0}, "references.per_class: ", "Received: per_class=0"),
    ("xbm", {"references.memory_size": 0}, "references.memory_size: ", "Received: size=0"),
    ("xbm", {"references.memory_warmup": -1}, "references.memory_warmup: ", "Received: warmup_steps=-1"),
    ("gsp", {"cross_batch.enabled": True, "cross_batch.ridge": 0.0}, "cross_batch.ridge: ", "Received: ridge=0.0"),
    ("gsp", {"model.gsp.kernel_size": 2}, "model.gsp.kernel_size: ", "The kernel is even"),
    ("gsp", {"zero_shot.enabled": True, "zero_shot.embedding_size": 0}, "zero_shot.embedding_size: ", ""),
    ("gsp", {"zero_shot.enabled": True, "zero_shot.ridge": 0.0}, "zero_shot.ridge: ", "Received: ridge=0.0"),
    ("gsp", {"zero_shot.enabled": True, "zero_shot.temperature": -1.0}, "zero_shot.temperature: ", ""),
    ("features", {"model.head.hidden": [8, 0]}, "model.head.hidden: ", "Received: hidden=0"),
    ("features", {"model.head.dropout": 1.0}, "model.head.dropout: ", "Received: rate=1.0"),
    ("features", {"model.head.input_size": 0}, "model.head.input_size: ", "Received: input_size=0"),
]


@pytest.mark.parametrize(("name", "changes", "start", "received"), OF_CONSTRUCTORS)
def test_constructors_check_the_recipe_before_data_are_loaded(name, changes, start, received):
    with pytest.raises(RecipeError) as error:
        dry_build(load_recipe(name, changes))
    assert str(error.value).startswith(start) and received in str(error.value)


def test_a_run_calls_the_constructors_before_data_are_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(builders, "load_data", lambda recipe: pytest.fail("The data are loaded."))
    with pytest.raises(RecipeError, match="^references.per_class: .*Received: per_class=0"):
        train(load_recipe("gap-ccp", {"references.per_class": 0}), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_dry_build_of_recipes_that_are_right():
    for name in recipe_names(tables=False):
        dry_build(load_recipe(name))


def test_references():
    assert model_of("gap").references == ()
    (proxies,) = model_of("gap", references__name="proxies", references__per_class=3).references
    assert (proxies.num_classes, proxies.per_class, proxies.embedding_size) == (40, 3, 8)
    model = model_of("xbm", references__memory_size=33, references__memory_warmup=5)
    (memory,) = model.references
    assert (memory.size, memory.embedding_size, memory.warmup_steps, model.in_batch_weight) == (33, 8, 5, 1)
    # Two epochs of 40 classes with 4 images each.
    assert model_of("xbm").references[0].size == 320
    model = model_of("xbm", references__name="proxies_and_memory", references__in_batch_weight=0.5)
    assert [type(layer) for layer in model.references] == [layers.ClassProxies, layers.CrossBatchMemory]
    assert model.in_batch_weight == 0.5
    model = model_of("default", references__name="proxies_and_memory")
    assert model.proxies is not None and model.in_batch_weight == 1.0


@pytest.mark.parametrize(
    ("of_ccp", "of_references", "weight"), [(None, None, 0), (None, 0.3, 0.3), (0.2, 0.3, 0.2), (0.0, 0.3, 0)]
)
def test_the_weight_inside_the_batch_under_ccp(of_ccp, of_references, weight):
    changes = {"ccp__in_batch_weight": of_ccp, "references__in_batch_weight": of_references}
    assert model_of("default", **changes).in_batch_weight == weight


def test_optimizers():
    model = model_of("gap", optimizer__l2_weight_decay=1e-3, optimizer__warmup_epochs=1.5)
    assert model.reference_optimizer is None and model.weight_decay == 1e-3
    # 120 images in batches of 32 are 3.75 steps.
    assert model.warmup_steps == 6
    model = model_of(
        "gap", references__name="proxies", optimizer__proxy_learning_rate_multiplier=100.0,
        optimizer__learning_rate=1e-4, optimizer__decay_epochs=2.0, optimizer__decay_factor=0.5, optimizer__beta_2=0.9,
    )  # fmt: skip
    for optimizer, rate in ((model.optimizer, 1e-4), (model.reference_optimizer, 1e-2)):
        schedule = optimizer.get_config()["learning_rate"]["config"]
        assert (schedule["decay_steps"], schedule["decay_rate"], schedule["staircase"]) == (8, 0.5, True)
        assert schedule["initial_learning_rate"] == pytest.approx(rate)
        assert optimizer.beta_2 == 0.9 and optimizer.global_clipnorm == 10
    assert model_of("gap", ["psomas/margin"]).reference_optimizer is not None
    with pytest.raises(RecipeError, match="multiplier=100 with references.name='batch'"):
        model_of("gap", optimizer__proxy_learning_rate_multiplier=100.0)


def test_loss_and_miner():
    loss = make_loss(load_recipe("gap", {"loss.miner.name": "hard", "loss.miner.options.distance": "cosine"}))
    assert isinstance(loss.miner, miners.HardMiner) and loss.miner.distance == "cosine"
    assert isinstance(loss, losses.ContrastiveLoss)
    assert make_loss(load_recipe("gap")).miner is None
    for changes, message in (
        ({"loss.miner.name": "hart"}, "Did you mean 'hard'?"),
        ({"loss.miner.name": "hard", "loss.miner.options.distanc": 1}, "does not take these options"),
        ({"loss.miner.name": "hard", "loss.name": "addons.TripletHardLoss"}, "This loss takes no miner"),
        ({"loss.miner.name": "hard", "loss.options.miner": "hard"}, "This loss takes no miner"),
        ({"loss.miner.options.distance": "cosine"}, "Options of a miner need its name"),
    ):
        with pytest.raises(ValueError) as error:
            make_loss(load_recipe("gap", changes))
        assert message in str(error.value)


@pytest.mark.parametrize("name", ["in_batch_negatives", "pair_contrastive"])
def test_losses_of_given_pairs_are_refused(name):
    with pytest.raises(RecipeError, match=f"needs given pairs.*loss.name='{name}'"):
        make_loss(load_recipe("gap", {"loss.name": name}))


def test_poolings():
    gsp = make_pooling(load_recipe("gsp", {"model.gsp.prototypes": 7, "model.gsp.ratio": 0.25}))
    assert type(gsp) is layers.GeneralizedSumPooling
    assert (gsp.prototypes, gsp.ratio, gsp.return_attributes) == (7, 0.25, False)
    changes = {"model.pooling": "gsp_gem", "model.gsp.project": True, "model.embed_before_pooling": False,
               "model.gsp.kernel_size": 3, "model.embedding_size": 9}  # fmt: skip
    gem = make_pooling(load_recipe("gsp", changes))
    assert isinstance(gem, layers.pooling.GeneralizedSumMeanPooling) and (gem.channels, gem.kernel_size) == (9, 3)
    assert type(make_pooling(load_recipe("gap"))).__name__ == "GlobalAveragePooling"
    changes = {"model.pooling": "generalized_mean", "model.pooling_options": {"power": 4.0}}
    mean = make_pooling(load_recipe("gap", changes))
    assert (mean.power, mean.name) == (4.0, "pooling")
    with pytest.raises(InputError, match="powr"):
        make_pooling(load_recipe("gap", {**changes, "model.pooling_options": {"powr": 4.0}}))


def tokens(input_shape):
    """Backbone that outputs a class token and nine patch tokens."""
    images = keras.Input(input_shape)
    features = keras.layers.Conv2D(4, 4, strides=4)(images)
    patches = keras.layers.Reshape((9, 4))(features)
    mean = keras.layers.Reshape((1, 4))(keras.layers.GlobalAveragePooling2D()(features))
    return keras.Model(images, keras.layers.Concatenate(axis=1)([mean, patches]))


@pytest.mark.parametrize("pooling", ["cls", "gap", "cls+gsp", "cls+gap"])
def test_a_backbone_that_gives_tokens(pooling, registries):
    registries["backbones"].register("tokens", tokens)
    recipe = load_recipe(
        "gap",
        {"model.backbone": "tokens", "model.pooling": pooling, "model.skip_tokens": 1, "model.embedding_size": 6,
         "data.size": 12, "data.channels": 1, "zero_shot.enabled": pooling == "cls+gap"},
    )  # fmt: skip
    dry_build(recipe)
    embedder = make_embedder(recipe, data.Preprocessing((12, 12), 1))
    assert embedder.output_shape == (None, 6)
    assert recipe.model.has_gsp == (pooling == "cls+gsp")
    kind = {"cls": "ClassToken", "gap": "GlobalAveragePooling"}.get(pooling, "GeneralizedSumPooling")
    assert type(embedder.get_layer("pooling")).__name__ == kind


def test_backbones_of_other_libraries():
    name = "keras.applications.MobileNetV3Small"
    recipe = load_recipe("gap", {"model.backbone": name, "data.size": 32, "data.channels": 3})
    embedder = make_embedder(recipe, data.Preprocessing((32, 32), 3))
    assert embedder.input_shape == (None, 32, 32, 3) and not recipe.model.is_pretrained
    preset = load_recipe("gap", {"model.backbone": "keras_hub:dinov2_small", "model.pooling": "cls"})
    assert preset.model.is_pretrained
    with pytest.raises(RecipeError, match="Did you mean 'keras.applications.MobileNetV3Small'"):
        load_recipe("gap", {"model.backbone": "keras.applications.MobileNetV3Smal"})
    for pooling in ("cls+", "cls+median", "clsgap"):
        with pytest.raises(RecipeError, match="Unknown pooling"):
            load_recipe("gap", {"model.pooling": pooling})
    with pytest.raises(RecipeError, match="This pooling has no attributes"):
        load_recipe("gap", {"model.pooling": "cls", "zero_shot.enabled": True})


@pytest.mark.parametrize(("pooling", "ratio"), [("gsp", 0.3), ("gsp_gmp", 0.3), ("gap", 1.0)])
def test_a_zero_shot_loss_makes_the_pooling_give_attributes(pooling, ratio):
    changes = {"model.pooling": pooling, "zero_shot.enabled": True, "model.gsp.prototypes": 5, "model.gsp.ratio": 0.3}
    layer = make_pooling(load_recipe("gap", changes))
    assert (layer.return_attributes, layer.ratio, layer.prototypes) == (True, ratio, 5)
    assert isinstance(layer, layers.pooling.GeneralizedSumMaxPooling) == (pooling == "gsp_gmp")


def test_the_zero_shot_section():
    values = {"enabled": True, "weight": 0.25, "ridge": 0.5, "temperature": 0.2}
    changes = {f"zero_shot.{key}": value for key, value in values.items()}
    inputs = keras.Input((3, 3, 4))
    pooled = layers.GeneralizedSumPooling(3, return_attributes=True, name="pooling")(inputs)[0]
    for dim in (None, 6):
        recipe = load_recipe("gap", {**changes, "zero_shot.embedding_size": dim})
        model = make_model(recipe, keras.Model(inputs, pooled), images())
        zero_shot = model.zero_shot
        assert (zero_shot.num_classes, zero_shot.embedding_size) == (40, dim or 4)
        assert (model.zero_shot_weight, zero_shot.ridge, zero_shot.temperature) == (0.25, 0.5, 0.2)
    recipe = load_recipe("gap", {**changes, "zero_shot.regressor": "trained", "model.gsp.prototypes": 3})
    zero_shot = make_model(recipe, keras.Model(inputs, pooled), images()).zero_shot
    assert isinstance(zero_shot, layers.AttributeRegression)
    assert (zero_shot.num_classes, zero_shot.num_attributes, zero_shot.temperature) == (40, 3, 0.2)


def test_the_cross_batch_section():
    changes = {"cross_batch.enabled": True, "cross_batch.weight": 0.25, "cross_batch.ridge": 0.5}
    recipe = load_recipe("gap", changes)
    pooling = make_pooling(recipe)
    assert pooling.return_attributes and pooling.ratio == 1.0 and recipe.has_prototypes
    inputs = keras.Input((3, 3, 4))
    pooled = layers.GeneralizedSumPooling(3, return_attributes=True, name="pooling")(inputs)[0]
    model = make_model(recipe, keras.Model(inputs, pooled), images())
    assert (model.cross_batch_weight, model.cross_batch.ridge, model.zero_shot) == (0.25, 0.5, None)
    assert make_model(load_recipe("gap"), keras.Model(inputs, pooled), images()).cross_batch is None


def test_schedules_over_all_training_steps():
    changes = {"training.steps_per_validation": 10, "training.max_validations": 5, "optimizer.learning_rate": 0.1}

    def rates(name, warmup):
        recipe = load_recipe("gap", {**changes, "optimizer.schedule": name, "optimizer.schedule_warmup_steps": warmup})
        schedule = make_optimizer(recipe, steps_per_epoch=7)._learning_rate
        return [float(schedule(step)) for step in range(51)]

    steps = np.arange(51)
    for warmup in (0, 10):
        rise = np.minimum(1.0, steps / warmup) if warmup else 1.0
        share = np.maximum(0.0, steps - warmup) / (50 - warmup)
        np.testing.assert_allclose(rates("cosine", warmup), 0.05 * rise * (1 + np.cos(np.pi * share)), atol=1e-7)
        np.testing.assert_allclose(rates("linear", warmup), 0.1 * rise * (1 - share), atol=1e-7)


_PROXIES = {"references.name": "proxies", "ccp.enabled": False}


def test_mixing_of_a_recipe():
    small = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, name="embedding")])
    assert make_model(load_recipe("gap"), small, images()).mixing is None
    recipe = load_recipe("gap", {**_PROXIES, "mixing.name": "mixup", "mixing.probability": 0.5, "seed": 3})
    assert repr(make_model(recipe, small, images()).mixing) == "Mixup(alpha=0.2, probability=0.5, seed=3)"
    in_ccp = {"references.name": "proxies", "ccp.enabled": True, "ccp.in_batch_weight": 0.0}
    recipe = load_recipe("gap", {**in_ccp, "mixing.name": "cutmix"})
    assert repr(make_model(recipe, small, images()).mixing) == "CutMix(alpha=1.0, probability=1.0, seed=0)"
    assert builders.make_mixing(load_recipe("gap", {**_PROXIES, "mixing": {"name": "mixup", "alpha": 2}})).alpha == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references.name": "batch"}, "mixing.name='mixup' with references.name='batch'. Expected: references.name="),
        ({"references.name": "proxies_and_memory"}, "references.name='proxies_and_memory'"),
        ({"references.in_batch_weight": 0.1}, "references.in_batch_weight=0.1"),
        ({"ccp.enabled": True, "ccp.in_batch_weight": 0.1}, "ccp.in_batch_weight=0.1"),
        ({"zero_shot.enabled": True}, "zero_shot.enabled=true"),
        ({"ccp.enabled": True, "ccp.in_batch_weight": 0.0, "ccp.refresh": "memory"}, "ccp.refresh='memory'"),
        ({"mixing.alpha": 0.0}, "mixing.alpha"),
        ({"mixing.probability": 1.5}, "mixing.probability"),
    ],
)
def test_mixing_needs_proxies_alone(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("gap", {**_PROXIES, "mixing.name": "mixup", **changes})


def test_gradient_checkpointing_of_a_recipe():
    recipe = load_recipe("gap", {"training.gradient_checkpointing": True})
    layers_in_a_row = [keras.layers.Dense(4, activation="relu") for _ in range(8)]
    deep = keras.Sequential([keras.Input((4,)), *layers_in_a_row, keras.layers.Dense(2, name="embedding")])
    assert make_model(recipe, deep, images()).gradient_checkpointing
    normalized = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    with pytest.raises(RecipeError, match="^training.gradient_checkpointing: .*updated twice"):
        make_model(recipe, normalized, images())
    with pytest.raises(RecipeError, match="training.gradient_checkpointing=true with zero_shot.enabled=true"):
        load_recipe("gap", {"training.gradient_checkpointing": True, "zero_shot.enabled": True})


def test_features_are_not_cut():
    with pytest.raises(RecipeError, match="mixing.name='cutmix' with data.name='features'"):
        load_recipe("features", {**_PROXIES, "zero_shot.enabled": False, "mixing.name": "cutmix"})


def test_parameter_groups_and_frozen_layers():
    small = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(3, name="block_1"), keras.layers.Dense(3, name="block_2"),
        keras.layers.Dense(2, name="embedding"),
    ])  # fmt: skip
    model = make_model(load_recipe("gap", {"optimizer.backbone_learning_rate_multiplier": 0.1}), small, images())
    assert model.parameter_groups == (ParameterGroup("backbone", 0.1),)
    model = make_model(load_recipe("gap", {"optimizer.layer_decay": 0.5}), small, images())
    assert model.parameter_groups == tuple(layer_decay_groups(small, 0.5))
    assert make_model(load_recipe("gap"), small, images()).parameter_groups == ()


def of_head(**changes):
    options = {
        "data.name": "features", "data.size": None, "data.channels": None, "model.pooling": "gap",
        "model.head.input_size": 4, "model.head.hidden": [3, 3], "model.head.batch_normalization": True,
        **{f"augmentation.{name}": 0.0 for name in ("rotation", "scale", "translation")},
    }  # fmt: skip
    return load_recipe("gap", {**options, **changes})


def test_frozen_layers_are_those_of_the_embedder():
    plain = make_embedder(of_head(), None)
    names = [layer.name for layer in plain.layers if layer.weights]
    recipe = of_head(**{"model.frozen_layers": names[:3]})
    frozen = make_embedder(recipe, None)
    weighted = [layer for layer in frozen.layers if layer.weights]
    assert [layer.trainable for layer in weighted] == [False] * 3 + [True] * (len(names) - 3)
    model = make_model(recipe, frozen, images())
    assert len(model.trainable_variables) == sum(len(layer.trainable_weights) for layer in weighted[3:])
    # A network of a run is restored with the same frozen layers, and so with its weights in the same order.
    restored = builders.restore_embedder(recipe, frozen.get_weights())
    for one, other in zip(weighted, [layer for layer in restored.layers if layer.weights]):
        assert one.trainable == other.trainable
        for first, second in zip(one.weights, other.weights):
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    with pytest.raises(RecipeError, match="model.frozen_layers: No layer matches the pattern. Received: 'conv"):
        make_embedder(of_head(**{"model.frozen_layers": ["conv*"]}), None)


def test_small_classes_that_are_skipped_have_no_proxies(tmp_path, caplog):
    labels = np.repeat(np.arange(12), [3, 1, 4, 3, 2, 3, 1, 3, 3, 3, 3, 3])
    np.save(tmp_path / "features.npy", np.random.default_rng(0).random((len(labels), 4)).astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    changes = {"data.options.path": str(tmp_path), "data.split_seed": None, "batches.classes": 2}
    recipe = of_head(**changes, **{"batches.small_classes": "skip", "references.name": "proxies"})
    datasets = builders.load_data(recipe)
    assert datasets.train.class_counts.tolist() == [3, 4, 3, 2] + [3] * (datasets.train.num_classes - 4)
    assert "1 of 6 classes with fewer than two images are left out: '1' (1)" in caplog.text
    model = make_model(recipe, make_embedder(recipe, None), datasets.train)
    assert model.proxies.num_classes == datasets.train.num_classes
    # Without it, the class keeps its label.
    assert builders.load_data(of_head(**changes)).train.num_classes == datasets.train.num_classes + 1
    np.save(tmp_path / "labels.npy", np.arange(len(labels)))
    with pytest.raises(InputError, match="No class has two images"):
        builders.load_data(recipe)


def test_frozen_layers_have_the_batch_statistics_of_the_data():
    labels = np.repeat(np.arange(8), 4)
    features = np.random.default_rng(0).normal(5.0, 2.0, (32, 4)).astype(np.float32)
    train = data.LabeledFeatures(features, labels, list("abcdefgh"))
    datasets = builders.ExperimentData(train, train, train, None)
    embedders = []
    for changes in ({}, {"model.frozen_layers": ["*"]}):
        keras.utils.set_random_seed(0)
        recipe = of_head(**changes)
        embedders.append(make_embedder(recipe, None))
        builders.start_embedder(recipe, embedders[-1], datasets)
    assert not embedders[1].trainable_weights
    for one, other in zip(*(embedder.layers for embedder in embedders)):
        for first, second in zip(one.weights, other.weights):
            np.testing.assert_allclose(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.schedule": "cosine", "optimizer.decay_epochs": 3.0}, "The learning rate decays in one way"),
        ({"optimizer.schedule_warmup_steps": 5}, "schedule_warmup_steps=5 with optimizer.schedule='constant'"),
        ({"optimizer.schedule": "linear", "optimizer.schedule_warmup_steps": 100, "training.max_validations": 1},
         "less than the 50 training steps"),
        ({"optimizer.layer_decay": 0.9, "optimizer.backbone_learning_rate_multiplier": 0.1}, "one of the two"),
        ({"optimizer.layer_decay": 0.0}, "layer_decay"),
    ],
)  # fmt: skip
def test_fine_tuning_that_does_not_fit(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("gap", changes)


def test_a_scheduled_run_is_not_prolonged(tmp_path):
    recipe = load_recipe("gap", {"optimizer.schedule": "cosine", "training.max_validations": 4})
    with pytest.raises(RunFolderError, match="max_validations=5 with optimizer.schedule='cosine'. Expected: 4"):
        runner._prolong(RunFolder(tmp_path), recipe, 5)


def test_colors_of_a_recipe():
    still = {f"augmentation.{key}": 0.0 for key in ("rotation", "scale", "shear", "translation")}
    assert builders.make_augmentation(load_recipe("gap", still)) is None
    changes = {**still, "augmentation.brightness": 0.2, "augmentation.erasing": 0.5}
    assert builders.make_augmentation(load_recipe("gap", changes)) == data.Augmentation(brightness=0.2, erasing=0.5)
    assert builders.make_augmentation(load_recipe("gap", {**still, "augmentation.randaugment_magnitude": 0.9})) is None
    changes = {**still, "augmentation.randaugment_operations": 2}
    assert builders.make_augmentation(load_recipe("gap", changes)) == data.Augmentation(randaugment_operations=2)
    with pytest.raises(RecipeError, match="augmentation.randaugment_operations: .*Received: randaugment_operations=20"):
        builders.dry_build(load_recipe("gap", {**still, "augmentation.randaugment_operations": 20}))


def test_batches_of_a_long_tail(registries):
    labels = np.array([0, 0, 1, 2, 2, 3, 3, 4])
    train = data.LabeledImages(np.zeros((8, 8, 8, 1), np.uint8), labels, list("abcde"), superclasses=[0, 1, 0, 1, 1])
    datasets = builders.ExperimentData(train, train, train, data.Preprocessing((8, 8), 1))
    changes = {"batches.classes": 2, "batches.samples_per_class": 2}
    with pytest.raises(ValueError, match="at least two images"):
        builders.check_training_classes(load_recipe("gap", changes), datasets)
    for kind, expected in (("skip", {0, 2, 3}), ("repeat", set(range(5))), ("negatives", set(range(5)))):
        recipe = load_recipe("gap", {**changes, "batches.small_classes": kind})
        builders.check_training_classes(recipe, datasets)
        found = [batch_labels.numpy() for _, batch_labels in builders.training_batches(recipe, datasets).take(9)]
        assert set(np.concatenate(found)) == expected
    recipe = load_recipe("gap", {**changes, "batches.small_classes": "repeat", "batches.superclasses_per_batch": 1})
    for _, batch_labels in builders.training_batches(recipe, datasets).take(6):
        assert len(set(train.superclasses[batch_labels.numpy()])) == 1


def test_the_pools_of_ccp():
    changes = {"ccp.refresh": "partial", "ccp.pool_size": 8, "ccp.refresh_share": 0.3, "ccp.max_steps": 7}
    recipe = load_recipe("digits-quick", changes)
    datasets = builders.load_data(recipe)
    made = builders.alternating_projections(recipe, datasets, "val_map_at_r")
    assert (made.refresh, made.refresh_share, made.max_steps, made.max_steps_growth) == ("partial", 0.3, 7, 1.0)
    classes = datasets.train.num_classes
    for draw, size in enumerate((8, 3, 3)):
        labels = np.concatenate([labels for _, labels in made.pool_dataset(draw)])
        assert np.bincount(labels).tolist() == [size] * classes
    # The default of the callback would end problems.
    fixed = load_recipe("digits-quick", {"ccp.reinitialize": False})
    assert builders.alternating_projections(fixed, datasets, "val_map_at_r").max_steps is None


def test_an_augmented_pool():
    changes = {"ccp.augment_pool": True, "augmentation.translation": 0.2, "ccp.refresh": "embed"}
    plain, augmented = (load_recipe("digits-quick", {**changes, "ccp.augment_pool": value}) for value in (False, True))
    datasets = builders.load_data(plain)
    pools = [
        builders.alternating_projections(recipe, datasets, "val_map_at_r").pool_dataset
        for recipe in (plain, augmented, augmented)
    ]
    images = [np.concatenate([np.asarray(batch) for batch, _ in pool(1)]) for pool in pools]
    assert images[0].shape == images[1].shape and np.abs(images[0] - images[1]).max() > 0.1
    np.testing.assert_array_equal(images[1], images[2])


@pytest.mark.parametrize(
    ("changes", "normalization"),
    [
        ({"ccp.k_center_on": "head"}, "clip"),
        ({"ccp.k_center_on": "head", "model.normalization": "none"}, None),
        ({"ccp.k_center_on": "head", "ccp.enabled": False}, None),
        ({}, None),
    ],
)
def test_proxies_are_normalized_if_they_are_outputs_of_the_head(changes, normalization):
    recipe = load_recipe("gap-ccp", changes)
    assert builders.make_references(recipe, 3, 4)[0].normalization == normalization
