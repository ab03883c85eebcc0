import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import LinePanel, line_panels
from tfdml.plots import style

TIME = LinePanel("time (ms)", {"b": ([1, 10], [3, 4]), "a": ([1, 10], [1, 2])}, {"a": ([0.5, 1.5], [1.5, 2.5])},
                 {"floor": 0.7}, y_log=True)  # fmt: skip
MEMORY = LinePanel("memory (MiB)", {"a": ([1, 100], [5, 6])})


def test_panels_share_looks_and_legend():
    figure = line_panels([TIME, MEMORY], "iterations k", x_log=True, title="title")
    first, second = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["time (ms)", "memory (MiB)"]
    assert first.get_xlabel() == second.get_xlabel() == "iterations k"
    assert (first.get_yscale(), second.get_yscale(), second.get_xscale()) == ("log", "linear", "log")
    np.testing.assert_allclose(first.lines[1].get_xydata(), [[1, 1], [10, 2]])
    of_a = (first.lines[1], second.lines[0])
    assert {to_hex(line.get_color()).upper() for line in of_a} == {style.PALETTE[1]}
    assert len({line.get_marker() for line in of_a}) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a", "floor"]
    assert [label.get_text() for label in second.get_xticklabels()] == ["1", "100"]
    assert figure.get_suptitle() == "title"


def test_band_and_level():
    axes = line_panels([TIME], "x").axes[0]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.5, 2.5)
    assert set(axes.lines[-1].get_ydata()) == {0.7} and axes.get_xscale() == "linear"


def test_errors():
    with pytest.raises(ValueError, match="Received: 0 panels"):
        line_panels([], "x")
    with pytest.raises(ValueError, match="Received: 2 panels"):
        line_panels([TIME, LinePanel("y", {})], "x")
    with pytest.raises(ValueError, match=r"x of shape \(1,\) and y of shape \(2,\)"):
        line_panels([LinePanel("y", {"a": ([1], [1, 2])})], "x")
    with pytest.raises(ValueError, match=r"a band for 'b'. Expected: names of \['a'\]"):
        line_panels([LinePanel("y", {"a": ([1], [1])}, {"b": ([0], [2])})], "x")
