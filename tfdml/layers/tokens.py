"""Layers for the tokens of vision transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class PatchTokens(keras.layers.Layer):
    """Drop leading tokens, and arrange the patch tokens on their grid.

    Use it to pool the output of a vision transformer like the feature map of a convolutional network: a vision
    transformer outputs one token per image patch, row by row, after a class token and possibly register tokens. The
    patch tokens are local features.

    Args:
        skip: int, >= 0. Number of leading tokens to drop. Default: 0.
        grid: `(height, width)` or `None`. Grid of the patches; `None` keeps the patch tokens as a bag. Default: `None`.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        tokens: float tensor, `(b, n, c)`; n may be unknown without a grid.

    Returns:
        Tensor `(b, height, width, c)`. A feature map; without a grid a bag of features `(b, n - skip, c)`.

    Raises:
        ValueError: If the number of tokens does not match.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> tuple(layers.PatchTokens(skip=1, grid=(2, 3))(tf.zeros((4, 7, 16))).shape)
        (4, 2, 3, 16)
    """

    def __init__(self, skip: int = 0, grid: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip = check_whole_number("skip", skip, minimum=0)
        self.grid = None if grid is None else [check_whole_number("grid", side, minimum=1) for side in grid]
        if self.grid is not None and len(self.grid) != 2:
            raise ValueError(f"The grid has two sides. Received: grid={grid!r}. Expected: (height, width) or None.")

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        places = self.compute_output_shape(tokens.shape)[1:]
        patches = tokens[:, self.skip :]
        return patches if self.grid is None else tf.reshape(patches, (-1, *places))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = tuple(input_shape)
        count = shape[1] if len(shape) == 3 else -1
        if self.grid is not None:
            expected, fits = self.skip + math.prod(self.grid), count in (None, self.skip + math.prod(self.grid))
        else:
            expected, fits = f"more than {self.skip}", count is None or count > self.skip
        if not fits:
            raise ValueError(
                f"The tokens do not match the layer. Received: input of shape {shape}. Expected: (b, n, c) with n "
                f"{'' if self.grid is None else '= '}{expected}."
            )
        rest = (None if count is None else count - self.skip,) if self.grid is None else tuple(self.grid)
        return (shape[0], *rest, shape[2])

    def get_config(self) -> Config:
        return {**super().get_config(), "skip": self.skip, "grid": self.grid}


@keras.saving.register_keras_serializable(package="tfdml")
class ClassToken(keras.layers.Layer):
    """Select the first token of each image, the class token.

    Use it as the pooling of a vision transformer that was trained with a class token.

    Call arguments:
        tokens: float tensor, `(b, n, c)`.

    Returns:
        Tensor `(b, c)`. Class tokens.

    Raises:
        ValueError: If the input has another rank.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> layers.ClassToken()(tf.constant([[[1.0, 2.0], [3.0, 6.0]]])).numpy().tolist()
        [[1.0, 2.0]]
    """

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        self.compute_output_shape(tokens.shape)
        return tokens[:, 0]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = tuple(input_shape)
        if len(shape) != 3:
            raise ValueError(f"The tokens have the wrong rank. Received: input of shape {shape}. Expected: (b, n, c).")
        return (shape[0], shape[2])
