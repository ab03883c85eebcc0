import dataclasses
import time
from typing import Optional

import pytest

from tfdml._utils.input_errors import InputError
from tfdml._utils.naming import nearest_name, suggestion
from tfdml._utils.typed_values import parse_yaml, replace, to_mapping


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1
    name: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    seed: int = 0


def test_replace_changes_dotted_keys():
    changed = replace(Outer(), {"inner.size": 3, "seed": 4, "inner.name": "x"})
    assert changed == Outer(Inner(3, "x"), 4) and to_mapping(changed)["inner"] == {"size": 3, "name": "x"}
    assert replace(Outer(), {}) == Outer()
    with pytest.raises(TypeError):
        replace(Outer(), {"inner.siz": 3})


def test_numbers_with_exponents():
    assert parse_yaml("{a: 1e-3, b: -2E5, c: 1e, d: 2020-01-02, e: 0x1f, f: .inf}", "x") == {
        "a": 1e-3, "b": -2e5, "c": "1e", "d": "2020-01-02", "e": 31, "f": float("inf"),
    }  # fmt: skip


def test_the_nearest_name_looks_at_the_whole_and_at_the_end():
    known = ["model.gsp.ratio", "optimizer.learning_rate", "seed"]
    assert nearest_name("model.gsp.ratoi", known) == "model.gsp.ratio"
    assert nearest_name("learning_rat", known) == "optimizer.learning_rate"
    assert suggestion("sed", ["seed", *known]) == " Did you mean 'seed'?"
    assert suggestion("xyz", known) == suggestion("seed", []) == ""


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
    with pytest.raises(InputError, match="^some.yaml is ") as error:
        parse_yaml(text, "some.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert time.process_time() - began < 2


def test_aliases_that_are_no_bomb():
    assert parse_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}", "x")["c"] == {"x": [1, 2], "y": 3}
