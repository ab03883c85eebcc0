"""Shared fixtures. Environment variables are set before TensorFlow is imported."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests compile many small programs and run each once or twice. Half of XLA's time is LLVM's optimization.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Tracing creates millions of objects that live as long as the test. Python's default collects every 700 objects.
gc.set_threshold(50_000, 20, 50)

# Contains no tests. Collecting doctests would import its scripts.
collect_ignore = ["helpers"]


@pytest.fixture
def dtype_policy():
    """Set the global dtype policy of Keras for one test."""
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def registries(monkeypatch):
    """Registries by the names of their packages. Registrations are undone after the test."""
    from tfdml import backbones, data, losses, miners
    from tfdml.layers import pooling

    packages = {"losses": losses, "miners": miners, "poolings": pooling, "backbones": backbones, "datasets": data}
    for package in packages.values():
        registry = package.names.__self__
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    return packages


@pytest.fixture
def blobs():
    """Points of four classes, 24 each, in eight dimensions of which six are noise: (points, labels)."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 24)
    centers = rng.normal(size=(4, 2))
    points = np.concatenate([centers[labels] + 0.2 * rng.normal(size=(96, 2)), rng.normal(size=(96, 6))], axis=1)
    return points.astype("float32"), labels


@pytest.fixture
def linear_embedder():
    """Build a linear embedder to two dimensions with the same initial weights every time."""

    def build(seed=0):
        kernel = np.random.default_rng(seed).normal(size=(8, 2), scale=0.3).astype("float32")
        dense = keras.layers.Dense(2, use_bias=False)
        model = keras.Sequential([keras.Input((8,)), dense])
        dense.set_weights([kernel])
        return model

    return build
