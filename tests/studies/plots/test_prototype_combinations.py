import numpy as np
import pytest

from studies.plots import prototype_combinations

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
FEATURES = np.random.default_rng(1).uniform(size=(2, 9, 2))
PROTOTYPES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
WEIGHTS = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])


def test_average_combination_and_radius():
    figure = prototype_combinations(IMAGES, FEATURES, PROTOTYPES, WEIGHTS, 0.2, names=["car", "dog"], title="title")
    above, planes, neighbourhoods = figure.axes[:2], figure.axes[2:4], figure.axes[4:]
    assert [axes.get_title() for axes in above] == ["car", "dog"]
    np.testing.assert_allclose(above[1].images[0].get_array(), IMAGES[1, ..., 0] / 255.0, atol=1e-6)
    for index in range(2):
        average, combination = FEATURES[index].mean(axis=0), WEIGHTS[index] @ PROTOTYPES
        for axes in (planes[index], neighbourhoods[index]):
            prototypes, active, features = [points.get_offsets() for points in axes.collections[:3]]
            np.testing.assert_allclose(prototypes, PROTOTYPES)
            np.testing.assert_allclose(active, PROTOTYPES[WEIGHTS[index] > 0])
            np.testing.assert_allclose(features, FEATURES[index])
            (disc,) = axes.patches
            assert disc.radius == 0.2
            np.testing.assert_allclose(disc.center, average)
        axes = neighbourhoods[index]
        np.testing.assert_allclose([points.get_offsets()[0] for points in axes.collections[3:]], [average, combination])
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [average, combination])
        assert axes.get_title() == f"‖GAP − PCC‖ = {np.linalg.norm(average - combination):.3f}"
        # The whole disc, at a larger scale than the plane.
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert left < average[0] - 0.2 and right > average[0] + 0.2 and bottom < average[1] - 0.2
        assert right - left == pytest.approx(top - bottom) and right - left < 0.5 * np.ptp(planes[index].get_xlim())
    sizes = planes[1].collections[1].get_sizes()
    assert sizes[1] > sizes[0]
    assert "radius δ = 0.200" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("count", [1, 2])
def test_everything_lies_in_the_figure(count):
    figure = prototype_combinations(IMAGES[:count], FEATURES[:count], PROTOTYPES, WEIGHTS[:count], 0.2)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    with pytest.raises(ValueError, match=r"1 images, features \(2, 9, 2\)"):
        prototype_combinations(IMAGES[:1], FEATURES, PROTOTYPES, WEIGHTS, 0.2)
    with pytest.raises(ValueError, match=r"weights \(2, 2\)"):
        prototype_combinations(IMAGES, FEATURES, PROTOTYPES, WEIGHTS[:, :2], 0.2)
    with pytest.raises(ValueError, match="sum to 1"):
        prototype_combinations(IMAGES, FEATURES, PROTOTYPES, 2 * WEIGHTS, 0.2)
    with pytest.raises(ValueError, match="radius=0.0"):
        prototype_combinations(IMAGES, FEATURES, PROTOTYPES, WEIGHTS, 0.0)
