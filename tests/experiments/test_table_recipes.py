"""The recipes of the tables: their parts, and that each trains."""

import json
import struct

import keras
import miniatures
import numpy as np
import pytest
from PIL import Image
from training_steps import what_a_step_does

from tfdml.backbones import registry
from tfdml.experiments import RecipeError, load_recipe, plan, train_main
from tfdml.experiments.builders import (
    load_data,
    make_embedder,
    make_loss,
    make_model,
    make_optimizer,
    make_pooling,
    training_batches,
)
from tfdml.experiments.recipe_files import recipe_hash, table_recipe_mapping
from tfdml.experiments.table_files import load_table, quoted_rows, table_names, table_recipes

NAMES = list(table_recipes())
# Enough for ten folds of the training classes, and for four classes per batch.
CLASSES = 24
SMALL = {
    "model.backbone": "tiny_pretrained",
    "model.embedding_size": 6,
    "model.gsp.prototypes": 4,
    "references.memory_warmup": 0,
    "optimizer.learning_rate": 0.01,
}
# One recipe per way to train: recipes that differ only in numbers have the same training step.
CHANGED = [*SMALL, "model.backbone_options"]
WAYS = {what_a_step_does(table_recipe_mapping(name), CHANGED): name for name in reversed(NAMES)}


def tiny_pretrained(input_shape, weights=None, frozen_batch_norm="none", last_stride=2):
    """Accept the options of the backbones with ImageNet weights."""
    return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(5, 3, strides=2, activation="relu")])


@pytest.fixture(autouse=True)
def backbone(monkeypatch):
    monkeypatch.setitem(registry._REGISTRY._factories, "tiny_pretrained", tiny_pretrained)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Miniatures of the datasets by name."""
    made = {"fashion_mnist": write_fashion_mnist(tmp_path_factory.mktemp("fashion_mnist"))}
    made["emoji"] = write_emoji(tmp_path_factory.mktemp("emoji"))
    made["features"] = write_features(tmp_path_factory.mktemp("features"))
    for name in sorted({table_recipe_mapping(name)["data"]["name"] for name in NAMES} & set(miniatures.MAKERS)):
        options = {} if name.startswith("cifar") else {"classes": CLASSES}
        made[name] = miniatures.make(name, tmp_path_factory.mktemp(name), **options)
    return made


def write_fashion_mnist(folder, per_class=5):
    """The test part of Fashion-MNIST in its original files, with fewer images."""
    labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for kind, array in (("images", images), ("labels", labels)):
        header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
        (folder / f"t10k-{kind}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return folder


def write_emoji(folder, per_class=5):
    """Emoji as `tfdml-prepare` leaves it, with fewer classes."""
    generator = np.random.default_rng(0)
    houses = [f"house{number}" for number in range(per_class)]
    classes = {f"emoji{number}": houses for number in range(2 * CLASSES)}
    for name in classes:
        (folder / "images" / name).mkdir(parents=True)
        for house in houses:
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{house}.png")
    (folder / "emoji.json").write_text(json.dumps({"classes": classes}))
    return folder


def write_features(folder, per_class=5):
    """Features as `tfdml-extract` writes them."""
    labels = np.repeat(np.arange(2 * CLASSES), per_class)
    np.save(folder / "features.npy", np.random.default_rng(0).normal(size=(len(labels), 7)).astype(np.float32))
    np.save(folder / "labels.npy", labels)
    return folder


def in_small(name, paths, **changes):
    """A table's recipe, changed only in its data (a miniature) and its network (a small one)."""
    mapping = table_recipe_mapping(name)
    data, batches = mapping["data"], mapping["batches"]
    small = {**SMALL, "batches.classes": min(batches["classes"], 4)}
    if data["name"] in paths:
        small["data.options.path"] = str(paths[data["name"]])
        if data["name"] in ("cub", "cars196", "sop", "in_shop"):
            small.update({"data.options.counts": "any", "data.size": 16, "data.short_side": 18})
        if data["name"] == "emoji":
            # Under the warm-up the first step has a learning rate of 0.
            small.update({"data.options.counts": "any", "data.size": 16, "optimizer.schedule_warmup_steps": 0})
        if data["name"] == "features":
            small.update({"data.options.num_train_classes": CLASSES, "model.head.input_size": 7})
    if data["name"] == "glyphs":
        small["data.options.characters"] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
    memory = mapping.get("references", {}).get("memory_size")
    if memory is not None:
        small["references.memory_size"] = min(memory, 64)
    return load_recipe(name, {**small, **changes})


@pytest.fixture(scope="module")
def images_of():
    """Function from a recipe to the data of its first run, cached for recipes with the same data."""
    loaded = {}

    def load(recipe):
        key = json.dumps({key: str(value) for key, value in vars(recipe.data).items()})
        if key not in loaded:
            loaded[key] = load_data(plan(recipe)[0].recipe)
        return loaded[key]

    return load


@pytest.fixture(scope="module")
def batch_of():
    """Function from a recipe and its data to a batch, cached for recipes with the same data and batches."""
    made = {}

    def make(recipe, images):
        key = id(images), str(recipe.batches)
        if key not in made:
            made[key] = next(iter(training_batches(recipe, images)))
        return made[key]

    return make


def take_a_step(recipe, images, batch):
    """Assert that a training step changes the network if the batch has a gradient."""
    keras.utils.set_random_seed(0)
    model = make_model(recipe, make_embedder(recipe, images.preprocessing), images.train)
    model.run_eagerly = True
    names = [layer.name for layer in model.embedder.layers]
    # Heads have no pooling.
    pooling = model.embedder.get_layer("pooling") if "pooling" in names else None
    is_inside = getattr(pooling, "channels", None) is not None
    kernel = (pooling.projection if is_inside else model.embedder.get_layer("embedding")).kernel
    start = np.array(kernel)
    loss = float(model.train_step(batch)["loss"])
    assert np.isfinite(loss)
    assert loss == 0 or np.abs(np.array(kernel) - start).max() > 0


@pytest.mark.parametrize("table", table_names())
def test_every_recipe_makes_its_loss_pooling_and_optimizer(table):
    names = [name for name in NAMES if table_recipes()[name][0].name == table]
    assert names
    for name in names:
        recipe = load_recipe(name)
        make_loss(recipe), make_pooling(recipe), make_optimizer(recipe, steps_per_epoch=10)


@pytest.mark.integration
@pytest.mark.parametrize("table", table_names())
def test_every_recipe_has_the_classes_that_its_batches_take(table, paths, images_of):
    for name in [name for name in NAMES if table_recipes()[name][0].name == table]:
        recipe = in_small(name, paths)
        images = images_of(recipe)
        assert images.train.num_classes >= recipe.batches.classes, name
        assert min(images.validation.num_classes, images.test.num_classes) >= 2, name


@pytest.mark.integration
@pytest.mark.parametrize("name", WAYS.values())
def test_every_way_to_train_takes_a_step(name, paths, images_of, batch_of):
    recipe = in_small(name, paths)
    images = images_of(recipe)
    take_a_step(recipe, images, batch_of(recipe, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_trains_on_miniature_data(name, paths, images_of, batch_of):
    recipe = in_small(name, paths)
    images = images_of(recipe)
    take_a_step(recipe, images, batch_of(recipe, images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "table-3.1/cub/c2-ccp-l",
        "table-5.1/sop/panchor-gsp",
        "table-5.2b/in-shop/c1-xbm-gsp-512",
        "psomas-512/cub-googlenet/proxy-anchor",
        "psomas-512/cub-resnet50/margin",
    ],
)
def test_recipes_train_with_their_backbones(name, paths):
    mapping = table_recipe_mapping(name)["model"]
    changes = {"model.backbone": mapping["backbone"], "model.backbone_options.weights": None}
    sizes = {"data.size": 96, "data.short_side": 100, "model.embedding_size": mapping["embedding_size"]}
    recipe = in_small(name, paths, **changes, **sizes)
    images = load_data(plan(recipe)[0].recipe)
    take_a_step(recipe, images, next(iter(training_batches(recipe, images))))


def test_names_of_recipes():
    assert len(NAMES) == len(set(NAMES)) > 250
    assert {"table-3.1/cub/c2-ccp-l", "table-5.2b/sop/c1-xbm-gsp-128", "psomas-fixed-validation/cub/soft-triple",
            "fair/glyphs/c2-gsp-ccp", "fair/cifar-collage/c2", "conventional/cifar10/c2-gsp"} <= set(NAMES)  # fmt: skip
    # Datasets without published figures and rows from the literature have no recipe.
    assert "psomas-512/cub-resnet50/proxy-proxy" not in NAMES and "table-3.2a/cub/diva" not in NAMES
    assert "table-3.2a/cub/diva" in quoted_rows() and not set(quoted_rows()) & set(NAMES)


def test_the_commands_know_them(capsys):
    assert train_main(["--list-recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("Table 5.3, zero-shot prediction loss and GSP, separately")
    assert lines[place - 1] == ""
    assert lines[place + 1] == "  table-5.3/{sop,in-shop,cub,cars196}/{c2,c2-gsp-only,c2-zsp,c2-gsp}"
    # Recipes of the package come first, one per line.
    assert len(lines) < 100 and lines[0].startswith("default ")
    for arguments in (["table-5.3/cub/c2-zsp"], ["--recipe", "table-5.3/cub/c2-zsp"]):
        assert train_main([*arguments, "--training.patience", "7", "--print-recipe"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("name: table-5.3/cub/c2-zsp\n") and "patience: 7" in shown


def test_braces_give_all_names_and_no_others():
    def expand(text):
        before, _, rest = text.partition("{")
        inside, _, after = rest.partition("}")
        return [before + key + end for key in inside.split(",") for end in expand(after)] if rest else [text]

    texts = [text for table in table_names() for text in load_table(table).recipes_in_braces()]
    assert sorted(name for text in texts for name in expand(text)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES[::9])
def test_the_hash_of_a_row_is_that_of_its_recipe(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description
    assert recipe_hash(recipe) == recipe_hash(table_recipe_mapping(name))


def test_rows_with_the_same_recipe_are_those_that_are_printed_twice():
    names_of = {}
    for name in NAMES:
        names_of.setdefault(recipe_hash(table_recipe_mapping(name)), []).append(name)
    same = [names for names in names_of.values() if len(names) > 1]
    assert len(same) == 8
    for first, second in same:
        assert first.replace("table-5.1", "table-5.3") == second and first.rsplit("/", 1)[1] in ("c2", "c2-gsp")


# Sections 3.3.2.1 and 5.3.4.1 of the thesis and the slides of Psomas as values of recipes.
STATED = {
    "table-3.1/cub/c2-ccp-l": {
        "protocol.name": "fair", "protocol.repeats": 1, "data.name": "cub", "data.size": 227, "data.short_side": 256,
        "data.test_classes": "published", "augmentation.crop_area": [0.16, 1.0],
        "augmentation.crop_aspect": [0.75, 4 / 3], "augmentation.horizontal_flip": True,
        "model.backbone": "bn_inception", "model.pooling": "gap", "model.embedding_size": 128,
        "batches.classes": 8, "batches.samples_per_class": 4,
        "loss.options": {"positive_margin": 0.0, "negative_margin": 0.3841}, "references.per_class": 8,
        "ccp.enabled": True, "ccp.pool_size": 12, "ccp.projection_weight": 2e-4, "model.normalization": "clip",
        "optimizer.learning_rate": 1e-5, "optimizer.beta_2": 0.99, "optimizer.l2_weight_decay": 1e-4,
        "optimizer.plateau_patience": None, "training.steps_per_validation": 25, "training.patience": 60,
        "training.monitor": "map_at_r",
    },
    "table-3.1/sop/ms-ccp-l": {
        "loss.options": {"alpha": 2.0, "beta": 40.0, "base": 0.5}, "references.per_class": 4, "ccp.pool_size": 7,
        "training.steps_per_validation": 250, "evaluation.recall_at": [1, 10, 100, 1000],
    },
    "table-3.1/in-shop/c1-xbm-l": {"references.memory_size": 400 * 32, "references.memory_warmup": 1000},
    "table-3.1/cars196/proxy-nca-plus-plus": {"loss.options": {"temperature": 0.1}, "batches.classes": 32,
                                              "batches.samples_per_class": 1},
    "table-3.2b/cars196/ms-ccp-l-512": {
        "protocol.name": "conventional", "model.backbone": "resnet50", "model.embedding_size": 512,
        "batches.classes": 28, "batches.samples_per_class": 4, "optimizer.learning_rate": 1e-4,
        "optimizer.l2_weight_decay": 4e-4, "optimizer.plateau_patience": 4,
        "training.monitor": "precision_at_1", "training.steps_per_validation": 25,
        "training.patience": 15, "ccp.enabled": True, "references.per_class": 8,
    },
    "table-3.2a/cub/c1-ccp-l": {"optimizer.learning_rate": 1e-5, "optimizer.l2_weight_decay": 1e-4,
                                "batches.classes": 32},
    "table-5.1/sop/panchor-gsp": {
        "protocol.repeats": 3, "optimizer.learning_rate": 5e-6, "optimizer.proxy_learning_rate_multiplier": 100.0,
        "model.gsp.prototypes": 128, "model.gsp.smoothing": 0.5, "model.gsp.ratio": 0.3, "zero_shot.enabled": True,
        "model.gsp.start": "pooled",
        "zero_shot.weight": 0.1, "training.steps_per_validation": 1000, "training.patience": 10,
    },
    "table-5.1/cub/panchor": {"optimizer.learning_rate": 1e-5, "training.steps_per_validation": 100,
                              "training.patience": 15, "model.pooling": "gap", "zero_shot.enabled": False},
    "table-5.1/cub/pnca": {"loss.options": {"temperature": 0.11}},
    "table-5.1/cars196/c1-ccp-gsp": {"model.pooling": "gsp", "model.gsp.smoothing": 5.0, "model.gsp.prototypes": 64,
                                     "ccp.enabled": True, "model.normalization": "clip"},
    "table-5.2b/cub/c1-xbm-gsp-512": {
        "model.pooling": "gsp_gem", "model.gsp.project": True, "model.gsp.start": "pooled",
        "model.gsp.warmup_samples": 1024, "model.embed_before_pooling": False,
    },
    "table-5.2b/sop/c1-xbm-gsp-512": {"model.pooling": "gsp_gmp", "model.gsp.project": True},
    "table-5.2a/sop/c1-xbm-gsp": {"model.pooling": "gsp_gmp", "model.gsp.project": True,
                                  "model.gsp.start": "pooled", "references.memory_size": 1400 * 128,
                                  "training.steps_per_validation": 250, "training.patience": 10},
    "table-5.2b/cub/c1-xbm-128": {"model.pooling": "gap_gmp", "model.embedding_size": 128,
                                  "references.memory_size": 25 * 112, "model.gsp.prototypes": 64},
    "table-5.3/cub/c2-zsp": {"model.pooling": "gap", "zero_shot.enabled": True, "model.gsp.start": "pooled"},
    "table-5.3/cub/c2-gsp-only": {"model.pooling": "gsp", "zero_shot.enabled": False},
    "psomas-512/sop-bn-inception/proxy-anchor": {
        "protocol.name": "conventional", "optimizer.name": "adamw", "optimizer.learning_rate": 6e-4,
        "optimizer.decay_epochs": 20.0, "optimizer.decay_factor": 0.25, "batches.classes": 45,
        "model.embedding_size": 512,
    },
    "psomas-fixed-validation/cub/soft-triple": {"protocol.name": "fixed_validation", "loss.options.scale": 78.0},
    "psomas-cross-validation/cub/multi-similarity": {"protocol.name": "cross_validation", "loss.options.beta": 50.0},
    "fair/glyphs/c2-gsp-ccp": {"model.pooling": "gsp", "ccp.enabled": True, "data.size": 24, "data.name": "glyphs"},
    "fair/cifar-collage/c2": {"protocol.folds": 3, "data.test_classes": 0.4, "batches.classes": 16,
                              "optimizer.plateau_patience": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_recipes_say_what_the_source_says(name):
    mapping = json.loads(json.dumps(load_recipe(name), default=lambda value: vars(value)))
    for path, value in STATED[name].items():
        found = mapping
        for key in path.split("."):
            found = found[key]
        assert found == value, path


def test_folds_of_the_thesis_split_of_the_collage(paths):
    recipe = in_small("fair/cifar-collage/c2", paths)
    runs = plan(recipe)
    assert len(runs) == 3
    images = load_data(runs[-1].recipe)
    # Two, one and two subclasses of each of sixteen superclasses, and of the four of the backgrounds.
    assert [part.num_classes for part in images[:3]] == [32, 16, 32]
    assert [part.backgrounds.num_classes for part in images[:3]] == [8, 4, 8]


def test_a_row_as_the_base_of_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: table-3.1/cub/c2-ccp-l\ntraining: {patience: 30}\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.name == "mine" and recipe.training.patience == 30 and recipe.ccp.enabled
    known = load_recipe("table-3.1/cub/c2-ccp-l", {"data.options.path": "/data/cub"})
    assert load_recipe(tmp_path / "mine.yaml", {"training.patience": 60, "name": known.name}).training == known.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table-3.1/cub/c2-cpp-l", "Unknown recipe 'table-3.1/cub/c2-cpp-l'. Did you mean 'table-3.1/cub/c2-ccp-l'?"),
        ("tabel-3.1/cub/c1", "Did you mean 'table-3.1/cub/c1'?"),
        ("table-3.1/birds/c1", "Did you mean 'table-3.1/"),
        ("table-3.1", "Unknown recipe 'table-3.1'"),
        ("table-3.2a/cub/diva", "quoted from the literature and has no recipe. Received: 'table-3.2a/cub/diva"),
        ("mine/table-3.1", "There is no recipe file mine/table-3.1."),
    ],
)
def test_a_wrong_name_of_a_row(name, message, tmp_path):
    with pytest.raises(RecipeError) as error:
        load_recipe(name)
    assert message in str(error.value)
    if "Unknown" in message:
        (tmp_path / "mine.yaml").write_text(f"base: {name}\n")
        with pytest.raises(RecipeError, match="Did you mean"):
            load_recipe(tmp_path / "mine.yaml")
