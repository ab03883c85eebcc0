import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import lines
from tfdml.plots import style

SERIES = {"first": ([1, 10, 100], [3.0, 2.0, 1.0]), "second": ([1, 10], [1.0, 4.0])}


def test_draws_labelled_lines():
    figure = lines(SERIES, "ε (1 / cost)", "time (ms)", x_log=True, title="title")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 3], [10, 2], [100, 1]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("ε (1 / cost)", "time (ms)")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [to_hex(line.get_color()).upper() for line in axes.lines] == list(style.PALETTE[:2])
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert figure.get_suptitle() == "title"


def test_band():
    (axes,) = lines(SERIES, "x", "y", spread={"second": [0.5, 1.0]}).axes
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == 0.5 and heights.max() == 5.0


def test_more_lines_than_colours_differ():
    (axes,) = lines({str(index): ([0, 1], [0, index]) for index in range(9)}, "x", "y").axes
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 9


def test_errors():
    with pytest.raises(ValueError, match="no line"):
        lines({}, "x", "y")
    with pytest.raises(ValueError, match=r"x of shape \(2,\) and y of shape \(3,\)"):
        lines({"a": ([1, 2], [1, 2, 3])}, "x", "y")
    with pytest.raises(ValueError, match=r"a spread for \['b'\]. Expected: names of \['a'\]"):
        lines({"a": ([1], [1])}, "x", "y", spread={"b": [1]})
