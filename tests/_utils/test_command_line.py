from typing import Literal, Optional, Union

import pytest

from tfdml._utils.command_line import CommandParser

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
