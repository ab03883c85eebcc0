"""Count a model's training steps."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfdml")
class StepCounter(keras.layers.Layer):
    """Counts training steps in a weight of the model, so that compiling again does not reset the count.

    It is a separate layer so that the model's other weights keep their positions in `model.weights`.

    Attributes:
        steps: int64 variable, scalar. Number of training steps.
    """

    def __init__(self, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.steps = self.add_weight(name="steps", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.built = True

    def advance(self, steps):
        """Add a number of steps to the count."""
        self.steps.assign(tf.convert_to_tensor(self.steps) + tf.cast(steps, tf.int64))

    def load_own_variables(self, store):
        """Load the count; files of earlier versions of tfdml have none and leave it unchanged."""
        if len(store):
            super().load_own_variables(store)
