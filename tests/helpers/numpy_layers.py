"""Layers of convolutional networks in float64, written from their definitions; shapes (b, h, w, channels)."""

import numpy as np


def relu(x):
    return np.maximum(x, 0.0)


def convolve(x, kernel, bias=None, stride=1):
    """Correlation with a kernel of PyTorch's shape (out, in, size, size) and a border of size // 2 zeros."""
    size = kernel.shape[-1]
    x = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    y = np.tensordot(windows, kernel.astype(np.float64), axes=([3, 4, 5], [1, 2, 3]))
    return y if bias is None else y + bias


def normalize(x, state, name, epsilon):
    """Batch normalization with the moving statistics of a PyTorch state dict."""
    scale, offset, mean, variance = (
        state[f"{name}.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + epsilon) * scale + offset


def pool_to_the_end(x, size, stride, reduce=np.max):
    """Pooling without padding, in ceiling mode: the last window may be incomplete."""
    starts = [range(0, stride * (1 + max(0, -(-(side - size) // stride))), stride) for side in x.shape[1:3]]
    rows = [
        [reduce(x[:, i : i + size, j : j + size], axis=(1, 2)) for j in starts[1]] for i in starts[0]
    ]  # A slice ends where the features do.
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def pool_everywhere(x, reduce, border):
    """3×3 pooling with stride 1 and a padding of 1."""
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=border)
    return reduce(np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)), axis=(-2, -1))
