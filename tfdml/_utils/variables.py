"""Read the values of variables."""

import numpy as np
import tensorflow as tf


def array_of(variable):
    """Return the value of a variable as a NumPy array; variables of several replicas need this conversion."""
    return np.asarray(tf.convert_to_tensor(variable))


def number(variable):
    """Return the value of a scalar variable as a Python number."""
    return array_of(variable).item()
