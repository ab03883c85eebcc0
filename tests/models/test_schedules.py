import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.models import LinearDecay


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.0), (4, 0.0), (4, 0.02)])
def test_the_schedule_is_a_rise_and_a_fall(warmup, end):
    schedule = LinearDecay(0.1, 10, warmup, end)
    expected = np.interp(np.arange(20), [0, warmup, warmup + 10], [0.0 if warmup else 0.1, 0.1, end])
    np.testing.assert_allclose([schedule(step) for step in range(20)], expected, atol=1e-8)
    np.testing.assert_allclose(tf.function(schedule)(tf.constant(3, tf.int64)), expected[3], atol=1e-8)


def test_an_optimizer_with_it_is_saved():
    optimizer = keras.optimizers.SGD(LinearDecay(0.1, 10, 2))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    variable = tf.Variable([1.0])
    again.build([variable])
    for _ in range(3):
        again.apply_gradients([(tf.constant([1.0]), variable)])
    # 0, 0.05 and 0.1 at the first three steps.
    np.testing.assert_allclose(variable, [1.0 - 0.15], rtol=1e-6)


@pytest.mark.parametrize("options", [{"learning_rate": -1.0}, {"decay_steps": 0}, {"warmup_steps": -1}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LinearDecay(**{"learning_rate": 0.1, "decay_steps": 5, **options})
