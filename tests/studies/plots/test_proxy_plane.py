import numpy as np
import pytest

from studies.plots import ProxyPanel, proxy_plane

RNG = np.random.default_rng(0)
CENTRES = RNG.uniform(-1.0, 1.0, (8, 2))
LABELS = np.repeat(np.arange(8), 5)
POINTS = CENTRES[LABELS] + 0.02 * RNG.normal(size=(40, 2))
PROXIES = CENTRES[:, None] + 0.01 * RNG.normal(size=(8, 3, 2))


def panel(next_proxies=None):
    return ProxyPanel(POINTS, LABELS, PROXIES, next_proxies)


def marks(axes, count):
    """Places of the collections with `count` marks, in the order of the classes."""
    return [np.asarray(of.get_offsets()) for of in axes.collections if len(of.get_offsets()) == count]


def test_samples_and_proxies():
    figure = proxy_plane({"before": panel(), "after": panel(PROXIES + 0.1)}, title="title")
    before, after = figure.axes
    assert [axes.get_title() for axes in (before, after)] == ["before", "after"]
    np.testing.assert_allclose(np.concatenate(marks(before, 5)), POINTS)
    np.testing.assert_allclose(marks(before, 3), PROXIES)
    np.testing.assert_allclose(marks(after, 3)[::2], PROXIES)
    np.testing.assert_allclose(marks(after, 3)[1::2], PROXIES + 0.1)
    assert before.get_xlim() == after.get_xlim() and before.get_xlabel() == "dimension 1"
    assert before.get_ylabel() == "dimension 2" and after.get_ylabel() == ""
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["samples", "converged proxies", "next proxies"]
    assert figure.get_suptitle() == "title"


def test_many_samples_are_thinned_out():
    figure = proxy_plane({"few": panel(), "again": panel()}, max_points=12)
    everything, few = proxy_plane({"all": panel()}).axes[0], figure.axes[0]
    counts = [sum(len(of.get_offsets()) for of in axes.collections) - 24 for axes in (*figure.axes, everything)]
    assert counts == [12, 12, 40]
    for first, second in zip(*(axes.collections for axes in figure.axes)):
        np.testing.assert_array_equal(first.get_offsets(), second.get_offsets())
    assert [text.get_position() for text in few.texts] == [text.get_position() for text in everything.texts]


def test_without_next_proxies_the_legend_has_none():
    (legend,) = proxy_plane({"a": panel()}, proxies_name="images").legends
    assert [text.get_text() for text in legend.get_texts()] == ["samples", "images"]


def test_a_class_has_a_colour_of_its_own():
    (axes,) = proxy_plane({"a": panel()}).axes
    colors = {}
    for of in axes.collections:
        label = np.linalg.norm(CENTRES - np.asarray(of.get_offsets()).mean(axis=0), axis=1).argmin()
        colors.setdefault(label, set()).add(tuple(np.round(of.get_facecolor()[0][:3], 6)))
    assert all(len(of_class) == 1 for of_class in colors.values())
    assert len(set().union(*colors.values())) == 8


def test_names_stand_beside_their_classes():
    (axes,) = proxy_plane({"a": panel()}, class_names="abcdefgh").axes
    assert [text.get_text() for text in axes.texts] == list("abcdefgh")
    middle = POINTS.mean(axis=0)
    for label, text in enumerate(axes.texts):
        place, center = np.array(text.get_position()), np.median(POINTS[LABELS == label], axis=0)
        assert np.linalg.norm(place - middle) > np.linalg.norm(center - middle)
        assert 0.02 < np.linalg.norm(place - center) < 0.3


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 3))])
def test_panels_in_rows(count, shape):
    figure = proxy_plane({f"panel {index}\nof some": panel(PROXIES) for index in range(count)})
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    assert sum(axes.get_visible() for axes in figure.axes) == count
    # The lowest panel of a column has a label.
    assert sum(axes.get_xlabel() == "dimension 1" for axes in figure.axes) == min(count, 3)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_a_collapsed_plane_can_be_drawn():
    nothing = ProxyPanel(np.zeros((40, 2)), LABELS, np.zeros((8, 3, 2)))
    proxy_plane({"a": nothing}).draw_without_rendering()


@pytest.mark.parametrize(
    ("panels", "options", "message"),
    [
        ({}, {}, "0 panels"),
        ({"a": panel()}, {"columns": 0}, "columns=0"),
        ({"a": panel()}, {"max_points": 0}, "max_points=0"),
        ({"a": panel()._replace(points=np.zeros((40, 3)))}, {}, r"points of shape \(40, 3\)"),
        ({"a": panel()._replace(labels=LABELS[1:])}, {}, r"labels of shape \(39,\)"),
        ({"a": panel()._replace(proxies=PROXIES[0])}, {}, r"proxies of shape \(3, 2\)"),
        ({"a": panel(PROXIES[:7])}, {}, r"proxies of shape \(7, 3, 2\) and labels up to 7"),
        ({"a": panel(PROXIES * np.nan)}, {}, "NaN or infinity"),
    ],
)
def test_bad_input(panels, options, message):
    with pytest.raises(ValueError, match=message):
        proxy_plane(panels, **options)
