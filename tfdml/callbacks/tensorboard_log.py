"""Logs for TensorBoard, without TensorBoard."""

import os

import keras
import tensorflow as tf


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
        self._writer = None

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
