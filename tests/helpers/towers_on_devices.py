"""Train a DualEncoder on one device, or in parts on two, and save its weights: `towers_on_devices.py FILE DEVICES`."""

import sys

import keras
import numpy as np
import tensorflow as tf

from tfdml import layers
from tfdml.models import DualEncoder


def main(file, devices):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])
    rng = np.random.default_rng(0)
    query, item = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")
    negatives, negative_ids = rng.normal(size=(8, 2, 3)).astype("float32"), rng.integers(-1, 6, (8, 2))
    extras = {
        "item_ids": rng.integers(0, 6, 8), "negatives": negatives, "negative_ids": negative_ids,
        "weights": rng.uniform(size=8).astype("float32"),
    }  # fmt: skip
    dataset = tf.data.Dataset.from_tensor_slices((query, item, extras)).batch(8).repeat(3)
    with strategy.scope():
        towers = [keras.Sequential([keras.Input((size,)), keras.layers.Dense(2)]) for size in (4, 3)]
        for tower in towers:
            tower.set_weights([rng.normal(size=weight.shape) for weight in tower.get_weights()])
        model = DualEncoder(
            *towers, memory=layers.CrossBatchMemory(12, 2), symmetric=True, frequencies=layers.ItemFrequencies(6),
            learn_temperature=True,
        )  # fmt: skip
        model.compile(keras.optimizers.SGD(0.01), micro_batch_size=3 if devices > 1 else None, jit_compile=False)
    history = model.fit(dataset, verbose=0)
    # Not those of the trackers, which Keras 2 adds up over the devices.
    layers_with_weights = [*towers, model.memory, model.frequencies, model.temperature_layer]
    values = [value for layer in layers_with_weights for value in layer.get_weights()]
    weights = {f"weight_{index}": value for index, value in enumerate(values)}
    np.savez(file, loss=history.history["loss"], **weights)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
