"""Fingerprints of embedders, which tell whether two galleries are in the same space."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def fingerprint(embedder, preprocessing):
    """Return SHA-256 hashes of the weights and the preprocessing, `None` for what has none.

    Args:
        embedder: Object with the attribute `weights`, such as a `keras.Model`; a function has no fingerprint.
        preprocessing: `tfdml.data.Preprocessing` or `None`.

    Returns:
        dict with the keys "embedder" and "preprocessing".
    """
    weights = getattr(embedder, "weights", None)
    config = None if preprocessing is None else preprocessing.config()
    return {
        "embedder": None if weights is None else _hash_of(weights),
        "preprocessing": None if config is None else hashlib.sha256(json.dumps(config).encode()).hexdigest(),
    }


def _hash_of(weights):
    digest = hashlib.sha256()
    for weight in weights:
        values = np.ascontiguousarray(weight.numpy())
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
