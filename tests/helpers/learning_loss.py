"""Loss with a trainable parameter."""

import keras
import tensorflow as tf

from tfdml import losses


@keras.saving.register_keras_serializable(package="tests")
class Distance(keras.layers.Layer):
    """Layer with one trainable number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.value = self.add_weight(name="value", shape=(), initializer="ones")
        self.built = True


@keras.saving.register_keras_serializable(package="tests")
class LearningLoss(losses.MetricLoss):
    """Pulls distances of positive pairs towards a learned distance, and pushes negative pairs apart."""

    def __init__(self, name="learning", **kwargs):
        super().__init__(name, **kwargs)
        self.parameters = Distance()

    def compare(self, pairs):
        distances = pairs.distances()
        target = tf.convert_to_tensor(self.parameters.value)
        pulls = tf.where(pairs.positives, tf.square(distances - target), tf.zeros_like(distances))
        pushes = tf.where(pairs.negatives, tf.nn.relu(1.0 - distances), tf.zeros_like(distances))
        return tf.reduce_sum(pulls + pushes, axis=1)
