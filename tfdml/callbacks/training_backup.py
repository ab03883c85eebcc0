"""Resume training after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfdml._utils.files import whole_file
from tfdml._utils.foreign_files import read_npz, short_reason
from tfdml._utils.types import Logs, PathLike
from tfdml._utils.variables import array_of
from tfdml.models import MetricModel
from tfdml.models.snapshot import ordered_variables
from tfdml.models.training_step import optimizer_state

# Increase it whenever the content of the file, or its order, changes.
_LAYOUT = 2
_CONTENT = {"epoch", "variables", "callbacks"}


class TrainingBackup(keras.callbacks.Callback):
    """Saves the full training state after every epoch and restores it when training starts again.

    Use it for training runs that may be interrupted. Unlike `keras.callbacks.BackupAndRestore`, it also saves the state
    of other callbacks and of all optimizers of a `MetricModel`. It saves the model's variables (including the state of
    a `CCPModel` and of memories), the variables of its optimizers, the number of finished epochs, and the state of
    callbacks with the methods `get_state` and `set_state`. The file is replaced atomically: a process killed at any
    time leaves the state after the last complete epoch. It is an `.npz` of plain arrays; loading it executes nothing.

    Place it after the callbacks whose state it saves, and start `fit` at its `initial_epoch`:
    `model.fit(…, initial_epoch=backup.initial_epoch, callbacks=[…, backup])`.

    Args:
        path: str or `os.PathLike`. File to write; missing folders are created, and `~` is the home folder.
        callbacks: Sequence of callbacks whose state is saved, in the same order in every run. Default `()`.

    Attributes:
        initial_epoch: int. Number of epochs finished when this object was made; 0 if the file does not exist.

    Raises:
        ValueError: If the file is not a training backup, was written by an incompatible version of tfdml, or, when
            training starts, belongs to another model.

    Example:
        >>> import tempfile
        >>> images, labels = np.eye(4, dtype="float32"), np.array([0, 0, 1, 1])
        >>> embedder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = MetricModel(embedder)
        >>> model.compile("adam", loss="c2")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     backup = TrainingBackup(os.path.join(folder, "backup.npz"))
        ...     history = model.fit(images, labels, verbose=0, callbacks=[backup])
        ...     TrainingBackup(backup.path).initial_epoch
        1
    """

    def __init__(self, path: PathLike, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        super().__init__()
        self.path = os.path.expanduser(os.fspath(path))
        self._callbacks = list(callbacks)
        self._saved = self._read() if os.path.exists(self.path) else None
        self.initial_epoch = self._saved["epoch"] if self._saved else 0

    def set_model(self, model: keras.Model) -> None:
        # Keras calls set_model of all callbacks before any on_train_begin, so the order of callbacks does not matter.
        super().set_model(model)
        if self._saved is not None:
            self._restore(self._saved)
            self._saved = None

    def _restore(self, state):
        variables, saved = self._variables(), state["variables"]
        shapes, saved_shapes = [tuple(v.shape) for v in variables], [v.shape for v in saved]
        if shapes != saved_shapes:
            raise ValueError(
                f"{self.path} is the backup of another model. Received: {len(saved)} variables. Expected: "
                f"{len(variables)} variables of the same shapes."
            )
        if len(self._callbacks) != len(state["callbacks"]):
            raise ValueError(
                f"{self.path} contains the state of other callbacks. Received: {len(self._callbacks)} callbacks, and "
                f"{len(state['callbacks'])} in the file. Expected: the callbacks of the interrupted run."
            )
        for variable, value in zip(variables, saved):
            variable.assign(value)
        for callback, of_callback in zip(self._callbacks, state["callbacks"]):
            callback.set_state(of_callback)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        arrays: dict[str, Any] = {}
        content = {
            "layout": _LAYOUT,
            "epoch": epoch + 1,
            "variables": [array_of(variable) for variable in self._variables()],
            "callbacks": [callback.get_state() for callback in self._callbacks],
        }
        arrays["content"] = np.array(json.dumps(_pack(content, arrays)))
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        with whole_file(self.path) as file:
            np.savez(file, **arrays)

    def _variables(self):
        model = self.model
        if isinstance(model, MetricModel):
            groups = model.optimizer_groups()
        else:
            groups = [(model.optimizer, model.trainable_variables)]
        # Keras 3 optimizers must create their variables in the scope in which the optimizers were created.
        with model.distribute_strategy.scope():
            return [*ordered_variables(model), *(state for group in groups for state in optimizer_state(*group))]

    def _read(self):
        try:
            arrays = read_npz(self.path)
            content = _unpack(json.loads(str(arrays["content"])), arrays)
            layout = content.get("layout", 1)
            whole = layout != _LAYOUT or _CONTENT <= set(content)
        except Exception as error:  # A damaged file can fail in any way.
            raise ValueError(
                f"The file is not a training backup. Received: {self.path} ({short_reason(error)}). Expected: a file "
                "written by TrainingBackup. Remove it to start training from scratch."
            ) from error
        if not whole:
            raise ValueError(
                f"The file is not a training backup. Received: {self.path} without {sorted(_CONTENT - set(content))}. "
                "Expected: a file written by TrainingBackup. Remove it to start training from scratch."
            )
        if layout != _LAYOUT:
            raise ValueError(
                f"{self.path} was written by another version of tfdml. Received: a backup of layout {layout}. "
                f"Expected: layout {_LAYOUT}. Finish training with that version, or start from scratch."
            )
        return content


def _pack(value, arrays):
    """Return the value with every array moved to `arrays` and replaced by its name."""
    if isinstance(value, dict):
        return {key: _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {"__array__": name}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value, arrays):
    if isinstance(value, dict):
        if "__array__" in value:
            return arrays[value["__array__"]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
