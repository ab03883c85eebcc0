import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import dot_plot
from tfdml.plots import style

NAMES = ["low", "high", "middle"]
SERIES = {
    "first": np.array([[1.0, 3.0], [8.0, 8.0], [4.0, 6.0]]),
    "second": np.array([[0.0, 2.0], [5.0, 7.0], [3.0, 3.0]]),
}


def test_means_and_deviations_in_order():
    figure = dot_plot(NAMES, SERIES, "MAP@R", title="title")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "middle", "low"]
    for container, (name, scores), color in zip(axes.containers, SERIES.items(), style.PALETTE):
        means, _, (bars,) = container
        assert container.get_label() == name and to_hex(means.get_color()).upper() == color
        np.testing.assert_allclose(means.get_xdata(), scores.mean(axis=1)[[1, 2, 0]])
        widths = [segment[1, 0] - segment[0, 0] for segment in bars.get_segments()]
        np.testing.assert_allclose(widths, 2 * scores.std(axis=1)[[1, 2, 0]])
    low, high = axes.get_ylim()
    assert low > high  # the first row at the top
    assert axes.get_xlabel() == "MAP@R" and figure.get_suptitle() == "title"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(SERIES)


def test_series_lie_beside_each_other_within_their_row():
    (axes,) = dot_plot(NAMES, SERIES, "x").axes
    heights = np.array([container[0].get_ydata() for container in axes.containers])
    assert (np.diff(heights, axis=0) > 0.1).all() and (np.rint(heights) == [0, 1, 2]).all()


def test_baseline_and_marks():
    (axes,) = dot_plot(NAMES, SERIES, "x", baseline="middle", emphasized=["high"], marks={"chance": 1.5}).axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [5.0, 3.0]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [(line.get_xdata()[0], line.get_label()) for line in dotted] == [(1.5, "chance")]
    (band,) = [patch for patch in axes.patches if patch.get_alpha() is not None]
    edges = axes.transData.inverted().transform(band.get_extents())[:, 1]
    np.testing.assert_allclose(sorted(edges), [0.5, 1.5])
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold", "normal", "normal"]


def test_one_repetition_and_given_order():
    (axes,) = dot_plot(NAMES, {"only": [[1.0], [3.0], [2.0]]}, "x", sort=False).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    np.testing.assert_allclose(axes.containers[0][0].get_xdata(), [1.0, 3.0, 2.0])


def test_everything_lies_in_the_figure():
    figure = dot_plot([f"a pooling of name {index}" for index in range(19)], {"C2": np.random.rand(19, 3)}, "MAP@R")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    with pytest.raises(ValueError, match="no series"):
        dot_plot(NAMES, {}, "x")
    with pytest.raises(ValueError, match=r"3 names and scores of shape \(2, 2\) for 'first'"):
        dot_plot(NAMES, {"first": np.zeros((2, 2))}, "x")
    with pytest.raises(ValueError, match="Received: 'other'"):
        dot_plot(NAMES, SERIES, "x", baseline="other")
