"""Small handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import numpy as np

from tfdml.data.labeled_images import LabeledImages


def digits() -> LabeledImages:
    """Load 1,797 handwritten digits of 8×8 pixels, white on black, which ship with scikit-learn.

    Use it for quick experiments and tests: it needs no download and trains in seconds.

    Returns:
        `LabeledImages` with images `(1797, 8, 8, 1)` in ten classes.

    Example:
        >>> digits().images.shape
        (1797, 8, 8, 1)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The original has 17 gray levels.
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    return LabeledImages(images[..., np.newaxis], bunch.target, tuple(map(str, range(10))), name="digits")
