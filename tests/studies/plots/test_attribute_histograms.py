import numpy as np
import pytest

from studies.plots import attribute_histograms

MEANS = np.random.default_rng(0).dirichlet(np.ones(8), size=3)
ROWS = {"without": (MEANS, 0.1 * MEANS), "with": (MEANS[::-1], 0.2 * MEANS)}


def test_a_histogram_of_each_class_on_one_scale():
    figure = attribute_histograms(ROWS, ["a", "b", "c"], title="title")
    panels = np.array(figure.axes).reshape(2, 3)
    for row, (means, deviations) in zip(panels, ROWS.values()):
        for axes, mean, deviation in zip(row, means, deviations):
            np.testing.assert_allclose([bar.get_height() for bar in axes.patches], mean)
            (segments,) = [collection.get_segments() for collection in axes.collections]
            np.testing.assert_allclose([line[1, 1] - line[0, 1] for line in segments], 2 * deviation)
            assert axes.get_ylim() == panels[0, 0].get_ylim()
    assert panels[0, 0].get_ylim()[1] >= max((means + deviations).max() for means, deviations in ROWS.values())
    assert [axes.get_title() for axes in panels[0]] == ["a", "b", "c"]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[:, 0]] == list(ROWS)
    assert figure.get_suptitle() == "title"


def test_each_prototype_has_a_colour():
    axes = attribute_histograms(ROWS).axes[0]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 8
    assert axes.get_title() == "0"


def test_errors():
    with pytest.raises(ValueError, match="no rows"):
        attribute_histograms({})
    with pytest.raises(ValueError, match="do not match"):
        attribute_histograms({**ROWS, "other": (MEANS[:2], MEANS[:2])})
    with pytest.raises(ValueError, match="do not match"):
        attribute_histograms({"row": (MEANS[0], MEANS[0])})
    with pytest.raises(ValueError, match="not finite"):
        attribute_histograms({"row": (MEANS * np.nan, MEANS)})
    with pytest.raises(ValueError, match="2 class names and 3 classes"):
        attribute_histograms(ROWS, ["a", "b"])
