"""Functions of NumPy arrays."""

import numpy as np


def occurrence_numbers(labels):
    """Return for each label the number of equal labels before it, integers `(n,)`."""
    order = np.argsort(labels, kind="stable")
    numbers = np.empty(len(labels), int)
    numbers[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return numbers
