"""Deep metric learning for TensorFlow and Keras: generalized sum pooling and chance constrained programming."""

import importlib
import os
import sys

from tfdml.version import __version__

_PARTS = ("backbones", "callbacks", "data", "layers", "losses", "metrics", "miners", "models", "ops")

_EXPORTS = ("export_saved_model", "load_saved_model")

__all__ = ["__version__", "export_saved_model", "load_saved_model", *_PARTS]  # noqa: PLE0604


def _command():
    """The name of the command of this package that is starting: `tfdml-NAME`, `python -m tfdml.….NAME`, or a script.

    It is empty if none is. Commands import TensorFlow, which takes seconds, only when they need it. Everyone else gets
    all parts at once: Keras loads a saved model only if the classes of its layers have been imported.
    """
    # The variable is for this process alone.
    if os.environ.pop("TFDML_COMMAND", None):
        return "script"
    arguments = getattr(sys, "orig_argv", ())
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if program == "-m" and "-m" in arguments:
        room, _, module = arguments[arguments.index("-m") + 1].partition(".")
        return module.rpartition(".")[2] if room == "tfdml" else ""
    return program[len("tfdml-") :].partition(".")[0] if program.startswith("tfdml-") else ""


_COMMAND = _command()


def starts(command):
    """Whether the process runs the command `tfdml-NAME` of this name, which imports TensorFlow when it needs it."""
    return command == _COMMAND


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(importlib.import_module("tfdml.export"), name)
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _check_backend()
    return importlib.import_module(f"tfdml.{name}")


def _check_backend():
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"tfdml runs on Keras' TensorFlow backend. Received: {keras.backend.backend()!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow before importing keras."
        )


if _COMMAND:
    # TensorFlow begins with lines about its own building blocks.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
else:
    _check_backend()
    for _part in _PARTS:
        importlib.import_module(f"tfdml.{_part}")
    from tfdml.export import export_saved_model, load_saved_model
