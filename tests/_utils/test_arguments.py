"""Checks of arguments, and former names of arguments."""

import warnings

import numpy as np
import pytest

from tfdml._utils.arguments import FormerNames, check_whole_number, is_integer


class Base:
    def __init__(self, size=1):
        self.size = size

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Renamed(FormerNames, Base):
    former_names = {"dim": "size"}

    def __init__(self, size=1):
        super().__init__(size)


class Inherits(Renamed):
    pass


class RenamedAgain(Renamed):
    former_names = {"length": "size"}


@pytest.mark.parametrize("cls, former", [(Renamed, "dim"), (Inherits, "dim"), (RenamedAgain, "length")])
def test_former_names_are_renamed_with_one_warning(cls, former):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cls(**{former: 3}).size == 3
    assert [str(one.message) for one in caught] == [f"{cls.__name__}: the argument {former!r} is now 'size'."]
    assert caught[0].filename == __file__
    assert cls.from_config({former: 4}).size == 4


def test_an_inherited_constructor_is_not_wrapped_again():
    assert "__init__" not in vars(Inherits)
    assert Inherits.__init__ is Renamed.__init__


def test_whole_numbers():
    assert [check_whole_number("n", value, 0) for value in (0, 3.0, np.int8(2), 10**400)] == [0, 3, 2, 10**400]
    for value in (-1, 0.5, True, "1", None, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"Received: n=.*. Expected: an integer >= 0"):
            check_whole_number("n", value, 0)
    assert is_integer(np.int64(1)) and not is_integer(True) and not is_integer(1.0)
