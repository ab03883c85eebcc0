"""How many training steps a model has behind it."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfdml")
class StepCounter(keras.layers.Layer):
    """Counts training steps among the model's weights, so that compiling again does not set the count back.

    A layer of its own: the model's other weights keep their places in `model.weights`.

    Attributes:
        steps: The number of steps, an int64 variable.
    """

    def __init__(self, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.steps = self.add_weight(name="steps", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.built = True

    def advance(self, steps):
        """Adds a number of steps."""
        self.steps.assign(tf.convert_to_tensor(self.steps) + tf.cast(steps, tf.int64))

    def load_own_variables(self, store):
        """Reads the count; a file of an earlier version of tfdml has none, and leaves it as it is."""
        if len(store):
            super().load_own_variables(store)
