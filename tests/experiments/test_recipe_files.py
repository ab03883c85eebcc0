import copy
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml._utils.typed_values import keys_of, nested, to_mapping
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.recipe import ADDED_KEYS, FORMER_KEYS, Recipe
from tfdml.experiments.recipe_files import (
    decisive_values,
    dump_recipe,
    load_preset,
    load_recipe,
    merge,
    preset_names,
    recipe_hash,
    recipe_names,
)


def test_the_recipes_of_the_package():
    assert recipe_names()[0] == "default"
    some = {"default", "gap", "gap-ccp", "gsp", "xbm", "digits-quick", "finetune", "finetune-dinov2", "head-dinov2"}
    assert some <= set(recipe_names())
    built_in = recipe_names(tables=False)
    assert recipe_names()[: len(built_in)] == built_in and "table-3.1/cub/c1" in recipe_names()[len(built_in) :]
    for name in built_in:
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.description


def test_the_ablation_differs_in_pooling_and_references_alone():
    combinations = {}
    for name in ("default", "gap-ccp", "gsp", "gap"):
        recipe = load_recipe(name)
        combinations[name] = (recipe.model.pooling, recipe.ccp.enabled, recipe.references.name)
        same = {"name": "x", "description": "", "model.pooling": "gsp", "ccp.enabled": False}
        if name == "default":
            base = load_recipe(name, {**same, "references.name": "batch"})
        assert load_recipe(name, {**same, "references.name": "batch"}) == base
    assert combinations == {
        "default": ("gsp", True, "proxies"),
        "gap-ccp": ("gap", True, "proxies"),
        "gsp": ("gsp", False, "batch"),
        "gap": ("gap", False, "batch"),
    }


def test_base_then_file_then_overrides(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\ntraining: {patience: 7, max_validations: 8}\nmodel:\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nseed: 2\ntraining: {patience: 9}\n")
    recipe = load_recipe(tmp_path / "mine.yaml", {"training.steps_per_validation": 3})
    assert recipe.name == "mine" and recipe.seed == 2
    assert recipe.training.patience == 9
    assert recipe.training.max_validations == 8
    assert recipe.training.steps_per_validation == 3
    assert recipe.data == load_recipe(tmp_path / "base.yaml").data


def test_a_name_as_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: gap\nseed: 5\n")
    assert load_recipe(tmp_path / "mine.yaml").model.pooling == "gap"


def test_several_bases_one_over_the_other(tmp_path):
    (tmp_path / "one.yaml").write_text("seed: 1\ntraining: {patience: 7, max_validations: 8}\n")
    (tmp_path / "two.yaml").write_text("training: {patience: 9}\nloss: {name: c1}\n")
    (tmp_path / "mine.yaml").write_text(
        "base: [one.yaml, two.yaml, thesis/c2-cub]\nloss: {options: {positive_margin: 0.1}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.seed) == ("mine", 1)
    assert (recipe.training.patience, recipe.training.max_validations) == (9, 8)
    assert recipe.loss.name == "c2"
    assert recipe.loss.options == {"positive_margin": 0.1, "negative_margin": 0.3841}
    (tmp_path / "mine.yaml").write_text("base: thesis/c1\n")
    assert load_recipe(tmp_path / "mine.yaml").loss.name == "c1"


def test_presets_go_over_a_recipe_and_below_overrides():
    assert {"thesis/c2-cub", "thesis/ccp-sop", "psomas/margin"} <= set(preset_names())
    recipe = load_recipe("gap", {"loss.options.positive_margin": 0.1}, ["thesis/training", "thesis/c2-cub"])
    assert recipe.name == "gap" and recipe.model.pooling == "gap"
    assert recipe.loss.options == {"positive_margin": 0.1, "negative_margin": 0.3841}
    assert load_recipe("gap", presets=["psomas/margin"]).loss.miner.name == "distance_weighted"
    # The miner belonged to the previous loss.
    assert load_recipe("gap", presets=["psomas/margin", "thesis/c1"]).loss.miner.name is None
    with pytest.raises(RecipeError, match="Unknown preset 'thesis/c2-cup'. Did you mean 'thesis/c2-cub'"):
        load_preset("thesis/c2-cup")
    with pytest.raises(RecipeError, match="Expected: RECIPE --preset thesis/c1"):
        load_recipe("thesis/c1")
    # CCP needs proxies, which the overrides add.
    with pytest.raises(RecipeError, match="CCP needs class proxies"):
        load_recipe("default", {"references.name": "memory"})
    changes = {"references.name": "proxies_and_memory", "ccp.enabled": True}
    assert load_recipe("gap", changes, ["thesis/xbm-large-cub"]).references.memory_size == 800


def test_a_new_name_drops_the_options_of_the_old():
    base = load_recipe("default", {"loss": {"name": "c1", "options": {"negative_margin": 0.3}}})
    assert base.loss.options == {"negative_margin": 0.3}
    mapping = {"name": "c1", "options": {"negative_margin": 0.3}}
    assert merge(mapping, {"name": "c2"}) == {"name": "c2", "options": {}}
    assert merge(mapping, {"name": "c2", "options": {"distance": "l2"}})["options"] == {"distance": "l2"}
    assert merge(mapping, {"options": {"distance": "l2"}})["options"] == {
        "negative_margin": 0.3,
        "distance": "l2",
    }


def test_a_new_name_drops_the_miner_of_the_old():
    mapping = {"name": "c1", "miner": {"name": "hard", "options": {"distance": "cosine"}}}
    assert merge(mapping, {"name": "c2"}) == {"name": "c2", "miner": {}}
    assert merge(mapping, {"miner": {"name": "semi_hard"}})["miner"] == {"name": "semi_hard", "options": {}}
    assert merge(mapping, {"name": "c1"}) == mapping


def test_the_order_of_dotted_overrides_does_not_matter():
    options, name = {"loss.options.negative_margin": 0.7}, {"loss.name": "c1"}
    assert load_recipe("gap", {**options, **name}) == load_recipe("gap", {**name, **options})
    assert load_recipe("gap", {**options, **name}).loss.options == {"negative_margin": 0.7}


def test_nested_and_dotted_overrides_agree():
    dotted = load_recipe("default", {"model.gsp.ratio": 0.5, "model.pooling": "gap"})
    assert dotted == load_recipe("default", {"model": {"pooling": "gap", "gsp": {"ratio": 0.5}}})
    assert nested({"a.b": 1, "a.c": 2}) == {"a": {"b": 1, "c": 2}}


def test_dump_and_load_give_the_same_recipe(tmp_path):
    recipe = load_recipe(
        "gap", {"data.size": [28, 32], "optimizer.learning_rate": 1e-5, "description": "naïve: #1"}
    )
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "dumped.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {patience: 3}", "Unknown key 'trainig'. Did you mean 'training'?"),
        ("training: {patince: 3}", "Unknown key 'training.patince'. Did you mean 'training.patience'?"),
        ("training: {patience: many}", "training.patience has the wrong type or value. Received: 'many'. Expected: an"),
        ("training: 3", "training must be a section"),
        ("- 1", "A recipe is a mapping. Received: list"),
        ("a: [", "is not valid YAML"),
        ("base: nothing", "Unknown recipe 'nothing'"),
        ("base: 3", "Received: 3 in "),
        ("base: [gap, 3]", "Received: ['gap', 3]"),
        ("base: [gap, thesis/c2-cup]", "Did you mean 'thesis/c2-cub'?"),
        ("base: mine.yaml", "A recipe is its own base"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message in str(error.value)
    assert "mine.yaml" in str(error.value) or "Unknown recipe" in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="mine.yaml cannot be read"):
        load_recipe(tmp_path / "mine.yaml")


def test_an_unknown_recipe_names_the_nearest_and_all():
    with pytest.raises(
        RecipeError, match="Unknown recipe 'defalt'. Did you mean 'default'.*digits-quick, ema, .*gap"
    ) as error:
        load_recipe("defalt")
    assert isinstance(error.value, ValueError)
    with pytest.raises(RecipeError, match="There is no recipe file .*missing.yaml"):
        load_recipe("somewhere/missing.yaml")


GAP = to_mapping(load_recipe("gap"))


def leaves(mapping, prefix=()):
    """Yield the paths of all values of a recipe."""
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def changed(path, value):
    mapping = copy.deepcopy(GAP)
    section = mapping
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return mapping


def shuffled(mapping, random):
    items = [(key, shuffled(value, random) if isinstance(value, dict) else value) for key, value in mapping.items()]
    random.shuffle(items)
    return dict(items)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-9, 9), st.text("abc/1e", max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["margin", "scale"]), st.floats(-9, 9), max_size=2),
)  # fmt: skip


@given(st.sampled_from(sorted(leaves(GAP))), VALUES, VALUES, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_recipes_that_differ_have_other_hashes(path, one, other, random):
    first, second = changed(path, one), changed(path, other)
    assert recipe_hash(first) == recipe_hash(shuffled(first, random))
    # In YAML the text of a number is that number, and in Python true equals 1.
    is_number = any(isinstance(value, str) and value[:1] == "1" for value in (one, other))
    assumed_same = str(one) == str(other) or one == other or is_number
    if path in (("name",), ("description",), ("training", "strategy")):
        assert recipe_hash(first) == recipe_hash(second)
    elif path == ("model", "first_weights") and isinstance(one, str) and isinstance(other, str):
        assert (recipe_hash(first) == recipe_hash(second)) == (one.split("/")[-1] == other.split("/")[-1])
    elif not assumed_same:
        assert recipe_hash(first) != recipe_hash(second)


def test_what_does_not_decide_results_is_not_in_the_hash():
    known = recipe_hash(load_recipe("gap"))
    assert len(known) == 12 and int(known, 16)
    assert known == recipe_hash(load_recipe("gap", {"name": "mine", "description": "my own"}))
    assert known == recipe_hash(load_recipe("gap", {"data.options.path": "/data/cub"}))
    targets = [load_recipe("collage", {"data.options.target_options.path": path}) for path in ("/a", "b")]
    assert recipe_hash(targets[0]) == recipe_hash(targets[1]) != known
    options = "model.backbone_options.weights"
    weights = [recipe_hash(load_recipe("gap", {options: path})) for path in ("/a/w.npz", "b/w.npz", "w.npz", "v.npz")]
    assert weights[0] == weights[1] == weights[2] != weights[3] and known not in weights
    first = [recipe_hash(load_recipe("gap", {"model.first_weights": path})) for path in ("/a/best.h5", "best.h5")]
    assert first[0] == first[1] != known


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"protocol.name": "fair"},
        {"data.options.min_typefaces": 12},
        {"data.fold": 0},
        {"model.backbone_options.frozen_batch_norm": "all"},
        {"loss.options.negative_margin": 0.4},
        {"evaluation.recall_at": [1, 2, 4]},
        {"training.precision": "mixed_float16"},
    ],
)
def test_what_decides_results_is_in_the_hash(changes):
    assert recipe_hash(load_recipe("gap", changes)) != recipe_hash(load_recipe("gap"))


def test_former_keys(tmp_path):
    present = load_recipe("gsp", {"evaluation.figures": False, "zero_shot.embedding_size": 8})
    assert load_recipe("gsp", {"evaluation.pictures": False, "zero_shot": {"dim": 8}}) == present
    (tmp_path / "mine.yaml").write_text("base: gsp\nevaluation: {pictures: false}\nzero_shot: {dim: 8}\n")
    assert load_recipe(tmp_path / "mine.yaml", {"name": "gsp", "description": present.description}) == present
    # The hash of the version before the renaming.
    assert recipe_hash(present) == recipe_hash(to_mapping(present)) == "809245044bec"


def test_the_hash_outlasts_dumping_and_more_keys(tmp_path, monkeypatch):
    recipe = load_recipe("gap", {"loss.options.negative_margin": 0.4, "data.size": [28, 32]})
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    assert recipe_hash(load_recipe(tmp_path / "dumped.yaml")) == recipe_hash(recipe) == recipe_hash(to_mapping(recipe))
    # A mapping, or a recipe of an earlier version, may lack keys with the value of Recipe().
    values = decisive_values(recipe)
    assert values["loss.options"] == {"negative_margin": 0.4} and "training.precision" not in values
    assert recipe_hash(nested(values)) == recipe_hash(recipe)
    assert recipe_hash({"optimizer": {"learning_rate": "2e-3"}}) == recipe_hash({"optimizer": {"learning_rate": 0.002}})
    assert recipe_hash({"seed": 1}) == recipe_hash({"seed": 1.0})


def test_keys_that_runs_of_the_first_version_lack_are_listed():
    """Otherwise those runs could not be resumed or evaluated any more."""
    first = (pathlib.Path(__file__).parent / "first_keys.txt").read_text().split()
    present = {FORMER_KEYS.get(key, key) for key in first}
    assert set(keys_of(Recipe)) - present == ADDED_KEYS
