import numpy as np
import pytest

from tfdml.plots import pooling_maps, style


def weights(count, height=4, width=4, seed=0):
    maps = np.random.default_rng(seed).gamma(1.0, 1.0, (count, height, width))
    return maps / maps.sum(axis=(1, 2), keepdims=True)


def images_of(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def overlays(figure):
    return [
        image
        for axes in figure.axes
        for image in axes.images
        if image.get_alpha() is not None and image.cmap.name == style.SEQUENTIAL_COLORMAP
    ]


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_weights_lie_over_the_images_in_units_of_one_nth(count):
    images, maps = images_of(count, 12, 12, 3), weights(count)
    figure = pooling_maps(images, maps)
    assert len(visible(figure)) == 2 * count
    drawn = overlays(figure)
    np.testing.assert_allclose([image.get_array() for image in drawn], maps * 16)
    assert {tuple(image.get_extent()) for image in drawn} == {(0, 12, 12, 0)}
    assert len({(image.norm.vmin, image.norm.vmax) for image in drawn}) == 1
    assert drawn[0].norm.vmax == max(2.0, maps.max() * 16)


def test_the_images_themselves_are_shown():
    images = images_of(2, 12, 10, 3)
    figure = pooling_maps(images, weights(2))
    shown = [image.get_array() for axes in visible(figure)[:2] for image in axes.images]
    np.testing.assert_allclose(shown, images / 255.0, atol=1e-6)


def test_average_pooling_is_one_everywhere():
    figure = pooling_maps(np.zeros((2, 8, 8, 1), np.float32), np.full((2, 3, 5), 1 / 15, np.float32))
    for image in overlays(figure):
        np.testing.assert_allclose(image.get_array(), 1.0, rtol=1e-6)
        assert (image.norm.vmin, image.norm.vmax) == (0.0, 2.0)


def test_labels_names_and_colour_bar():
    figure = pooling_maps(images_of(3, 8, 8), weights(3), names=["a", "あ", 7], title="maps", interpolation="bilinear")
    assert [axes.get_title() for axes in visible(figure)[:3]] == ["a", "U+3042", "7"]
    assert {axes.get_ylabel() for axes in visible(figure)} == {"image", "weights", ""}
    assert any("average pooling" in axes.get_ylabel() for axes in figure.axes)
    assert {image.get_interpolation() for image in overlays(figure)} == {"bilinear"}
    assert figure.get_suptitle() == "maps"


@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_everything_lies_in_the_figure(count):
    figure = pooling_maps(images_of(count, 8, 8), weights(count), names=["g"] * count, title="title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_errors():
    images, maps = images_of(2, 8, 8, 1), weights(2)
    with pytest.raises(ValueError, match="Received: 1 images and 2 maps"):
        pooling_maps(images[:1], maps)
    with pytest.raises(ValueError, match=r"maps of shape \(4, 4\)"):
        pooling_maps(images, maps[0])
    with pytest.raises(ValueError, match=r"maps of shape \(0, 4, 4\)"):
        pooling_maps(images[:0], maps[:0])
    with pytest.raises(ValueError, match="Received: 3 names and 2 images"):
        pooling_maps(images, maps, names="abc")
    with pytest.raises(ValueError, match="a map that sums to 16. Expected: 1"):
        pooling_maps(images, np.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="Expected: finite weights >= 0"):
        pooling_maps(images, -maps)
    with pytest.raises(ValueError, match="Expected: finite weights >= 0"):
        pooling_maps(images, maps * np.nan)
    with pytest.raises(ValueError, match="interpolation='cubic'"):
        pooling_maps(images, maps, interpolation="cubic")
    with pytest.raises(ValueError, match=r"images\[0\] is not an image"):
        pooling_maps(images_of(2, 8, 8, 2), maps)
