"""Backbones of KerasHub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.types import Config, Shape
from tfdml.backbones.expected_range import is_of_keras_hub


@keras.saving.register_keras_serializable(package="tfdml")
class PooledTokenFirst(keras.layers.Layer):
    """Puts a vector that a network pools by attention in front of its patch tokens, where others have a class token.

    Args:
        patches: int. Number of patch tokens. (The embedding of SigLIP in KerasHub states one more than it outputs.)
        **kwargs: `name`, `dtype` and the like.
    """

    def __init__(self, patches: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patches = int(patches)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        pooled, tokens = inputs
        return tf.concat([pooled[:, None], tokens], axis=1)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (input_shape[0][0], 1 + self.patches, input_shape[0][-1])

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = self.compute_output_shape([tuple(one.shape) for one in inputs])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> Config:
        return {**super().get_config(), "patches": self.patches}


def image_tower(model: keras.Model) -> keras.Model:
    """Returns the part of a KerasHub model that outputs tokens of images, and any other model as it is.

    Args:
        model: A Keras model. Of CLIP and SigLIP this returns the vision encoder. SigLIP's outputs one vector, pooled by
            attention; here that vector comes first, as a class token does, and the patch tokens follow.
    """
    if not is_of_keras_hub(model):
        return model
    model = getattr(model, "vision_encoder", model)
    if type(model).__name__ != "SigLIPVisionEncoder":
        return model
    height, width = (side // model.patch_size for side in model.image_shape[:2])
    tokens = PooledTokenFirst(height * width, name="tokens")([model.outputs[0], model.post_layer_norm.output])
    return keras.Model(model.inputs[0], tokens, name=model.name)
