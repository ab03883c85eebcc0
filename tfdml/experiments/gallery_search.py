"""Open galleries, search them by image files, and draw what is found."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.input_errors import InputError, input_errors
from tfdml.data.image_files import read_image, verify_images
from tfdml.experiments import plugins
from tfdml.experiments.errors import line_of
from tfdml.experiments.gallery_embedder import GalleryEmbedder, open_embedder
from tfdml.experiments.gallery_files import SOURCE, GallerySource, gallery_errors, path_of, root_of
from tfdml.gallery import Classification, Gallery, SearchResult
from tfdml.gallery.folder import MANIFEST, manifest_of
from tfdml.ops import MAX_PIXELS

_SIDE = 256


@dataclasses.dataclass
class OpenedGallery:
    """A gallery with its embedder and its files.

    Attributes:
        folder: path. Folder of the gallery.
        gallery: `Gallery`.
        source: `GallerySource`.
        root: str. Absolute folder from which relative ids start.
        embedder: `GalleryEmbedder`, or `None` if it was not needed.
    """

    folder: pathlib.Path
    gallery: Gallery
    source: GallerySource
    root: str
    embedder: GalleryEmbedder | None = None

    def embed_files(self, paths: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Return vectors of image files; unreadable ones raise an InputError that names all of them."""
        assert self.embedder is not None
        with input_errors():
            verify_images(list(paths))
        try:
            return self.embedder.embed_files(paths, batch_size)
        except tf.errors.OpError as error:
            raise InputError(f"Not every image goes through the embedder: {line_of(error)}") from error

    def search(
        self, vectors: np.ndarray, k: int | None = None, exclude: Any = None
    ) -> tuple[SearchResult, Classification | None]:
        """Search by vectors.

        Args:
            vectors: float array `(n, d)`.
            k: int. Number of neighbors. Default: 10, or all of fewer items.
            exclude: As for `Gallery.search`. Default: None.

        Returns:
            The result, and the verdicts of a gallery with a threshold.
        """
        with gallery_errors(), warnings_as_notes():
            found = self.gallery.search(vectors, min(10, max(1, len(self.gallery))) if k is None else k, exclude)
            verdicts = None if self.gallery.calibration is None else self.gallery.classify(vectors)
        return found, verdicts


def as_records(found: SearchResult, verdicts: Classification | None, threshold: float | None) -> list[dict[str, Any]]:
    """Return what was found for each query, as JSON holds it.

    Args:
        found: `SearchResult`.
        verdicts: `Classification`, or `None` without a threshold.
        threshold: float. The threshold of the verdicts.

    Returns:
        List of dicts: `neighbors`, a list of dicts with `id`, `label` and `distance`, nearest first; and `verdict`,
        `None` or a dict with `is_known`, `label`, `score` and `threshold`.
    """
    records: list[dict[str, Any]] = []
    for ids, labels, distances in zip(found.ids, found.labels, found.distances):
        neighbors = [
            {"id": item, "label": label, "distance": float(distance)}
            for item, label, distance in zip(ids.tolist(), labels, distances)
            # Missing items are infinitely far away, which JSON cannot hold.
            if item is not None and np.isfinite(distance)
        ]
        records.append({"neighbors": neighbors, "verdict": None})
    if verdicts is not None:
        for record, is_known, label, score in zip(records, verdicts.is_known, verdicts.labels, verdicts.scores):
            record["verdict"] = {
                "is_known": bool(is_known), "label": label, "score": float(score), "threshold": threshold,
            }  # fmt: skip
    return records


def open_gallery(
    folder: str,
    embedder: str | None = None,
    root: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    with_embedder: bool = True,
    batch_size: int = 64,
    trust: bool = False,
) -> OpenedGallery:
    """Open a gallery and its embedder.

    Args:
        folder: str. Folder of the gallery.
        embedder: str. Embedder to use instead of the one that the gallery remembers; it must have the same weights.
        root: str. Folder from which relative ids and the remembered embedder's relative path start. Default: as it was
            when the gallery was built.
        options: mapping. Options of `embedder`. Default: those that the gallery remembers.
        with_embedder: bool. Open the embedder. Default: True.
        batch_size: int. Images that are embedded at once. Default: 64.
        trust: bool. Import modules that the gallery names, and as in `evaluate`. Default: False.

    Raises:
        InputError: If the gallery is missing or damaged, or the embedder is missing or another one.
    """
    path = pathlib.Path(folder).expanduser()
    if not (path / MANIFEST).is_file():
        raise InputError(
            f"There is no gallery. Received: {folder!r}. Expected: a folder written by tfdml-gallery build."
        )
    source = GallerySource.read(path)
    if source is None:
        # A gallery of Gallery.save.
        if embedder is None and with_embedder:
            raise InputError(
                f"The gallery does not know its embedder. Received: {folder!r} without {SOURCE}. Expected: a gallery "
                "of tfdml-gallery build. Or pass --embedder."
            )
        source = GallerySource(embedder or "", dict(options or {}), [], os.getcwd())
    if not source.embedder and embedder is None and with_embedder:
        raise InputError(
            f"The gallery was built of vectors and does not know its embedder. Received: {folder!r}. Expected: the "
            "embedder that made them. Pass --embedder."
        )
    place = root_of(path, source.root) if root is None else root_of(pathlib.Path(), root)
    network = None
    if with_embedder:
        with plugins.trusting(trust):
            plugins.require(source.imports)
        network = _open(path, source, place, embedder, options, trust)
    manifest = manifest_of(path)
    with gallery_errors():
        gallery = Gallery.load(path, network, getattr(network, "preprocessing", None), batch_size)
    gallery._expected_manifest = manifest
    return OpenedGallery(path, gallery, source, place, network)


def _open(path, source, root, embedder, options, trust):
    if embedder is not None:
        return open_embedder(embedder, source.options if options is None else options, trust=trust)
    try:
        return open_embedder(source.embedder, source.options, root, trust)
    except InputError as error:
        raise InputError(
            f"The embedder of the gallery {str(path)!r} cannot be opened: {error} --embedder names another place of it."
        ) from error


def describe(opened: OpenedGallery) -> dict[str, Any]:
    """Return a description of a gallery that JSON holds."""
    gallery, source = opened.gallery, opened.source
    labels = [label for label in gallery.labels(gallery.ids) if label is not None]
    calibration = gallery.calibration
    threshold = None
    if calibration is not None:
        target = type(calibration.target).__name__
        threshold = {"threshold": calibration.threshold, "target": target, **dataclasses.asdict(calibration.target)}
    preprocessing = gallery.preprocessing
    return {
        "gallery": str(opened.folder),
        "items": len(gallery),
        "labels": len(set(labels)),
        "unlabeled": len(gallery) - len(labels),
        "dimension": gallery.dim,
        "distance": gallery.distance,
        "storage": gallery.storage,
        "index": gallery.index,
        "embedder": source.embedder or None,
        "options": source.options,
        "preprocessing": None if preprocessing is None else preprocessing.config(),
        "root": opened.root,
        "threshold": threshold,
        "left_out": source.unreadable,
        "bytes": sum(file.stat().st_size for file in opened.folder.iterdir() if file.is_file()),
    }


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show warnings once each, in one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"Warning: {message}", file=sys.stderr)


def draw_search(
    queries: Sequence[str], found: SearchResult, verdicts: Classification | None, root: str, path: str
) -> None:
    """Draw queries and what was found to a file, whose extension selects the format.

    Args:
        queries: sequence of str. Paths of the queries.
        found, verdicts: As from `OpenedGallery.search`.
        root: str. Root of the gallery.
        path: str. File to write.
    """
    from tfdml.plots import save, search_sheet

    with input_errors():
        figure = search_sheet(
            [thumbnail(query, _SIDE) for query in queries], found, lambda item: _thumbnail_or_blank(item, root),
            classification=verdicts, max_queries=max(1, len(queries)), max_neighbors=found.ids.shape[1],
        )  # fmt: skip
        save(figure, path)


def _thumbnail_or_blank(item, root):
    try:
        return thumbnail(path_of(item, root), _SIDE)
    except (ValueError, OSError):
        return np.full((_SIDE, _SIDE, 3), 230, np.uint8)


def thumbnail(path: str, side: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image file as uint8 `(h, w, 3)` whose sides are at most `side`, on white.

    Raises:
        ValueError: If it cannot be decoded or has more than `max_pixels` pixels.
        OSError: If the file cannot be read.
    """
    from PIL import Image

    pixels = read_image(path, max_pixels)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    image.thumbnail((side, side))
    if mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def as_jpeg(pixels: np.ndarray) -> bytes:
    """Return pixels `(h, w, 3)` as a JPEG."""
    from PIL import Image

    contents = io.BytesIO()
    Image.fromarray(pixels).save(contents, "JPEG", quality=85)
    return contents.getvalue()
