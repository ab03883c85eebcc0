"""Galleries from the Parquet files of an extraction."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tfdml._utils.plain_files import read_json, write_json
from tfdml._utils.types import PathLike
from tfdml.data import LabeledImages
from tfdml.data.parquet_files import ParquetVectors
from tfdml.gallery.gallery import Gallery
from tfdml.gallery.inputs import to_vectors
from tfdml.gallery.vectors import StoredVectors

# Difference relative to the largest value up to which an embedder counts as the same.
_TOLERANCE = 1e-3
_PROGRESS = "progress.json"


def gallery_from_parquet(path: PathLike, embedder: Any = None, **options: Any) -> Gallery:
    """Make a gallery of the vectors in Parquet files, such as those of `tfdml-extract --ray`.

    Args:
        path: str or `os.PathLike`. As for `add_parquet`.
        embedder: As for `Gallery`. Its vectors are compared with those of the extraction. Default `None`.
        **options: `preprocessing`, `distance`, `storage` and further arguments of `Gallery`.

    Returns:
        `Gallery`.

    Raises:
        FileNotFoundError, ValueError: As for `add_parquet`.

    Example:
        >>> gallery = gallery_from_parquet("vectors/photos", distance="cosine")  # doctest: +SKIP
        >>> gallery.save("galleries/photos")  # doctest: +SKIP
    """
    gallery = Gallery(embedder, **options)
    add_parquet(gallery, path)
    return gallery


def add_parquet(gallery: Gallery, path: PathLike) -> int:
    """Add the vectors in Parquet files to a gallery, block by block, so that they need not fit into memory twice.

    Files have the columns `id` (integers or text) and `vector` (lists of floats of one size), and optionally
    `class_name` or `label`, which become labels. Ids are checked before anything is added. If the folder is that of an
    extraction and the gallery has an embedder, a test image is embedded to check that the vectors are the embedder's.

    Args:
        gallery: `Gallery`.
        path: str or `os.PathLike`. A Parquet file, or a folder of Parquet files.

    Returns:
        int. Number of vectors added.

    Raises:
        FileNotFoundError: If there are no files.
        ValueError: If an extraction is not finished, an id occurs twice or is in the gallery already, vectors have
            another size or are not finite, or another embedder has made them.
        ImportError: If pyarrow is not installed.

    Example:
        >>> add_parquet(Gallery(), "vectors/photos")  # doctest: +SKIP
        100000
    """
    files = ParquetVectors(path)
    if gallery.dim not in (None, files.dim):
        raise ValueError(
            f"Vectors have another size. Received: {files.dim} in {os.fspath(path)}. Expected: {gallery.dim}, the size "
            "of the vectors in the gallery."
        )
    _check_ids(gallery, files.ids(), path)
    _check_embedder(gallery, files)
    for block in files.blocks():
        if not np.isfinite(block.vectors).all():
            raise ValueError(f"Vectors are not finite. Received: {os.fspath(path)}. Expected: finite numbers.")
    for block in files.blocks():
        _add(gallery, block)
    return len(files)


def fill_from_parquet(
    gallery: Gallery, files: ParquetVectors, folder: pathlib.Path, advance: Callable[[int], Any] | None = None
) -> None:
    """Fill an empty gallery with vectors that stay on the disk, and go on where an interrupted call stopped.

    Args:
        gallery: `Gallery` without items.
        files: `ParquetVectors`.
        folder: `pathlib.Path`. Existing folder for the vectors, which the gallery needs until it is saved.
        advance: Function that is called with the number of rows that were stored. Default `None`.

    Raises:
        ValueError: As for `add_parquet`.
    """
    if not len(files):
        raise ValueError(f"There are no vectors. Received: {files.path} without rows. Expected: at least one row.")
    _check_ids(gallery, files.ids(), files.path)
    states = [[os.path.abspath(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files.files]
    plan = {"files": states, "storage": gallery.storage, "distance": gallery.distance, "dim": files.dim}
    try:
        progress = read_json(folder / _PROGRESS)
    except ValueError:
        progress = {}
    names: dict[str, tuple[int, ...]] = {"codes": (len(files), files.dim)}
    if gallery.storage == "int8":
        names["scales"] = (len(files),)
    goes_on = progress.get("plan") == plan and all((folder / f"{name}.npy").is_file() for name in names)
    done = progress["rows"] if goes_on else 0
    arrays = {}
    for name, shape in names.items():
        dtype = gallery.storage if name == "codes" else np.float32
        mode = "r+" if goes_on else "w+"
        arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", mode, np.dtype(dtype), shape)
    if advance is not None:
        advance(done)
    store = StoredVectors.empty(gallery.storage, files.dim)
    for block in files.blocks(done):
        vectors = np.asarray(block.vectors, np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"Vectors are not finite. Received: {files.path}, rows from {done}. Expected: finite numbers."
            )
        codes, scales = store.encode(gallery._to_vectors(vectors)[0])
        rows = slice(done, done + len(vectors))
        arrays["codes"][rows] = codes
        if scales is not None:
            arrays["scales"][rows] = scales
        for array in arrays.values():
            array.flush()
        done += len(vectors)
        write_json(folder / _PROGRESS, {"plan": plan, "rows": done})
        if advance is not None:
            advance(len(vectors))
    ids, labels = _ids_and_labels(files)
    gallery._items.append(gallery._items.checked_ids(ids, len(files)), labels, [None] * len(files))
    # Read-only maps, which are copied into memory only if the gallery changes.
    codes, scales = (np.load(folder / f"{name}.npy", "r") if name in names else None for name in ("codes", "scales"))
    gallery._vectors = StoredVectors(gallery.storage, codes, scales)
    gallery._search = gallery._new_search(gallery._vectors)


def _ids_and_labels(files):
    ids: list[int | str] = []
    labels: list[int | str | None] = []
    for block in files.blocks(0, with_vectors=False):
        ids += block.ids
        some = _labels_of(block)
        labels += [None] * len(block.ids) if some is None else some
    return ids, labels


def _labels_of(block):
    if block.classes is not None:
        return block.classes
    return None if block.labels is None else block.labels.tolist()


def _add(gallery, block):
    vectors, labels = np.asarray(block.vectors, np.float32), _labels_of(block)
    if labels is None or None not in labels:
        gallery.add(vectors, block.ids, labels)
        return
    gallery.add(vectors, block.ids)
    labeled = [row for row, label in enumerate(labels) if label is not None]
    if labeled:
        gallery.update([block.ids[row] for row in labeled], labels=[labels[row] for row in labeled])


def _check_ids(gallery, ids, path):
    seen: set = set()
    for item in ids:
        if item in seen or item in gallery:
            where = "in the gallery already" if item in gallery else "given twice"
            raise ValueError(
                f"Ids are {where}. Received: {item!r} in {os.fspath(path)}. Expected: different ids. Remove the items, "
                "or extract each image once."
            )
        seen.add(item)


def _check_embedder(gallery, files):
    """Raise a ValueError if the gallery's embedder does not give the features of the extraction's probe."""
    if gallery.embedder is None:
        return

    def embed(images):
        images = LabeledImages(images, np.zeros(len(images), np.int64), ("",))
        return to_vectors(images, gallery.embedder, gallery._forward, gallery.preprocessing, gallery.batch_size)[0]

    check_probe(files, embed)


def check_probe(files: ParquetVectors, embed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raise a ValueError if an embedder does not give the features of the probe of an extraction.

    Args:
        files: `ParquetVectors`. Without a probe, nothing is checked.
        embed: Function from images, uint8 `(n, h, w, c)`, to vectors `(n, d)`.
    """
    probe, config = files.source.get("probe"), files.source.get("preprocessing")
    if not probe or not config:
        return
    shape = (*config["size"], config["channels"])
    images = np.random.default_rng(0).integers(0, 256, (len(probe), *shape)).astype(np.uint8)
    vectors = np.asarray(embed(images))
    expected = np.asarray(probe, np.float32)
    difference = np.inf
    if vectors.shape == expected.shape:
        difference = np.abs(vectors - expected).max() / max(np.abs(expected).max(), 1e-30)
    if difference > _TOLERANCE:
        raise ValueError(
            "Another embedder has made these vectors. Received: an embedder whose vectors of a test image differ by "
            f"{difference:.2g} of the largest value from those of {files.path}. Expected: {files.source.get('model')} "
            "with the same weights and preprocessing. Pass that embedder, or none to search with vectors."
        )
