import numpy as np
import pytest
from matplotlib.colors import to_rgb

from studies.plots import prototype_maps
from studies.plots.attribute_histograms import prototype_color

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(size=(2, 6, 8, 1)).astype("float32")
SHARES = GENERATOR.uniform(size=(2, 3, 4))
NEAREST = GENERATOR.integers(0, 9, (2, 3, 4))
ROWS = {"without": (SHARES, NEAREST), "with": (SHARES[::-1], NEAREST)}


def test_colours_and_shares():
    figure = prototype_maps(IMAGES, ROWS, names=["a", "b"], title="title")
    panels = np.array(figure.axes).reshape(3, 2)
    np.testing.assert_allclose(panels[0, 1].images[0].get_array(), IMAGES[1, ..., 0])
    overlay = panels[2, 0].images[1].get_array()
    np.testing.assert_allclose(overlay[..., 3], SHARES[1])
    np.testing.assert_allclose(overlay[1, 2, :3], to_rgb(prototype_color(NEAREST[0, 1, 2])))
    # The map covers the whole image.
    assert panels[1, 0].images[1].get_extent() == panels[1, 0].images[0].get_extent()
    assert [axes.get_title() for axes in panels[0]] == ["a", "b"]
    assert [axes.get_ylabel() for axes in panels[1:, 0]] == list(ROWS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(i + 1) for i in np.unique(NEAREST)]
    assert figure.get_suptitle() == "title"


def test_everything_lies_in_the_figure():
    figure = prototype_maps(np.repeat(IMAGES, 5, 0), {"row": (np.repeat(SHARES, 5, 0), np.repeat(NEAREST, 5, 0))})
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    with pytest.raises(ValueError, match="0 images, 2 rows and no names"):
        prototype_maps(IMAGES[:0], ROWS)
    with pytest.raises(ValueError, match="2 images, 2 rows and 1 names"):
        prototype_maps(IMAGES, ROWS, names=["a"])
    with pytest.raises(ValueError, match="Shapes do not match"):
        prototype_maps(IMAGES, {"row": (SHARES, NEAREST[:1])})
    with pytest.raises(ValueError, match="Expected: 0 to 1"):
        prototype_maps(IMAGES, {"row": (2 + SHARES, NEAREST)})
