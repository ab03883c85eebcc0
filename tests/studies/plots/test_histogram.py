import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import histogram
from tfdml.plots import style

GROUPS = {"first": [10, 10, 25], "later": [30, 50, 50, 50], "none": []}
EDGES = [0, 20, 40, 60]


def test_bars_stand_on_each_other():
    figure = histogram(GROUPS, EDGES, "steps", "problems", title="title")
    (axes,) = figure.axes
    bars = {container.get_label(): container.patches for container in axes.containers}
    heights = {name: [bar.get_height() for bar in of_group] for name, of_group in bars.items()}
    assert heights == {"first": [2, 1, 0], "later": [0, 1, 3], "none": [0, 0, 0]}
    assert [bar.get_y() for bar in bars["later"]] == [2, 1, 0]
    assert [(bar.get_x(), bar.get_width()) for bar in bars["first"]] == [(0, 20), (20, 20), (40, 20)]
    assert [to_hex(of_group[0].get_facecolor()).upper() for of_group in bars.values()] == list(style.PALETTE[:3])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "problems")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(GROUPS)
    assert figure.get_suptitle() == "title"


def test_marks_and_whole_numbers():
    figure = histogram({"few": [1.0, 2.0]}, [0.0, 3.0], "x", marks={"median 1.5": 1.5, "mean": 1.6})
    (axes,) = figure.axes
    assert [(line.get_label(), line.get_xdata()[0]) for line in axes.lines] == [("median 1.5", 1.5), ("mean", 1.6)]
    assert len({line.get_linestyle() for line in axes.lines}) == 2
    figure.draw_without_rendering()
    assert all(tick == int(tick) for tick in axes.get_yticks())


def test_the_last_interval_has_both_bounds():
    (axes,) = histogram({"all": np.array([0.0, 1.0, 2.0])}, [0, 1, 2], "x").axes
    assert [bar.get_height() for bar in axes.patches] == [1, 2]


def test_errors():
    with pytest.raises(ValueError, match="2 groups without a value"):
        histogram({"a": [], "b": []}, EDGES, "x")
    with pytest.raises(ValueError, match="values 10 to 61. Expected: 0 to 60"):
        histogram({"a": [10, 61]}, EDGES, "x")
    with pytest.raises(ValueError, match="values nan to nan"):
        histogram({"a": [10, np.nan]}, EDGES, "x")
