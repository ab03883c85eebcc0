"""Deep metric learning for TensorFlow and Keras: generalized sum pooling and chance constrained programming."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tfdml runs on Keras' TensorFlow backend. Received: {keras.backend.backend()!r}; "
        "set the environment variable KERAS_BACKEND=tensorflow before importing keras."
    )

from tfdml import backbones, callbacks, layers, losses, metrics, miners, models, ops
from tfdml.export import export_saved_model
from tfdml.version import __version__

__all__ = [
    "__version__",
    "backbones",
    "callbacks",
    "export_saved_model",
    "layers",
    "losses",
    "metrics",
    "miners",
    "models",
    "ops",
]
