import pytest

from tfdml.plots import style


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a", "a"),
        ("Ж", "Ж"),
        (7, "7"),
        ("", ""),
        ("あ", "U+3042"),
        ("\t", "U+0009"),
        ("\u0301", "U+0301"),
        ("T-shirt あ", "T-shirt ?"),
        ("two words", "two words"),
    ],
)
def test_drawable(text, shown):
    assert style.drawable(text) == shown
