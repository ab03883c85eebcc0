"""Values of variables."""

import numpy as np
import tensorflow as tf


def array_of(variable):
    """The value of a variable as a NumPy array; variables of several replicas do not convert themselves."""
    return np.asarray(tf.convert_to_tensor(variable))


def number(variable):
    """The value of a variable without axes as a plain number."""
    return array_of(variable).item()
