"""What is read of a file that somebody else made: data, and no code that touches files, processes or Python."""

from __future__ import annotations

import pathlib
import zipfile

import keras

from tfdml._utils import foreign_graphs
from tfdml.experiments.errors import InputError, input_errors


def load_keras_file(path):
    """Loads a `.keras` file, without compiling it; a Lambda layer in it is refused (Keras' safe mode).

    Args:
        path: The file.

    Raises:
        InputError: If it is not a `.keras` archive (an HDF5 file of that name would be loaded without safe mode), or
            cannot be loaded.
    """
    path = pathlib.Path(path).expanduser()
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"The file is not a Keras archive. Received: {path}. Expected: what model.save('….keras') writes. An HDF5 "
            "file can hold code; it is not loaded. Load it yourself if you trust it, and save it again."
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, ImportError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"The Keras archive cannot be loaded: {reason}. Received: {path}.") from error


def check_saved_model(path, trust=False):
    """The check of `tfdml._utils.foreign_graphs`, with an InputError."""
    with input_errors():
        foreign_graphs.check_saved_model(path, trust)
