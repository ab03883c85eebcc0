import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tfdml import Gallery
from tfdml.gallery import Classification, SearchResult
from tfdml.plots import search_sheet, style

VECTORS = np.array([[0.0], [1.0], [3.0], [7.0]])
LABELS = ["cat", "cat", "dog", None]


def images_of(count, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def search(k=3, **options):
    gallery = Gallery()
    gallery.add(VECTORS[:3], ids=["a", "b", "c"], labels=LABELS[:3])
    gallery.add(VECTORS[3:], ids=["d"])
    return gallery.search([[0.2], [2.6]], k, **options)


IMAGES = dict(zip("abcd", images_of(4)))


def frames(figure):
    """Colors of the frames of queries and of items, from left to right and top to bottom."""
    patches = sorted(figure.axes[0].patches, key=lambda patch: (patch.get_y(), patch.get_x()))
    colors = [(patch.get_x() == 0, to_hex(patch.get_edgecolor()).upper()) for patch in patches]
    return [color for is_query, color in colors if is_query], [color for is_query, color in colors if not is_query]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


GOOD, BAD, QUIET, BLACK = (color.upper() for color in (style.RIGHT, style.WRONG, style.QUIET, style.TEXT))


def test_images_labels_and_distances_are_those_of_the_result():
    queries = images_of(2, seed=1)
    figure = search_sheet(queries, search(), IMAGES, title="Search")
    # The ranking of the first query is a b c, that of the second c b a.
    expected = [queries[0], *(IMAGES[name] for name in "abc"), queries[1], *(IMAGES[name] for name in "cba")]
    for drawn, image in zip(figure.axes[0].images, expected):
        np.testing.assert_allclose(drawn.get_array(), image / 255, atol=1e-6)
    assert len(figure.axes[0].images) == 8
    captions = ["cat\n0.2", "cat\n0.8", "dog\n2.8", "dog\n0.4", "cat\n1.6", "cat\n2.6"]
    assert [text for text in texts(figure) if "\n" in text] == captions
    assert frames(figure) == ([BLACK] * 2, [QUIET] * 6)
    assert not figure.legends and figure.get_suptitle() == "Search"


def test_verdicts_by_label():
    figure = search_sheet(images_of(2), search(), IMAGES, query_labels=np.array(["cat", "dog"]))
    assert frames(figure)[1] == [GOOD, GOOD, BAD, GOOD, BAD, BAD]
    assert texts(figure).count("✓") == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["✓ same label", "✗ other label"]
    assert {"cat", "dog"} <= set(texts(figure))


def test_verdicts_by_threshold_and_classification():
    known = Classification(np.array(["cat", "dog"], object), np.array([0.2, 0.4]), np.array([True, False]))
    figure = search_sheet(images_of(2), search(), IMAGES, threshold=0.5, classification=known)
    of_queries, of_items = frames(figure)
    assert of_items == [GOOD, BAD, BAD, GOOD, BAD, BAD]
    assert of_queries == [GOOD, BAD]
    assert "unknown" in texts(figure) and "cat" in texts(figure) and "dog" not in texts(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["✓ distance up to 0.5", "✗ farther"]
    figure = search_sheet(images_of(2), search(), IMAGES, classification=known, query_names=["x", "y"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["✓ known", "✗ unknown"]
    assert {"x", "y"} <= set(texts(figure))


def test_missing_items_leave_their_place_empty():
    figure = search_sheet(images_of(2), search(k=4, exclude=[["a", "b", "c"], "d"]), IMAGES, threshold=1.0)
    assert len(figure.axes[0].images) == 2 + 1 + 3
    assert "6.8" in texts(figure)
    assert not any("inf" in text for text in texts(figure))


def test_files_are_read(tmp_path):
    # A large image is reduced, transparent pixels are white.
    Image.fromarray(np.full((600, 300, 3), 7, np.uint8)).save(tmp_path / "large.png")
    transparent = np.zeros((4, 4, 4), np.uint8)
    transparent[:2] = (10, 20, 30, 255)
    Image.fromarray(transparent).save(tmp_path / "transparent.png")
    ids = [[str(tmp_path / "large.png"), str(tmp_path / "transparent.png")]]
    result = SearchResult(np.array(ids), np.array([["x" * 30, None]], object), np.array([[0.5, 1.0]]))
    figure = search_sheet([tmp_path / "large.png"], result)
    query, large, small = (image.get_array() for image in figure.axes[0].images)
    assert query.shape == large.shape == (256, 128, 3)
    np.testing.assert_allclose(large, 7 / 255)
    np.testing.assert_allclose(small[0] * 255, [[10, 20, 30]] * 4, atol=1e-4)
    np.testing.assert_allclose(small[3], 1)
    assert f"{'x' * 13}…\n0.5" in texts(figure)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"query_images\[0\] cannot be read.*bad\.png"):
        search_sheet([tmp_path / "bad.png"], result)
    with pytest.raises(FileNotFoundError):
        search_sheet([tmp_path / "missing.png"], result)


def test_the_size_is_limited():
    count = 25
    result = SearchResult(np.zeros((count, 12), int), np.full((count, 12), None), np.ones((count, 12)))
    figure = search_sheet(images_of(count), result, lambda item: IMAGES["abcd"[item]], threshold=2)
    assert len(figure.axes[0].images) == 20 * 11
    figure = search_sheet(images_of(count), result, lambda item: IMAGES["a"], max_queries=1, max_neighbors=2)
    assert len(figure.axes[0].images) == 3
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((images_of(1),), {}, ValueError, "query_images does not fit the result. Received: 1 entries for 2"),
        ((images_of(2),), {"query_labels": ["cat"]}, ValueError, "query_labels does not fit"),
        ((images_of(2),), {"query_names": "abc"}, ValueError, "query_names does not fit"),
        ((images_of(2),), {"query_labels": LABELS[:2], "threshold": 1}, ValueError, "two verdicts"),
        ((images_of(2),), {"max_queries": 0}, ValueError, "max_queries=0"),
        ((images_of(2),), {"max_neighbors": 0}, ValueError, "max_neighbors=0"),
        ((images_of(2),), {"images": {}}, KeyError, "images without 'a'"),
        ((images_of(2, 8)[..., :2],), {}, ValueError, r"query_images\[0\] is not an image"),
    ],
)
def test_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        search_sheet(*arguments, search(), **{"images": IMAGES, **options})


def test_ids_that_are_not_paths_need_images():
    result = SearchResult(np.array([[3]]), np.array([[None]]), np.array([[1.0]]))
    with pytest.raises(TypeError, match="Received: 3 and images=None"):
        search_sheet(images_of(1), result)
    empty = SearchResult(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(ValueError, match="nothing to draw"):
        search_sheet([], empty)
