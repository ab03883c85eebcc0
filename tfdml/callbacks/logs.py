"""Write the logs of epochs and proxy problems to files that a resumed training run continues."""

from __future__ import annotations

import os
import time

import keras
import tensorflow as tf

from tfdml._utils.plain_files import write_csv


class HistoryLog(keras.callbacks.Callback):
    """Writes the logs of all epochs to a CSV file after every epoch.

    `TrainingBackup` saves its rows, so each epoch appears once in the file even if a run is killed and resumed.
    `keras.callbacks.CSVLogger` appends, and would repeat the epochs after the last backup.

    Args:
        path: str or `os.PathLike`. File to write.
        steps: int. Training steps per epoch.

    Attributes:
        rows: List of dicts, one per epoch: `epoch` (from 1), `step`, and the logs.
        seconds: float. Time spent in training, in seconds, without interruptions.
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
        """The rows as a dict of lists by name."""
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
        """Write the file."""
        columns = self.columns
        write_csv(self.path, columns, zip(*columns.values()))

    def get_state(self):
        """Return the state needed to resume."""
        return {"rows": self.rows, "seconds": self.seconds}

    def set_state(self, state):
        """Restore the state returned by `get_state`."""
        self.rows, self.seconds = list(state["rows"]), state["seconds"]


class ProjectionsLog(keras.callbacks.Callback):
    """Writes one row per finished proxy problem of CCP to a CSV file.

    Args:
        path: str or `os.PathLike`. File to write.
        projections: `AlternatingProjections` of the training run; it must precede this callback.
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
    """Writes the logs of every epoch as TensorBoard event files.

    Unlike `keras.callbacks.TensorBoard`, it works without TensorBoard being installed.

    Args:
        folder: str or `os.PathLike`. Folder of the event files.
        steps: int. Training steps per epoch; the horizontal axis counts steps.
    """

    # Marks values as scalars. Keras' callback uses TensorBoard for this, which current TensorFlow does not install.
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
