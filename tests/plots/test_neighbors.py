import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from tfdml.plots import nearest_neighbors, style


def frames(figure):
    """(row, column) -> (colour, dashed) of the neighbours' frames, and the number of queries' frames."""
    found, queries = [], 0
    for patch in figure.axes[0].patches:
        assert isinstance(patch, Rectangle)
        color = to_hex(patch.get_edgecolor()).upper()
        if color == style.TEXT.upper():
            queries += 1
        else:
            found.append((patch.get_y(), patch.get_x(), color, patch.get_linestyle() != "solid"))
    return [(color, dashed) for _, _, color, dashed in sorted(found)], queries


def images_of(*shape, dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 256, shape)
    return values.astype(np.uint8) if dtype == np.uint8 else (values / 255.0).astype(dtype)


CORRECT = np.array([[True, False, True], [False, False, True]])


def test_right_frames_are_green_and_solid_wrong_ones_red_and_dashed():
    figure = nearest_neighbors(images_of(2, 8, 8, 1), images_of(2, 3, 8, 8, 1), CORRECT)
    found, queries = frames(figure)
    assert queries == 2
    assert found == [(style.RIGHT, False) if right else (style.WRONG.upper(), True) for right in CORRECT.ravel()]
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert (marks.count("✓"), marks.count("✗")) == (3, 3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["✓ same class", "✗ other class"]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_images_are_the_given_ones(dtype, channels):
    queries, neighbors = images_of(2, 8, 8, channels, dtype=dtype), images_of(2, 3, 8, 8, channels, dtype=dtype)
    drawn = nearest_neighbors(queries, neighbors, CORRECT).axes[0].images
    assert len(drawn) == 2 + 6
    given = np.concatenate([np.concatenate([queries[row : row + 1], neighbors[row]]) for row in range(2)])
    scale = 255.0 if dtype == np.uint8 else 1.0
    for image, expected in zip(drawn, given):
        expected = expected[..., :3].astype(np.float64) / scale
        np.testing.assert_allclose(image.get_array().reshape(expected.shape), expected, atol=1e-6)
        assert (image.norm.vmin, image.norm.vmax) == (0.0, 1.0)


def test_images_of_any_sizes_keep_their_proportions():
    queries = [images_of(8, 16, 3), images_of(30, 10)]
    neighbors = [[images_of(5, 5, 1)] * 3, [images_of(4, 8, 3)] * 3]
    axes = nearest_neighbors(queries, neighbors, CORRECT).axes[0]
    for image in axes.images:
        left, right, bottom, top = image.get_extent()
        height, width = image.get_array().shape[:2]
        assert (right - left) / (bottom - top) == pytest.approx(width / height)
        assert max(right - left, bottom - top) == pytest.approx(1.0)


def test_names_stand_below():
    figure = nearest_neighbors(
        images_of(2, 8, 8),
        images_of(2, 3, 8, 8),
        CORRECT,
        query_names=[5, "$x$"],
        neighbor_names=[["a", "b", "c"], ["d", "e", "f"]],
        title="Glyphs",
    )
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"5", "$x$", *"abcdef"} <= texts
    assert figure.get_suptitle() == "Glyphs"


@pytest.mark.parametrize(("queries", "neighbors"), [(1, 1), (6, 8), (2, 1), (1, 10)])
def test_everything_lies_in_the_figure(queries, neighbors):
    figure = nearest_neighbors(
        images_of(queries, 8, 8),
        images_of(queries, neighbors, 8, 8),
        np.ones((queries, neighbors), bool),
        query_names=["g"] * queries,
        title="title",
    )
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
    assert figure.get_size_inches()[0] <= style.TEXT_WIDTH + 1e-6


def test_errors():
    queries, neighbors = images_of(2, 8, 8), images_of(2, 3, 8, 8)
    with pytest.raises(ValueError, match="query_images does not match.*Received: 1 entries. Expected: 2"):
        nearest_neighbors(queries[:1], neighbors, CORRECT)
    with pytest.raises(ValueError, match="neighbor_images does not match.*Received: 1 entries. Expected: 2"):
        nearest_neighbors(queries, neighbors[:1], CORRECT)
    with pytest.raises(ValueError, match=r"neighbor_images\[0\] does not match.*Received: 2 entries. Expected: 3"):
        nearest_neighbors(queries, neighbors[:, :2], CORRECT)
    with pytest.raises(ValueError, match="query_names does not match.*Received: 3 entries. Expected: 2"):
        nearest_neighbors(queries, neighbors, CORRECT, query_names="abc")
    with pytest.raises(ValueError, match=r"neighbor_names\[1\] does not match.*Received: 1 entries. Expected: 3"):
        nearest_neighbors(queries, neighbors, CORRECT, neighbor_names=["abc", "d"])
    for wrong in (CORRECT[0], CORRECT[:0], CORRECT.astype(int)):
        with pytest.raises(ValueError, match="Expected: booleans"):
            nearest_neighbors(queries, neighbors, wrong)
    with pytest.raises(ValueError, match=r"query_images\[0\] is not an image. Received: shape \(8, 8, 2\)"):
        nearest_neighbors(images_of(2, 8, 8, 2), neighbors, CORRECT)
    with pytest.raises(ValueError, match=r"neighbor_images\[0\]\[0\] is a float image out of range.*Expected: 0..1"):
        nearest_neighbors(queries, neighbors.astype(np.float32), CORRECT)
    with pytest.raises(ValueError, match="Received: int64. Expected: uint8 or float"):
        nearest_neighbors(queries.astype(np.int64), neighbors, CORRECT)


def test_long_names_do_not_overlap():
    images, names = [np.zeros((8, 8, 3))] * 2, ["japanese-symbol-for-beginner", "a name\nof two lines, long ones"]
    figure = nearest_neighbors(
        images, [images * 3] * 2, correct=np.ones((2, 6), bool), query_names=names, neighbor_names=[names * 3] * 2
    )
    figure.set_dpi(200)  # At low resolutions characters are rounded to whole pixels.
    figure.savefig(io.BytesIO(), dpi=200)
    captions = [text for text in figure.axes[0].texts if "…" in text.get_text()]
    assert len(captions) == 14 and any(text.get_text().startswith("a name\nof two l") for text in captions)
    boxes = [text.get_window_extent() for text in captions]
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
