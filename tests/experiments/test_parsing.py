import time
from typing import Literal, Optional, Union

import pytest

from tfdml.experiments.errors import RecipeError, nearest_key
from tfdml.experiments.parsing import CommandParser, parse_yaml, recipe_from_mapping, to_mapping
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


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"seed": "many"}, "seed has the wrong type or value. Received: 'many'. Expected: an integer."),
        ({"seed": 10**100}, "seed is too large. Received: an integer of 333 bits. Expected: less than 2**63."),
        ({"seed": 2**40}, "seed=1099511627776; expected 0 <= seed < 2**32"),
        ({10**6000: 1}, "Unknown key 'an integer of 19932 bits'."),
        ({"training": {"steps_per_validation": 10**20}}, "training.steps_per_validation is too large. Received: 1000"),
        ({"training": {"max_validations": 10**12}}, "training.max_validations=1000000000000; expected at most 4,294,9"),
        ({"model": {"embedding_size": 99999999999}}, "model.embedding_size=99999999999; expected at most 65,536"),
        ({"model": {"gsp": {"prototypes": 0}}}, "model.gsp.prototypes=0; expected at least 1"),
        ({"data": {"size": [8, 10**9]}}, "data.size=(8, 1000000000); expected at most 16,384"),
        ({"optimizer": {"learning_rate": float("inf")}}, "learning_rate is not finite. Received: inf. Expected: a fin"),
        ({"optimizer": {"learning_rate": "1e400"}}, "optimizer.learning_rate has the wrong type or value"),
        ({"loss": {"options": {"a": 10**20}}}, "loss.options has the wrong type or value"),
        ({"loss": {"options": {3: 1}}}, "Expected: a mapping from names of options to plain values."),
        ({"data": {"size": [1, 2, 3]}}, "Received: [1, 2, 3]. Expected: an integer or a list of 2 integers or null."),
        ({"data": {"test_classes": "all"}}, "Received: 'all'. Expected: a finite number or published."),
        ({"model": {"gsp": {"solver": ["a"]}}}, "Received: ['a']. Expected: one of newton, bregman."),
        ({"evaluation": {"recall_at": list(range(1, 99)) + ["x"]}}, "Received: a list of 99 items. Expected: a"),
        ({"name": ["x" * 500]}, "… (504 characters). Expected: text."),
    ],
)
def test_messages(mapping, message):
    with pytest.raises(RecipeError) as error:
        recipe_from_mapping(mapping)
    assert message in str(error.value) and len(str(error.value)) < 400


def test_numbers_in_text_and_in_exponents():
    for value in (1e-3, "1e-3", parse_yaml("1e-3", "x")):
        assert recipe_from_mapping({"optimizer": {"learning_rate": value}}).optimizer.learning_rate == 1e-3
    assert parse_yaml("{a: 1e-3, b: -2E5, c: 1e, d: 2020-01-02, e: 0x1f, f: .inf}", "x") == {
        "a": 1e-3, "b": -2e5, "c": "1e", "d": "2020-01-02", "e": 31, "f": float("inf"),
    }  # fmt: skip


def test_nearest_key_looks_at_the_whole_and_at_the_end():
    known = ["model.gsp.ratio", "optimizer.learning_rate", "seed"]
    assert nearest_key("model.gsp.ratoi", known) == "model.gsp.ratio"
    assert nearest_key("learning_rat", known) == "optimizer.learning_rate"


def bomb(levels=20):
    """YAML of a few hundred bytes with 10**levels values when its aliases are expanded."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 10)}]" for n in range(levels)]
    return "\n".join(lines)


BAD_YAML = [
    ("a: [1", "expected ',' or ']'"),
    ("!!python/object:os.system {}", "could not determine a constructor"),
    ("seed: " + "9" * 5000, "an integer is too large in line 1"),
    ("seed: 0x" + "f" * 5000, "an integer is too large in line 1"),
    ("a: 1e400", "1e400 is too large"),
    ("a: !!timestamp 2020-99-99", "month must be in 1..12"),
    ("a: &a [*a]", "nested deeper than 32 levels, or an alias refers to itself"),
    ("a: &a {b: *a}", "nested deeper than 32 levels, or an alias refers to itself"),
    ("[" * 100_000, "nested deeper than 32 levels"),
    ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
    ("{a: " * 2000, "nested deeper than 32 levels"),
    ("\n".join("  " * n + "a:" for n in range(40)), "nested deeper than 32 levels"),
    ("- " * 2000 + "1", "nested too"),
    (bomb(), "more than 100,000 values when its aliases are expanded"),
    ("a: 1\nb: 2\na: 3", "the key 'a' is given twice, again in line 3"),
    ("{[1]: 2}", "unhashable key"),
    ("\0", "special characters are not allowed"),
    ("a: !!int x", "invalid literal"),
    ("# " + "x" * 1_000_001, "is too long. Received: 1,000,003 characters. Expected: at most 1,000,000."),
]


@pytest.mark.parametrize(("text", "message"), BAD_YAML, ids=range(len(BAD_YAML)))
def test_bad_yaml_is_told_in_one_line_and_at_once(text, message):
    began = time.process_time()
    with pytest.raises(RecipeError, match="^some.yaml is ") as error:
        parse_yaml(text, "some.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert time.process_time() - began < 2


def test_aliases_that_are_no_bomb():
    assert parse_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}", "x")["c"] == {"x": [1, 2], "y": 3}


OPTION_VALUES = [
    (["--options.min_typefaces", "20"], {"min_typefaces": 20}),
    (["--options.verify", "false"], {"verify": False}),
    (["--options.verify=false", "--options.low", "-3"], {"verify": False, "low": -3}),
    (["--options", "{a: 1, b: {c: 2}}", "--options.b.d", "[x, 1e-3]"], {"a": 1, "b": {"c": 2, "d": ["x", 1e-3]}}),
    (["--options.path", "007", "--options.characters", "'007'"], {"path": "007", "characters": "007"}),
    (["--options.counts", "any", "--options.nothing", "null"], {"counts": "any", "nothing": None}),
]


@pytest.mark.parametrize(("arguments", "options"), OPTION_VALUES)
def test_values_of_options_are_yaml(arguments, options):
    parser = CommandParser()
    parser.add_argument("--options", type=dict)
    assert parser.parse_given(arguments) == {"options": options}


def test_values_of_every_type():
    parser = CommandParser()
    for name, kind in {
        "whole": int, "number": float, "text": str, "name": Optional[str], "yes": bool, "choice": Literal["a", "1"],
        "level": Literal[0, 1], "share": Union[float, Literal["all"]], "size": Union[int, tuple[int, int]],
        "many": tuple[int, ...],
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=kind)
    line = "--whole -3 --number 1e-3 --text null --name null --yes true --choice 1 --level 1 --share all --size [1,2]"
    given = parser.parse_given([*line.split(), "--many=[]"])
    assert given == {
        "whole": -3, "number": 1e-3, "text": "null", "name": None, "yes": True, "choice": "1", "level": 1,
        "share": "all", "size": (1, 2), "many": (),
    }  # fmt: skip
    assert parser.parse_given([]) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options.x"], "argument --options.x: expected one argument"),
        (["--options", "3"], "--options has the wrong type or value. Received: 3. Expected: a mapping"),
        (["--options.x", "[1"], "--options.x is not valid YAML"),
        (["--options.x", "9" * 5000], "--options.x is not valid YAML: an integer is too large"),
        (["--optoins.x", "1"], "Unknown option --optoins.x. Did you mean --options?"),
        (["--whole", "2.0"], "error: --whole has the wrong type or value. Received: 2.0. Expected: an integer."),
        (["--whole", "1", "x"], "unrecognized arguments: x"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(capsys, arguments, message):
    parser = CommandParser(prog="command")
    parser.add_argument("--options", type=dict)
    parser.add_argument("--whole", type=int)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_given(arguments)
    shown = capsys.readouterr().err
    assert exit_.value.code == 2 and message in shown and shown.count("\n") == 1 and shown.startswith("command: ")
