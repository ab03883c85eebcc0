"""Logs of epochs and of proxy problems in files, which a resumed training continues."""

from __future__ import annotations

import os
import time

import keras
import tensorflow as tf

from tfdml._utils.plain_files import write_csv


class HistoryLog(keras.callbacks.Callback):
    """Writes the logs of every epoch as CSV, the whole file each time.

    Its rows are part of the state that a backup saves, so that the file holds each epoch once: what a kill between row
    and backup leaves would be there twice with `keras.callbacks.CSVLogger`, which appends.

    Args:
        path: The file.
        steps: Training steps in an epoch.

    Attributes:
        rows: A dict for each epoch: `epoch` (from 1), `step`, and the logs.
        seconds: Time spent in training, interruptions left out.
    """

    def __init__(self, path, steps):
        super().__init__()
        self.path = path
        self.steps = steps
        self.rows = []
        self.seconds = 0.0
        self._epoch_began = 0.0

    @property
    def columns(self):
        """The rows as lists by name."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return {name: [row.get(name) for row in self.rows] for name in names}

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds += time.monotonic() - self._epoch_began
        values = {name: value if isinstance(value, int) else float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, "step": (epoch + 1) * self.steps, **values})
        self.write()

    def write(self):
        """Writes the file."""
        columns = self.columns
        write_csv(self.path, columns, zip(*columns.values()))

    def get_state(self):
        """What a resumed training needs."""
        return {"rows": self.rows, "seconds": self.seconds}

    def set_state(self, state):
        """Takes over what `get_state` gave."""
        self.rows, self.seconds = list(state["rows"]), state["seconds"]


class ProjectionsLog(keras.callbacks.Callback):
    """Writes what each proxy problem of CCP did as CSV, the whole file when one has ended.

    Args:
        path: The file.
        projections: The `AlternatingProjections` of the training, before this one among the callbacks.
    """

    def __init__(self, path, projections):
        super().__init__()
        self.path = path
        self.projections = projections
        self._written = None

    def on_epoch_end(self, epoch, logs=None):
        ended = self.projections.projections
        if ended and len(ended) != self._written:
            write_csv(self.path, ended[0], (problem.values() for problem in ended))
            self._written = len(ended)


class TensorBoardLog(keras.callbacks.Callback):
    """Writes the logs of every epoch for TensorBoard, which need not be installed, unlike for that of Keras.

    Args:
        folder: The folder of the event files.
        steps: int. Training steps in an epoch; the horizontal axis counts steps.
    """

    # What Keras' callback writes through TensorBoard's own functions, which current TensorFlow comes without.
    _SCALAR = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
    )

    def __init__(self, folder, steps):
        super().__init__()
        self.folder = folder
        self.steps = steps

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(os.fspath(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default():
            for name, value in (logs or {}).items():
                value = tf.constant(float(value), tf.float32)
                tf.summary.write(name, value, step=(epoch + 1) * self.steps, metadata=self._SCALAR)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()
