import logging
import unicodedata
import warnings

import pytest
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from tfdml.plots import embedding_map, save, style


@pytest.fixture(autouse=True)
def fallbacks(monkeypatch):
    """No typeface but the one of matplotlib, whatever is installed here; returns what chooses others."""

    def choose(*names):
        monkeypatch.setattr(style, "FALLBACKS", names)
        style._installed_fallbacks.cache_clear()
        style._glyphs.cache_clear()

    choose()
    monkeypatch.setattr(style, "_warned", [])
    yield choose
    monkeypatch.undo()
    style._installed_fallbacks.cache_clear()
    style._glyphs.cache_clear()


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


def test_a_missing_glyph_is_told_once(caplog):
    with caplog.at_level(logging.WARNING):
        assert style.drawable("あいう") == "???" and style.drawable("漢") == "U+6F22"
    (record,) = caplog.records
    assert "Received: U+3042 (HIRAGANA LETTER A)" in record.message and "fonts-noto-cjk" in record.message


def test_other_typefaces_give_what_the_first_lacks(fallbacks, caplog, tmp_path):
    # It comes with matplotlib, as does the first.
    bold = FontProperties("STIXGeneral", weight="bold")
    other, own = (FT2Font(findfont(font)).get_charmap() for font in (bold, style.TYPEFACE))
    missing = map(chr, sorted(set(other) - set(own)))
    character = next(one for one in missing if unicodedata.category(one) in ("Lu", "Ll", "Lo", "Sm", "So"))
    assert style.drawable(f"a{character}") == "a?"
    fallbacks("Of Nobody", "STIXGeneral")
    assert style.typefaces() == [style.TYPEFACE, "STIXGeneral"]
    name = f"a{character}"
    assert style.drawable(name) == name and style.drawable(character) == character
    with warnings.catch_warnings():
        # A missing glyph is a warning of matplotlib.
        warnings.simplefilter("error")
        save(embedding_map([[0.0, 1.0], [1.0, 0.0]], [0, 1], [name, "b"], title=name), tmp_path / "map.png")
