"""The syntax is that of the oldest supported Python. CI checks the use of the standard library with vermin."""

import ast
import configparser
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = [ROOT / "train.py", ROOT / "evaluate.py", *sorted((ROOT / "tfdml").rglob("*.py"))]


def _oldest():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return tuple(int(part) for part in setup["options"]["python_requires"].lstrip(">=").split("."))


def test_the_syntax_is_that_of_the_oldest_python():
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=_oldest())


def test_newer_syntax_is_found():
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=_oldest())
