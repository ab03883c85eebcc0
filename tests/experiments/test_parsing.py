import pytest

from tfdml.experiments.errors import RecipeError, nearest_key
from tfdml.experiments.parsing import parse_yaml, recipe_from_mapping, to_mapping
from tfdml.experiments.recipe import Recipe


def test_defaults_and_values():
    assert recipe_from_mapping({}) == Recipe()
    recipe = recipe_from_mapping(
        {"data": {"size": [18, 19], "options": {"path": "x"}}, "model": {"gsp": {"ratio": 1}}}
    )
    assert recipe.data.size == (18, 19)
    assert recipe.data.options == {"path": "x"}
    assert recipe.model.gsp.ratio == 1.0 and isinstance(recipe.model.gsp.ratio, float)


def test_mapping_round_trip():
    recipe = recipe_from_mapping({"data": {"size": [28, 32]}, "loss": {"options": {"negative_margin": 0.6}}})
    mapping = to_mapping(recipe)
    assert mapping["data"]["size"] == [28, 32] and mapping["evaluation"]["recall_at"] == [1, 2, 4, 8]
    assert recipe_from_mapping(mapping) == recipe


@pytest.mark.parametrize(
    ("mapping", "key", "nearest"),
    [
        ({"sead": 4}, "sead", "seed"),
        ({"model": {"gsp": {"ratoi": 4}}}, "model.gsp.ratoi", "model.gsp.ratio"),
        ({"learning_rate": 4}, "learning_rate", "optimizer.learning_rate"),
        ({"optimiser": {}}, "optimiser", "optimizer"),
        ({"model": {"gps": {}}}, "model.gps", "model.gsp"),
    ],
)
def test_unknown_key_names_the_nearest(mapping, key, nearest):
    with pytest.raises(RecipeError, match=f"Unknown key '{key}'. Did you mean '{nearest}'"):
        recipe_from_mapping(mapping)


@pytest.mark.parametrize(
    ("mapping", "key"),
    [
        ({"seed": 4.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": "many"}, "seed"),
        ({"data": {"name": 4}}, "data.name"),
        ({"data": {"size": [1, 2, 3]}}, "data.size"),
        ({"data": {"size": [1, "x"]}}, "data.size"),
        ({"data": {"options": [1]}}, "data.options"),
        ({"model": {"gsp": {"ratio": "much"}}}, "model.gsp.ratio"),
        ({"model": {"gsp": {"ratio": True}}}, "model.gsp.ratio"),
        ({"model": {"gsp": {"solver": "newtown"}}}, "model.gsp.solver"),
        ({"model": 3}, "model must be a section"),
        ({"model": {"gsp": 3}}, "model.gsp must be a section"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate=-1.0; expected above 0"),
    ],
)
def test_wrong_values_are_named_in_one_line(mapping, key):
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping(mapping)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_nearest_key_looks_at_the_whole_and_at_the_end():
    known = ["model.gsp.ratio", "optimizer.learning_rate", "seed"]
    assert nearest_key("model.gsp.ratoi", known) == "model.gsp.ratio"
    assert nearest_key("learning_rat", known) == "optimizer.learning_rate"


@pytest.mark.parametrize("text", ["a: [1", "!!python/object:os.system {}"])
def test_bad_yaml_is_told_with_its_source(text):
    with pytest.raises(RecipeError, match="^some.yaml is not valid YAML"):
        parse_yaml(text, "some.yaml")
