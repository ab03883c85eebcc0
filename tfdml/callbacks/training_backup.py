"""Going on after an interruption."""

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

# Raised whenever what the file holds, or the order of it, changes.
_LAYOUT = 2
_CONTENT = {"epoch", "variables", "callbacks"}


class TrainingBackup(keras.callbacks.Callback):
    """Saves at each epoch's end all that a training needs to go on, and takes it up when it begins.

    Saved are the model's variables (with the state of a `CCPModel` and of a memory), those of its optimizer or, in a
    `MetricModel`, optimizers, the number of epochs done and the state of the callbacks that have `get_state` and
    `set_state`. The one file is replaced as a whole: a kill at any time leaves the state of the last whole epoch.
    It is an `.npz` of plain arrays: nothing in it is executed.

    Put it after the callbacks whose state it saves, and begin the fit where it left off:
    `model.fit(…, initial_epoch=backup.initial_epoch, callbacks=[…, backup])`.

    Args:
        path: The file; missing folders are made. `~` is the home folder.
        callbacks: The callbacks whose state is saved, always in the same order.

    Attributes:
        initial_epoch: The number of epochs done when this object was made; 0 if there is no file.

    Raises:
        ValueError: If the file is no backup of this kind, is of an older version of tfdml, or (when the fit begins) of
            another model.
    """

    def __init__(self, path: PathLike, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        super().__init__()
        self.path = os.path.expanduser(os.fspath(path))
        self._callbacks = list(callbacks)
        self._saved = self._read() if os.path.exists(self.path) else None
        self.initial_epoch = self._saved["epoch"] if self._saved else 0

    def set_model(self, model: keras.Model) -> None:
        # Before any callback's on_train_begin, whatever their order.
        super().set_model(model)
        if self._saved is not None:
            self._restore(self._saved)
            self._saved = None

    def _restore(self, state):
        variables, saved = self._variables(), state["variables"]
        shapes, saved_shapes = [tuple(v.shape) for v in variables], [v.shape for v in saved]
        if shapes != saved_shapes:
            raise ValueError(
                f"{self.path} is the backup of another model. Received: {len(saved)} variables, expected "
                f"{len(variables)}, or their shapes differ."
            )
        if len(self._callbacks) != len(state["callbacks"]):
            raise ValueError(
                f"{self.path} holds the state of other callbacks. Received: {len(self._callbacks)} callbacks, and "
                f"{len(state['callbacks'])} in the file. Expected: those that the training began with."
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
        # Optimizers of Keras 3 make their variables only in the scope in which they were made themselves.
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
                "that TrainingBackup has written. Remove it to begin the training again."
            ) from error
        if not whole:
            raise ValueError(
                f"The file is not a training backup. Received: {self.path} without {sorted(_CONTENT - set(content))}. "
                "Expected: a file that TrainingBackup has written. Remove it to begin the training again."
            )
        if layout != _LAYOUT:
            raise ValueError(
                f"{self.path} was written by another version of tfdml. Received: a backup of layout {layout}. "
                f"Expected: layout {_LAYOUT}. Finish this training with the version that began it, or begin it again."
            )
        return content


def _pack(value, arrays):
    """The value with every array moved to `arrays` and replaced by its name there."""
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
