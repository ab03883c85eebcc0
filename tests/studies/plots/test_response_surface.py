import numpy as np
import pytest
from matplotlib.colors import to_hex

from studies.plots import response_surface
from tfdml.plots import style

X, Y = np.array([-7.0, -3.5, 0.0]), np.array([0.0, 4.0])
SURFACE = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
POINTS, VALUES = np.array([[-6.5, 0.0], [-2.0, 3.0], [0.0, 1.0]]), np.array([0.05, 0.7, 0.3])
LABELS = ("pull λ", "proxies", "MAP@R")


def test_surface_and_trials_share_their_colours():
    figure = response_surface(X, Y, SURFACE, POINTS, VALUES, *LABELS, title="title")
    axes, bar = figure.axes
    mesh, trials = axes.collections[0], next(c for c in axes.collections if len(c.get_offsets()) == 3)
    np.testing.assert_allclose(mesh.get_array().reshape(2, 3), SURFACE)
    np.testing.assert_allclose(trials.get_offsets(), POINTS)
    np.testing.assert_allclose(trials.get_array(), VALUES)
    for drawn in (mesh, trials):
        assert (drawn.norm.vmin, drawn.norm.vmax) == (0.05, 0.7) and drawn.cmap.name == style.SEQUENTIAL_COLORMAP
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == LABELS
    assert axes.get_xlim() == (-7.0, 0.0) and axes.get_ylim() == (0.0, 4.0)
    assert figure.get_suptitle() == "title"


def test_the_best_trial_has_a_star():
    figure = response_surface(X, Y, SURFACE, POINTS, VALUES, *LABELS)
    (star,) = figure.axes[0].lines
    np.testing.assert_allclose(star.get_xydata(), [[-2.0, 3.0]])
    assert star.get_marker() == "*" and to_hex(star.get_color()).upper() == style.ORANGE
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["best trial"]


def test_ticks_break_and_a_flat_surface():
    ticks = {"x_ticks": {-6.5: "0", 0.0: "1"}, "y_ticks": {2.0: "4"}}
    figure = response_surface(X, Y, np.ones((2, 3)), POINTS, VALUES, *LABELS, **ticks, x_break=-6)
    axes = figure.axes[0]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert set(line.get_xdata()) == {-6}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4"]
    figure.draw_without_rendering()


def test_errors():
    with pytest.raises(ValueError, match=r"surface of shape \(3, 2\). Expected: \(2, 3\)"):
        response_surface(X, Y, SURFACE.T, POINTS, VALUES, *LABELS)
    with pytest.raises(ValueError, match=r"points of shape \(3, 2\) and values of shape \(2,\)"):
        response_surface(X, Y, SURFACE, POINTS, VALUES[:2], *LABELS)
    with pytest.raises(ValueError, match="Shapes do not match"):
        response_surface(X, Y, SURFACE, np.zeros((0, 2)), [], *LABELS)
