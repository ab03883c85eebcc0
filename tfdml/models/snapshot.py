"""Copies of a model's weights, kept as weights."""

import keras


@keras.saving.register_keras_serializable(package="tfdml")
class WeightSnapshot(keras.layers.Layer):
    """A copy of some weights that is part of the model's own state, so that every checkpoint of Keras holds it.

    Args:
        variables: The variables to hold a copy of; the copy starts with their present values.
    """

    def __init__(self, variables, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self._count = len(variables)
        for index, variable in enumerate(variables):
            copy = self.add_weight(
                name=f"copy_{index}",
                shape=tuple(variable.shape),
                dtype=_dtype_name(variable),
                initializer="zeros",
                trainable=False,
            )
            # An attribute each: tf.train.Checkpoint does not look into a list of Keras 3 variables.
            setattr(self, f"copy_{index}", copy)
        self.take(variables)
        self.built = True

    @property
    def copies(self):
        """The copies, in the order of the variables."""
        return [getattr(self, f"copy_{index}") for index in range(self._count)]

    def take(self, variables):
        """Copies the variables' present values."""
        for copy, variable in zip(self.copies, variables):
            copy.assign(variable)

    def restore(self, variables):
        """Gives the copied values back to the variables."""
        for copy, variable in zip(self.copies, variables):
            variable.assign(copy)


def _dtype_name(variable):
    return variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
