import pytest

from tfdml.experiments.errors import RecipeError
from tfdml.experiments.recipe_files import dump_recipe, load_recipe, merge, nested, recipe_names


def test_the_recipes_of_the_package():
    assert recipe_names()[0] == "default"
    assert {"default", "gap", "gap-ccp", "gsp", "digits-quick"} <= set(recipe_names())
    for name in recipe_names():
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
        ("training: {patience: many}", "\"training.patience\": Expected a <class 'int'>. Got value: many"),
        ("training: 3", "training must be a section"),
        ("- 1", "A recipe is a mapping. Received: list"),
        ("a: [", "is not valid YAML"),
        ("base: nothing", "Unknown recipe 'nothing'"),
        ("base: 3", "base must be the name or the path of a recipe. Received: 3"),
        ("base: mine.yaml", "A recipe is its own base"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message in str(error.value)
    assert "mine.yaml" in str(error.value) or text == "base: nothing"


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="mine.yaml cannot be read"):
        load_recipe(tmp_path / "mine.yaml")


def test_an_unknown_recipe_names_the_nearest_and_all():
    with pytest.raises(
        RecipeError, match="Unknown recipe 'defalt'. Did you mean 'default'.*digits-quick, gap"
    ) as error:
        load_recipe("defalt")
    assert isinstance(error.value, ValueError)
    with pytest.raises(RecipeError, match="There is no recipe file .*missing.yaml"):
        load_recipe("somewhere/missing.yaml")
