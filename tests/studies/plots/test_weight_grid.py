import numpy as np
import pytest

from studies.plots import weight_grid
from tfdml.plots import style

IMAGE = np.random.default_rng(0).uniform(size=(4, 5, 3)).astype("float32")
MAPS = np.random.default_rng(1).uniform(size=(2, 3, 4, 5))
ROWS, COLUMNS = ["μ = 0.2", "μ = 0.5"], ["ε = 1", "ε = 5", "linear program"]


def test_one_scale_for_all_maps():
    figure = weight_grid(IMAGE, MAPS, ROWS, COLUMNS, label="share of the mass", limit=2.0, title="title")
    drawn = [image for axes in figure.axes for image in axes.images if image.cmap.name == style.SEQUENTIAL_COLORMAP]
    np.testing.assert_allclose([image.get_array() for image in drawn], MAPS.reshape(6, 4, 5))
    assert {(image.norm.vmin, image.norm.vmax) for image in drawn} == {(0.0, 2.0)}
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), IMAGE)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["features", *COLUMNS]
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ROWS
    assert "share of the mass" in [axes.get_xlabel() for axes in figure.axes]
    assert figure.get_suptitle() == "title"


def test_scale_ends_at_the_largest_weight():
    figure = weight_grid(IMAGE, MAPS[:1], ROWS[:1], COLUMNS)
    assert figure.axes[1].images[0].norm.vmax == MAPS[0].max()


@pytest.mark.parametrize("rows", [1, 3])
def test_everything_lies_in_the_figure(rows):
    figure = weight_grid(IMAGE, np.repeat(MAPS[:1], rows, 0), ["row"] * rows, COLUMNS, title="title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    with pytest.raises(ValueError, match="2 row names and 2 column names"):
        weight_grid(IMAGE, MAPS, ROWS, COLUMNS[:2])
    with pytest.raises(ValueError, match="Expected: finite weights >= 0"):
        weight_grid(IMAGE, -MAPS, ROWS, COLUMNS)
