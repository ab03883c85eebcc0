"""Backbone with two layers, so that whole runs take seconds. Also a script, for the process that a test kills."""

import contextlib

import keras

from tfdml.backbones import registry


def build(input_shape):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
        ]
    )


def build_plain(input_shape):
    """The backbone without batch normalization, whose statistics would be per replica."""
    convolution = keras.layers.Conv2D(8, 3, strides=2, activation="relu")
    return keras.Sequential([keras.Input(input_shape), convolution])


@contextlib.contextmanager
def registered():
    builders = {"tiny": build, "tiny_plain": build_plain}
    registry._REGISTRY._factories.update(builders)
    try:
        yield
    finally:
        for name in builders:
            del registry._REGISTRY._factories[name]


# Options of digits-quick with fluctuating validations, so that there are projections whatever the default recipe is.
CHANGES = {
    "model.backbone": "tiny",
    "model.embedding_size": 8,
    "model.gsp.prototypes": 8,
    "data.size": 12,
    "data.split_seed": None,
    "batches.classes": 4,
    "batches.samples_per_class": 4,
    "augmentation.rotation": 0.0,
    "augmentation.scale": 0.0,
    "augmentation.translation": 0.0,
    "references.per_class": 2,
    "ccp.patience": 1,
    "ccp.pool_size": 4,
    "ccp.in_batch_weight": 0.0,
    "optimizer.learning_rate": 0.02,
    "training.steps_per_validation": 4,
    "training.max_validations": 5,
    "training.patience": 10,
    "evaluation.queries": 2,
    "evaluation.neighbors": 3,
}
