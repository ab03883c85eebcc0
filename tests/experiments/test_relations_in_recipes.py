"""Recipes of images with positions or tags in a CSV file: data, batches, training, evaluation, and errors."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import metrics, relations
from tfdml.data import RelatedSampler
from tfdml.experiments import RecipeError, builders, evaluate, load_recipe, resume, train
from tfdml.experiments.recipe_files import recipe_hash
from tfdml.export import load_saved_model

NEAR = {"relation.name": "within", "relation.options": {"positive": 1.0, "negative": 3.0}}
BATCH = {"references.name": "batch", "ccp.enabled": False, "training.geometry": False}
TAGS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """24 images along a line, each with a neighbor; tags are those of the brighter channels, routes are thirds."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = ["file,x,y,tags,route"]
    for index in range(24):
        color = np.array([1 + (index // 2) % 7 >> bit & 1 for bit in range(3)])
        image = (60 * color + rng.integers(0, 120, 3) + rng.integers(0, 70, (8, 8, 3))).astype(np.uint8)
        tf.io.write_file(str(folder / f"{index}.png"), tf.io.encode_png(image))
        tags = "|".join(tag for tag, is_there in zip(TAGS, color) if is_there)
        rows.append(f"{index}.png,{index // 2 * 4 + index % 2 / 2},0.5,{tags},route {index // 8}")
    (folder / "poses.csv").write_text("\n".join(rows))
    return folder / "poses.csv"


def recipe_of(table, **changes):
    options = {"path": str(table), "image_column": "file", "label_column": None}
    by_tags = changes.pop("tags", False)
    options |= {"tag_column": "tags"} if by_tags else {"annotation_columns": ["x", "y"]}
    options |= changes.pop("options", {})
    relation = {"relation.name": "overlap", "relation.groups": "tags"} if by_tags else NEAR
    return load_recipe("gap", {
        "data.name": "csv", "data.options": options, "data.size": 8, "data.channels": 3, "data.split_seed": None,
        **relation, **BATCH,
        "model.backbone": "tiny", "model.embedding_size": 4, "batches.classes": 3, "batches.samples_per_class": 2,
        "loss.name": "triplet", "training.steps_per_validation": 3, "training.max_validations": 1, **changes,
    })  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("tags", [False, True])
def test_a_recipe_trains_evaluates_and_exports(table, tmp_path, tags):
    changes = {"evaluation.keep_embeddings": True, "evaluation.figures": not tags}
    result = train(recipe_of(table, tags=tags, **changes), tmp_path / "run", verbose=0)
    assert result.training["steps"] == 3 and 0 <= result.test["map_at_r"] <= 1 and "ndcg_at_1" in result.test
    with np.load(tmp_path / "run" / "test_embeddings.npz") as kept:
        relation = relations.Overlap() if tags else relations.Within(1.0, 3.0)
        expected = metrics.retrieval_metrics(kept["embeddings"], kept["labels"], relation=relation)
    assert result.test == pytest.approx(expected)
    found = evaluate(tmp_path / "run", out=tmp_path / "evaluation", figures=not tags)
    assert found.metrics == pytest.approx(expected, abs=1e-4)
    if not tags:
        figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
        assert figures == {"training_curve.png", "nearest_neighbors.png", "pooling_maps.png"}
        assert load_saved_model(tmp_path / "run" / "saved_model").metadata["embedding_size"] == 4
        before = json.loads((tmp_path / "run" / "test_metrics.json").read_text())
        assert resume(tmp_path / "run", max_validations=2, verbose=0).training["steps"] == 6
        assert before["untrained"] == json.loads((tmp_path / "run" / "test_metrics.json").read_text())["untrained"]


def test_images_without_classes_are_divided_one_by_one(table):
    recipe = recipe_of(table)
    datasets = builders.load_data(recipe)
    assert [len(part) for part in datasets[:3]] == [12, 5, 7]
    assert datasets.test.annotations[:, 0].tolist() == [32.5, 36, 36.5, 40, 40.5, 44, 44.5]
    builders.check_training_classes(recipe, datasets)
    batch = next(iter(builders.training_batches(recipe, datasets)))
    assert batch[1].shape == (6, 2)
    # Each anchor is followed by its only positive.
    assert np.abs(np.diff(batch[1][:, 0].numpy().reshape(3, 2))).tolist() == [[0.5]] * 3
    halves = [next(iter(builders.training_batches(recipe, datasets, part=(part, 2)))) for part in range(2)]
    for whole, *parts in zip(batch, *halves):
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    _, labels = next(iter(builders.validation_batches(recipe, datasets)))
    np.testing.assert_array_equal(labels, datasets.validation.annotations)


def test_a_run_makes_its_sampler_once(table, monkeypatch):
    made = []

    class Counted(RelatedSampler):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(builders, "RelatedSampler", Counted)
    recipe = recipe_of(table)
    datasets = builders.load_data(recipe)
    builders.check_training_classes(recipe, datasets)
    for start in (0, 2):
        builders.training_batches(recipe, datasets, start_batch=start)
    assert len(made) == 1
    for other, data in ((recipe_of(table, seed=5), datasets), (recipe, builders.load_data(recipe))):
        builders.training_batches(other, data)
    assert len(made) == 3


def test_routes_are_held_out_whole(table):
    changes = {"data.test_classes": 1 / 3, "data.validation_classes": 1 / 3}
    datasets = builders.load_data(recipe_of(table, options={"label_column": "route"}, **changes))
    assert [part.class_names for part in datasets[:3]] == [("route 0",), ("route 1",), ("route 2",)]
    assert [len(part) for part in datasets[:3]] == [8, 8, 8]


def test_groups_are_cells_or_tags(table):
    recipe = recipe_of(table, tags=True)
    datasets = builders.load_data(recipe)
    groups = builders.make_groups(recipe, datasets.train)
    # In the order of their names: blue, green, red.
    assert groups[:2].tolist() == [[False, False, True]] * 2 and datasets.train.annotations.dtype == np.int64
    recipe = recipe_of(table, **{"relation.groups": 8.0})
    assert builders.make_groups(recipe, builders.load_data(recipe).train).tolist() == [i // 4 for i in range(12)]


@pytest.mark.parametrize("tags", [False, True])
def test_a_memory_stores_what_the_relation_compares(table, tags):
    recipe = recipe_of(table, tags=tags, **{"references.name": "memory", "references.memory_size": 9})
    annotations = builders.load_data(recipe).train.annotations
    (memory,) = builders.make_references(recipe, 1, 4, annotations)
    assert memory().labels.shape == (9, annotations.shape[1])
    embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model = builders.make_model(recipe, embedder, builders.load_data(recipe).train)
    assert model.relation.label_dtype == memory.label_dtype


MISTAKES = {
    "proxies": ({"references.name": "proxies"}, "needs classes.*references.name='proxies' with relation.name='within'"),
    "ccp": ({"references.name": "proxies", "ccp.enabled": True}, "references.name='batch' or 'memory'"),
    "memory": ({"references.name": "memory"}, "memory has no default size.*references.memory_size=None"),
    "zero-shot": ({"zero_shot.enabled": True}, "zero_shot.enabled=true with relation"),
    "xml": ({"cross_batch.enabled": True}, "cross_batch.enabled=true with relation"),
    "mixing": ({"mixing.name": "mixup", "references.name": "batch"}, "mixing.name="),
    "geometry": ({"training.geometry": True}, "training.geometry=true with relation"),
    "protocol": ({"protocol.name": "fair"}, "protocol.name='fair' with relation"),
    "search": ({"evaluation.search": "faiss"}, "needs the exact search"),
    "small classes": ({"batches.small_classes": "skip"}, "batches.small_classes='skip'"),
    "sampling": ({"batches.sampling": "instance"}, "use relation.groups"),
    "superclasses": ({"batches.superclasses_per_batch": 2}, "batches.superclasses_per_batch=2"),
    "one sample": ({"batches.samples_per_class": 1}, "batches.samples_per_class=1"),
    "options alone": ({"relation.name": "same_class"}, "relation.name='same_class' with relation.options="),
    "name": ({"relation.name": "near"}, "Unknown relation. Received: 'near'"),
    "no options": ({"relation.name": "within", "relation.options": {}}, "[Ww]ithin.*negative"),
    "thresholds": ({"relation.options": {"positive": 3.0, "negative": 1.0}}, "^relation.options.positive: .*crossed"),
    "groups of numbers": ({"relation.groups": "tags"}, "groups do not fit.*side of a grid cell"),
    "groups of tags": ({"relation.name": "overlap", "relation.options": {}, "relation.groups": 2.0}, "'tags' or null"),
    "side": ({"relation.groups": -1.0}, "relation.groups"),
    "loss": ({"loss.name": "proxy_anchor"}, "loss needs classes.*loss.name='proxy_anchor' with relation"),
    "loss of addons": ({"loss.name": "addons.TripletSemiHardLoss"}, "loss needs classes.*addons"),
    "given pairs": ({"loss.name": "in_batch_negatives"}, "needs given pairs"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_go_with_a_relation(table, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(RecipeError, match=message):
        builders.dry_build(recipe_of(table, **changes))


def test_data_that_do_not_go_with_the_relation(table):
    with pytest.raises(ValueError, match="The dataset has no annotations.*`annotation_columns`"):
        builders.load_data(recipe_of(table, **{"data.name": "digits", "data.options": {}}))
    with pytest.raises(RecipeError, match="annotations of 'poses' do not fit Overlap.*Labels must mark"):
        builders.load_data(recipe_of(table, **{"relation.name": "overlap", "relation.options": {}}))
    recipe = recipe_of(table, **{"relation.options": {"positive": 0.1, "negative": 3.0}})
    with pytest.raises(ValueError, match="no sample has a positive"):
        builders.check_training_classes(recipe, builders.load_data(recipe))
    recipe = recipe_of(table, **{"batches.classes": 13})
    with pytest.raises(RecipeError, match="^batches.classes: .*more anchors"):
        builders.check_training_classes(recipe, builders.load_data(recipe))
    recipe = recipe_of(table, **{"data.validation_classes": 0.04})
    with pytest.raises(RecipeError, match=r"No validation image has a positive.*1 images.*data.validation_classes"):
        builders.check_training_classes(recipe, builders.load_data(recipe))


def test_the_recipes_of_the_page_can_be_built(table, tmp_path):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "relations.md").read_text()
    for name, text in zip(("poses", "photos"), re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)):
        (tmp_path / f"{name}.yaml").write_text(text)
        recipe = load_recipe(tmp_path / f"{name}.yaml")
        builders.dry_build(recipe)
        options = {**recipe.data.options, "path": str(table), "image_column": "file"}
        changes = {"data.options": options, "data.validation_classes": 1 / 3, "data.test_classes": 1 / 3}
        recipe = load_recipe(tmp_path / f"{name}.yaml", {**changes, "batches.classes": 2})
        datasets = builders.load_data(recipe)
        builders.check_training_classes(recipe, datasets)
        assert len(datasets.train) == 8 and builders.make_groups(recipe, datasets.train) is not None


def test_the_default_relation_leaves_hashes_alone():
    assert recipe_hash(load_recipe("gap")) == recipe_hash(load_recipe("gap", {"relation.name": "same_class"}))
    changed = load_recipe("gap", {**NEAR, **BATCH})
    assert recipe_hash(changed) != recipe_hash(load_recipe("gap", BATCH))
