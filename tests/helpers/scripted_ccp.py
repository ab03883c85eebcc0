"""CCP on points in the plane, whose validation values are given."""

import keras
import numpy as np
import tensorflow as tf

from tfdml import layers, models


def dataset(points, labels, batch=10):
    return tf.data.Dataset.from_tensor_slices((points, labels)).batch(batch)


def build(linear_embedder, per_class=2, num_classes=4):
    model = models.CCPModel(linear_embedder(), layers.ClassProxies(num_classes, per_class, embedding_size=2))
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="c2", run_eagerly=True)
    return model


class Scripted(keras.callbacks.Callback):
    """Plays given validation values and moves the weights by one each epoch."""

    def __init__(self, values):
        super().__init__()
        self.values, self.kernels = values, []

    def on_epoch_end(self, epoch, logs=None):
        kernel = self.model.embedder.weights[0]
        kernel.assign(kernel + 1.0)
        self.kernels.append(np.asarray(kernel).copy())
        logs["val_map_at_r"] = self.values[epoch]


def k_center_loop(pool, initial, k):
    centres, chosen = list(initial), []
    for _ in range(k):
        distances = [min((np.linalg.norm(p - c) for c in centres), default=np.inf) for p in pool]
        best = max((i for i in range(len(pool)) if i not in chosen), key=lambda i: (distances[i], -i))
        chosen.append(best)
        centres.append(pool[best])
    return pool[chosen]
