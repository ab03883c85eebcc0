"""Contact sheets of searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfdml._utils.arguments import check_whole_number
from tfdml.plots import style
from tfdml.plots.neighbors import draw_sheet
from tfdml.plots.pixels import as_pixels, as_thumbnail

# Pixels: longer side of an image on the sheet, at 200 pixels per inch.
_SIDE = 256
_MAX_CHARACTERS = 14


def search_sheet(
    query_images: Sequence[Any],
    result: Any,
    images: Mapping[Any, Any] | Callable[[Any], Any] | None = None,
    *,
    query_labels: Sequence[Any] | None = None,
    threshold: float | None = None,
    classification: Any = None,
    query_names: Sequence[str] | None = None,
    max_queries: int = 20,
    max_neighbors: int = 10,
    width: float = style.TEXT_WIDTH,
    title: str | None = None,
) -> Figure:
    r"""Plot a contact sheet of a search: queries, one per row, and the items found, with labels and distances.

    Frames of items tell a verdict, which is either given by `query_labels` (the same label is green and solid, another
    one red and dashed) or by `threshold` (distances up to it are green); without both, frames are gray. With a
    classification, the frame of a query is green if it is known.

    Args:
        query_images: Sequence of `n` images or paths of image files. Images are uint8, or float in 0–1, with 1, 3 or 4
            channels, of any sizes.
        result: `SearchResult` of the queries. Places of missing items stay empty.
        images: Images or paths of the items: a mapping from their ids, or a function of an id. `None` reads the files
            whose paths the ids are, as for `Gallery.add` of files. Default `None`.
        query_labels: Sequence of `n` labels of the queries. Default `None`.
        threshold: float. Largest distance of an accepted item, such as `calibration.threshold`. Default `None`.
        classification: `Classification` of the queries, from `Gallery.classify`. Its label, or "unknown", stands below
            the query. Default `None`.
        query_names: Sequence of `n` str, which stand below the queries instead. `None` uses the classification, or the
            labels of the queries. Default `None`.
        max_queries: int. Further queries are not drawn. Default 20.
        max_neighbors: int. Further items are not drawn. Default 10.
        width: float, inches. Largest width. Default: the text width of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If numbers of queries differ, there are none, both `query_labels` and `threshold` are given, or an
            image is invalid.
        KeyError: If an item has no image.
        TypeError: If an id is not a path and there are no `images`.

    Example:
        >>> from tfdml import Gallery
        >>> photos, vectors = np.zeros((3, 8, 8, 1), "uint8"), np.eye(3)
        >>> gallery = Gallery()
        >>> ids = gallery.add(vectors, labels=["cat", "dog", "cat"])
        >>> result = gallery.search(vectors, k=2)
        >>> figure = search_sheet(photos, result, dict(zip(ids, photos)), query_labels=["cat", "dog", "cat"])
    """
    count, neighbors = np.shape(result.distances)
    given = {"query_images": query_images, "query_labels": query_labels, "query_names": query_names}
    given["classification"] = classification
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(
                f"{name} does not fit the result. Received: {len(values)} entries for {count} queries. Expected: "
                f"{count}."
            )
    if not count or not neighbors:
        raise ValueError(f"There is nothing to draw. Received: a result of shape {(count, neighbors)}.")
    if query_labels is not None and threshold is not None:
        raise ValueError(
            "There are two verdicts. Received: query_labels and threshold. Expected: one of them, or neither."
        )
    count = min(count, check_whole_number("max_queries", max_queries, 1))
    neighbors = min(neighbors, check_whole_number("max_neighbors", max_neighbors, 1))
    found = np.isfinite(np.asarray(result.distances))[:count, :neighbors]
    verdicts = np.full(found.shape, None, object)
    words = None
    if query_labels is not None:
        words = ("same label", "other label")
        for row in range(count):
            verdicts[row] = [label == query_labels[row] for label in result.labels[row][:neighbors]]
    elif threshold is not None:
        words = (f"distance up to {threshold:.3g}", "farther")
        verdicts[:] = np.asarray(result.distances)[:count, :neighbors] <= threshold
    of_queries = None
    if classification is not None:
        of_queries = np.asarray(classification.is_known)
        words = words or ("known", "unknown")
    sheet = [
        [_image_of(result.ids[row][column], images) if found[row, column] else None for column in range(neighbors)]
        for row in range(count)
    ]
    captions = [
        [_caption(result.labels[row][column], result.distances[row][column]) for column in range(neighbors)]
        for row in range(count)
    ]
    return draw_sheet(
        [_pixels(query_images[row], f"query_images[{row}]") for row in range(count)],
        sheet,
        verdicts,
        words,
        query_verdicts=of_queries,
        query_names=_names_of_queries(query_names, classification, query_labels, count),
        neighbor_names=captions,
        width=width,
        title=title,
    )


def _names_of_queries(names, classification, labels, count):
    if names is None and classification is not None:
        pairs = zip(classification.labels, classification.is_known)
        names = [_shortened(label) if known else "unknown" for label, known in pairs]
    if names is None and labels is not None:
        names = [_shortened(label) for label in labels]
    return None if names is None else names[:count]


def _image_of(item, images):
    # Identifiers of NumPy do not equal those of Python in each mapping.
    item = item.item() if isinstance(item, np.generic) else item
    if images is None:
        if not isinstance(item, str):
            raise TypeError(
                f"Ids are not paths of images. Received: {item!r} and images=None. Expected: images, a mapping from "
                "ids to images or a function of an id."
            )
        return _pixels(item, f"the image of item {item!r}")
    if callable(images):
        return _pixels(images(item), f"the image of item {item!r}")
    if item not in images:
        raise KeyError(f"An item has no image. Received: images without {item!r}. Expected: an image of each item.")
    return _pixels(images[item], f"the image of item {item!r}")


def _pixels(image, name):
    return as_pixels(as_thumbnail(image, _SIDE, name), name)


def _caption(label, distance):
    return f"{distance:.3g}" if label is None else f"{_shortened(label)}\n{distance:.3g}"


def _shortened(label):
    return style.shortened(str(label).replace("\n", " "), _MAX_CHARACTERS)
