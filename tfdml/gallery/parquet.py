"""Galleries from the Parquet files of an extraction."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data import LabeledImages
from tfdml.data.parquet_files import ParquetVectors
from tfdml.gallery.gallery import Gallery
from tfdml.gallery.inputs import to_vectors

# Difference relative to the largest value up to which an embedder counts as the same.
_TOLERANCE = 1e-3


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


def _add(gallery, block):
    vectors, labels = np.asarray(block.vectors, np.float32), block.classes
    if labels is None:
        labels = None if block.labels is None else block.labels.tolist()
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
    probe, config = files.source.get("probe"), files.source.get("preprocessing")
    if gallery.embedder is None or not probe or not config:
        return
    shape = (*config["size"], config["channels"])
    images = np.random.default_rng(0).integers(0, 256, (len(probe), *shape)).astype(np.uint8)
    images = LabeledImages(images, np.zeros(len(images), np.int64), ("",))
    preprocessing = gallery.preprocessing
    vectors, *_ = to_vectors(images, gallery.embedder, gallery._forward, preprocessing, gallery.batch_size)
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
