"""Ten training steps of several kinds in a separate process: on one device, on two, or as one of two workers.

    python ten_steps.py FILE single|mirrored|worker

Writes all weights and the evaluation metrics to FILE (.npz).
"""

import json
import os
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
FILE, MODE = sys.argv[1:]
if MODE == "worker":
    INDEX = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfdml import callbacks, layers, models, ops  # noqa: E402
from tfdml._utils.variables import array_of, number  # noqa: E402
from tfdml.backbones.batch_normalization import Normalizer  # noqa: E402

# Attributes with the weights that training changes. The other weights are counters of metrics.
PARTS = ("embedder", "references", "loss_parameters", "zero_shot", "anchor", "best")
CLASSES, OF_EACH = 6, 8
SIDE = 16
STEPS = 10


def main():
    # Batch statistics on one device use the formula for several, too: that of Keras 2 for one device corrects the
    # moving variance by n / (n - 1).
    ops.has_replicas = lambda: True
    with make_strategy().scope():
        kinds = {name: make_kind(name) for name in KINDS}
    arrays = {}
    for name, (model, options) in kinds.items():
        logs = run(model, **options)
        for part in PARTS:
            layer = getattr(model, part, None)
            of_part = layer if isinstance(layer, tuple) else [layer] if layer is not None else []
            for index, weight in enumerate(weight for layer in of_part for weight in layer.weights):
                arrays[f"{name}/{part}/{index}"] = array_of(weight)
        for key, value in logs.items():
            arrays[f"{name}/logs/{key}"] = value
    np.savez(FILE, **arrays)


def make_strategy():
    if MODE == "worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if MODE == "mirrored":
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device] * 2)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.get_strategy()


def make_images():
    """Images of distinct classes in random order."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), OF_EACH)
    images = rng.uniform(0.3, 0.7, (CLASSES, SIDE, SIDE, 1))[labels] + rng.normal(size=(len(labels), SIDE, SIDE, 1)) / 8
    order = rng.permutation(len(labels))
    return images[order].astype("float32"), labels[order]


def batches(strategy, size, weighted):
    images, labels = make_images()
    places = np.arange(STEPS * size) % len(labels)
    columns = (images[places], labels[places])
    if weighted:
        columns += (np.linspace(0.5, 1.5, len(places)).astype("float32"),)
    whole = tf.data.Dataset.from_tensor_slices(columns).batch(size, drop_remainder=True)
    if MODE != "worker":
        return whole
    # The first worker has the smaller half of an odd batch, like the first replica of one process.
    half = size // 2
    mine = slice(None, half) if INDEX == 0 else slice(half, None)
    share = whole.map(lambda *columns: tuple(column[mine] for column in columns))
    return strategy.distribute_datasets_from_function(lambda context: share)


def backbone():
    """Two convolutions with batch normalization. Deeper networks amplify rounding."""
    normalizer = Normalizer(momentum=0.9, frozen="none")
    features = images = keras.Input((SIDE, SIDE, 1))
    for index, channels in enumerate((8, 12)):
        features = keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(features)
        features = keras.layers.ReLU()(normalizer(features, name=f"normalization_{index}"))
    return keras.Model(images, features)


def make_kind(name):
    keras.utils.set_random_seed(0)
    options = dict(KINDS[name])
    has_zero_shot, normalization = options.pop("zero_shot", False), options.pop("normalization", "l2")
    pooling = "gap"
    if has_zero_shot:
        pooling = layers.GeneralizedSumPooling(4, return_attributes=True, name="pooling")
    embedder = models.build_embedder(backbone(), pooling, 8, normalization)
    references = [REFERENCES[kind]() for kind in options.pop("references", ())] or None
    zero_shot = layers.ZeroShotPrediction(CLASSES, 8) if has_zero_shot else None
    run_options = {key: options.pop(key) for key in ("size", "weighted", "problems") if key in options}
    if run_options.get("problems"):
        model = models.CCPModel(embedder, references, projection_weight=0.1, zero_shot=zero_shot)
    else:
        model = models.MetricModel(embedder, references, zero_shot=zero_shot)
    # Gradients are clipped by their norm over all replicas together.
    sgd = {"learning_rate": 0.01, "momentum": 0.9, "global_clipnorm": 0.5}
    second = keras.optimizers.SGD(0.5, clipnorm=0.1) if options.pop("two_optimizers", False) else None
    optimizer = options.pop("optimizer", lambda: keras.optimizers.SGD(**sgd))()
    model.compile(
        optimizer, options.pop("loss", "multi_similarity"), second, weight_decay=1e-3, geometry=True,
        parameter_groups=options.pop("groups", None), mixing=options.pop("mixing", None),
    )  # fmt: skip
    assert not options, options
    return model, run_options


def run(model, size=16, weighted=False, problems=False):
    images, labels = make_images()
    validation = tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)
    steps = StepLogs()
    calls = [steps]
    if problems:
        # The loss falls, and larger is better here, so every problem ends soon.
        calls.append(callbacks.AlternatingProjections(validation, pool_size=3, patience=1, monitor="val_loss"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(
            batches(model.distribute_strategy, size, weighted), epochs=STEPS // 2 if problems else 1,
            steps_per_epoch=2 if problems else STEPS, validation_data=validation, callbacks=calls, verbose=0,
            shuffle=False,
        )  # fmt: skip
    # Ensures that the comparison includes the second problem and thus the pull.
    assert not problems or number(model.projection) >= 1
    logs = {key: np.array(values) for key, values in history.history.items()}
    logs["warnings"] = sum("have no other sample of their class" in str(warning.message) for warning in caught)
    three = model.evaluate(validation, steps=3, verbose=0, return_dict=True)
    return {
        **logs,
        **{f"step_{key}": [step[key] for step in steps.logs] for key in steps.logs[0]},
        **{f"three_batches_{key}": value for key, value in three.items()},
    }


class StepLogs(keras.callbacks.Callback):
    """Callback that keeps the training logs of every step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({key: float(np.asarray(value)) for key, value in logs.items()})


def proxies():
    initializer = keras.initializers.RandomNormal(stddev=0.3, seed=1)
    return layers.ClassProxies(CLASSES, 2, embedding_size=8, initializer=initializer)


REFERENCES = {"proxies": proxies, "memory": lambda: layers.CrossBatchMemory(40, 8, warmup_steps=2)}
KINDS = {
    "batch": {"loss": "c2"},
    # Two samples per batch, which mostly differ in class.
    "pairs": {"loss": "c2", "size": 2},
    "groups": {
        "groups": [
            models.ParameterGroup("normalization_*", 0.5), models.ParameterGroup("backbone", 0.1, frozen_steps=4),
        ],
    },
    "memory": {"references": ["memory"]},
    "proxies": {"references": ["proxies"]},
    "ccp": {"references": ["proxies"], "normalization": "clip", "loss": "c1", "problems": True},
    "ccp_memory": {"references": ["proxies", "memory"], "normalization": "clip", "problems": True},
    "zero_shot": {"zero_shot": True, "loss": "c2"},
    # Keras 3 cannot start with replicas whose parts differ in size.
    "learnt_boundary": {"loss": "margin", "size": 16 if keras.__version__ >= "3" else 15, "weighted": True},
    "mixing": {"references": ["proxies"], "mixing": models.Mixup(alpha=1.0), "weighted": True},
    "two_optimizers": {"references": ["proxies"], "two_optimizers": True},
    "adam": {"loss": "triplet", "optimizer": lambda: keras.optimizers.Adam(1e-5, global_clipnorm=1.0)},
}

if __name__ == "__main__":
    main()
