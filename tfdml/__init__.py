"""Deep metric learning for TensorFlow and Keras: losses, embedders, retrieval metrics, GSP pooling and CCP training."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from tfdml.version import __version__

if TYPE_CHECKING:
    from tfdml import (
        backbones,
        callbacks,
        data,
        gallery,
        layers,
        linear,
        losses,
        metrics,
        miners,
        models,
        ops,
        relations,
    )
    from tfdml.export import export_saved_model, load_saved_model
    from tfdml.gallery import Gallery

_PARTS = (
    "backbones", "callbacks", "data", "gallery", "layers", "linear", "losses", "metrics", "miners", "models", "ops",
    "relations",
)  # fmt: skip

_EXPORTS = {"Gallery": "gallery", "export_saved_model": "export", "load_saved_model": "export"}

__all__ = [
    "Gallery",
    "__version__",
    "backbones",
    "callbacks",
    "data",
    "export_saved_model",
    "gallery",
    "layers",
    "linear",
    "load_saved_model",
    "losses",
    "metrics",
    "miners",
    "models",
    "ops",
    "relations",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"tfdml.{_EXPORTS[name]}"), name)
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _check_backend()
    return importlib.import_module(f"tfdml.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _check_backend() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"tfdml needs Keras' TensorFlow backend. Received: {keras.backend.backend()!r}. Expected: 'tensorflow'. "
            "Set the environment variable KERAS_BACKEND=tensorflow before importing keras."
        )


def _is_command() -> bool:
    """Returns whether this process is a command of the package: `tfdml-NAME`, `python -m tfdml.….NAME` or a script."""
    # The scripts set the variable for this process, not for those that it starts.
    if os.environ.pop("TFDML_COMMAND", None):
        return True
    arguments = getattr(sys, "orig_argv", ())
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if program == "-m" and "-m" in arguments:
        return arguments[arguments.index("-m") + 1].startswith("tfdml.")
    return program.startswith("tfdml-")


if _is_command():
    # Commands import TensorFlow, which takes seconds, only when they need it, and suppress its messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
else:
    _check_backend()
    # Keras can load a saved model only if the classes of its layers are imported.
    for _part in ("backbones", "models"):
        importlib.import_module(f"tfdml.{_part}")
