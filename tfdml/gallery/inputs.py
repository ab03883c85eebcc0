"""Vectors from what a gallery accepts."""

from __future__ import annotations

import os
import types

import numpy as np
import tensorflow as tf

from tfdml.data import LabeledImages, Preprocessing, evaluation_batches
from tfdml.data.image_files import verify_images
from tfdml.metrics.inputs import as_embeddings
from tfdml.models import embed, inference_function
from tfdml.models.embedder import compiled_for_batches


def compiled(embedder):
    """Return a function that is traced once, from an embedder or a function; `None` stays `None`."""
    if embedder is None or hasattr(embedder, "get_concrete_function"):
        return embedder
    if not callable(embedder):
        raise TypeError(
            f"The embedder cannot be called. Received: {type(embedder).__name__}. Expected: a keras.Model, a function "
            "of a batch of images, or None."
        )
    if isinstance(embedder, (types.FunctionType, types.MethodType)):
        return compiled_for_batches(lambda images: tf.cast(embedder(images), tf.float32), may_need_sizes=True)
    return inference_function(embedder)


def to_vectors(images, embedder, forward, preprocessing, batch_size):
    """Return vectors of images.

    Args:
        images: As for `Gallery.add`.
        embedder: `keras.Model`, function or `None`.
        forward: The embedder as `compiled` returns it.
        preprocessing: `Preprocessing` or `None`.
        batch_size: int. Images per batch.

    Returns:
        (vectors, float32 `(n, d)`; labels or `None`; ids or `None`). Files are their own ids; labels are those of the
        data.
    """
    labels = ids = None
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    if isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "UTO":
        # Such as the paths of LabeledImages.
        images = images.tolist()
    if isinstance(images, (list, tuple)) and images and isinstance(images[0], (str, os.PathLike)):
        _check_embedder(embedder)
        ids = [os.fspath(path) for path in images]
        folder = next((path for path in ids if os.path.isdir(os.path.expanduser(path))), None)
        if folder is not None:
            raise ValueError(
                f"A folder is not an image. Received: {folder!r}. Expected: paths of image files, or the images of a "
                "folder with one subfolder per class, tfdml.data.folder(path)."
            )
        # All at once: the error names every file, and nothing is embedded in vain.
        verify_images([os.path.expanduser(path) for path in ids])
        images = LabeledImages(ids, np.zeros(len(ids), np.int64), ("",))
    elif isinstance(images, LabeledImages):
        labels = [images.class_names[label] for label in images.labels]
        if images.holds_paths:
            ids = [os.fsdecode(path) for path in images.encoded_paths or ()]
    elif _is_iterable_of_batches(images):
        _check_embedder(embedder)
        vectors = embed(forward, images, batch_size)
        vectors, labels = vectors if isinstance(vectors, tuple) else (vectors, None)
        return as_embeddings(vectors, "images"), labels, None
    else:
        images = _as_array(images)
        if images.ndim == 2:
            vectors = _float32(as_embeddings(images, "vectors"))
            _check_size(vectors, embedder)
            return vectors, None, None
        if images.ndim != 4:
            raise ValueError(
                f"Images or vectors have the wrong shape. Received: {images.shape}. Expected: images (n, h, w, c) or "
                "vectors (n, d). A single one needs a batch axis: image[None] or vector[None]."
            )
        if images.dtype != np.uint8:
            _check_embedder(embedder)
            return as_embeddings(embed(forward, images, batch_size), "images"), None, None
        images = LabeledImages(images, np.zeros(len(images), np.int64), ("",))
    _check_embedder(embedder)
    if preprocessing is None and images.holds_paths:
        preprocessing = _preprocessing_of(embedder)
    vectors, _ = embed(forward, evaluation_batches(images, batch_size, preprocessing))
    return as_embeddings(vectors, "images"), labels, ids


def _is_iterable_of_batches(images):
    return hasattr(images, "element_spec") or hasattr(images, "__next__")


def _as_array(images):
    try:
        return np.asarray(images)
    except ValueError as error:
        parts = ", ".join(str(np.shape(part)) if hasattr(part, "shape") else type(part).__name__ for part in images[:4])
        raise ValueError(
            f"Images or vectors are not an array. Received: a {type(images).__name__} of {len(images)} ({parts}"
            f"{', …' if len(images) > 4 else ''}). Expected: images (n, h, w, c) of one size, or vectors (n, d). "
            "Labels are an argument of their own, labels=."
        ) from error


def _check_size(vectors, embedder):
    """Raise a ValueError if vectors have another size than those of the embedder, such as its inputs."""
    outputs = list(getattr(embedder, "outputs", None) or [])
    size = outputs[0].shape[-1] if len(outputs) == 1 else None
    if size not in (None, vectors.shape[1]):
        raise ValueError(
            f"Vectors are not those of the embedder. Received: vectors of size {vectors.shape[1]}, which a gallery "
            f"stores as they are. Expected: size {size}, or images. Embed other inputs, such as features or token ids, "
            "with tfdml.models.embed first."
        )


def _check_embedder(embedder):
    if embedder is None:
        raise ValueError(
            "The gallery has no embedder, so it accepts only vectors. Received: images. Expected: vectors (n, d). Pass "
            "one to Gallery or Gallery.load for images."
        )


def _preprocessing_of(embedder):
    shape = tuple(getattr(embedder, "input_shape", None) or ())
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            f"The size of images is unknown. Received: preprocessing=None and an embedder with input {shape or None}. "
            "Expected: preprocessing=tfdml.data.Preprocessing(size, channels)."
        )
    return Preprocessing(size=shape[1:3], channels=shape[3])


def _float32(vectors):
    with np.errstate(over="ignore"):
        narrow = vectors.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"Vectors exceed the range of float32. Received: values up to {np.abs(vectors).max():g}. Expected: finite "
            "float32 values."
        )
    return narrow
