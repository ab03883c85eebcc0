import numpy as np
import pytest

from studies.plots import HullPanel, class_hulls

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
POINTS, LABELS = np.concatenate([0.5 * SQUARE, SQUARE + 3.0]), np.repeat([0, 7], 4)


def panel(**options):
    return HullPanel({0: SQUARE, 7: SQUARE + 3.0}, POINTS, LABELS, **options)


def test_draws_hulls_points_and_marks():
    marks = {"own": (POINTS[:2], [0, 7]), "shared": (POINTS[2:3], None)}
    figure = class_hulls({"left": panel(), "right": panel(marks=marks)}, points_name="bags", title="title")
    left, right = figure.axes
    assert [axes.get_title() for axes in (left, right)] == ["left", "right"]
    np.testing.assert_allclose(left.patches[1].get_xy()[:4], SQUARE + 3.0)
    np.testing.assert_allclose(left.collections[0].get_offsets(), POINTS)
    assert len(left.collections) == 1 and len(right.collections) == 3
    assert [text.get_text() for text in left.texts] == ["0", "7"]
    assert left.get_xlim() == right.get_xlim()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["hull of a class", "bags", "own", "shared"]
    assert figure.get_suptitle() == "title"


def test_a_class_has_one_colour():
    figure = class_hulls({"a": panel(), "b": HullPanel({7: SQUARE})})
    first, second = figure.axes
    assert first.patches[1].get_edgecolor() == second.patches[0].get_edgecolor()
    assert first.patches[0].get_edgecolor() != first.patches[1].get_edgecolor()
    # Points of a class have the color of its hull.
    np.testing.assert_allclose(first.collections[0].get_facecolors()[-1], first.patches[1].get_edgecolor())


def test_a_colour_comes_back_with_another_line():
    (axes,) = class_hulls({"a": HullPanel({label: SQUARE + 2.0 * label for label in range(12)})}).axes
    looks = {(patch.get_edgecolor(), str(patch.get_linestyle())) for patch in axes.patches}
    assert len(looks) == 12 and len({color for color, _ in looks}) == 6


def test_texts_of_one_place_do_not_cover_each_other():
    (axes,) = class_hulls({"a": HullPanel({**dict.fromkeys(range(4), SQUARE), 9: SQUARE + 3.0})}).axes
    places = np.array([text.get_position() for text in axes.texts])
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(5)
    assert apart.min() > 0.04 * np.ptp(axes.get_xlim())
    assert np.abs(places[:4] - 0.5).max() < 0.15 * np.ptp(axes.get_xlim())
    # With enough room, the text is at the hull.
    np.testing.assert_allclose(places[4], [3.5, 3.5])


def test_a_small_hull_stays_visible():
    (axes,) = class_hulls({"a": HullPanel({0: 1e-3 * SQUARE, 1: SQUARE + 3.0})}).axes
    small, large = [np.array(text.get_position()) for text in axes.texts]
    assert small[0] == pytest.approx(0.0, abs=1e-3) and small[1] > 0.02 * np.ptp(axes.get_ylim())
    np.testing.assert_allclose(large, [3.5, 3.5])


def test_names():
    (axes,) = class_hulls({"a": panel()}, class_names=dict(enumerate("abcdefgh"))).axes
    assert [text.get_text() for text in axes.texts] == ["a", "h"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_everything_lies_in_the_figure(count):
    panels = {str(index): panel(marks={"marks of some kind": (SQUARE, None)}) for index in range(count)}
    figure = class_hulls(panels, title="title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


@pytest.mark.parametrize("panels", [{}, {"empty": HullPanel({})}])
def test_nothing_to_draw(panels):
    with pytest.raises(ValueError, match="Each panel needs at least one hull"):
        class_hulls(panels)
