"""Layers that take the tokens of vision transformers apart."""

import keras
import numpy as np
import pytest

from tfdml.layers import ClassToken, PatchTokens

TOKENS = np.random.default_rng(0).random((2, 7, 4)).astype("float32")


def test_patches_lie_row_by_row():
    np.testing.assert_array_equal(PatchTokens(1, (2, 3))(TOKENS), TOKENS[:, 1:].reshape(2, 2, 3, 4))
    np.testing.assert_array_equal(PatchTokens(3)(TOKENS), TOKENS[:, 3:])
    np.testing.assert_array_equal(ClassToken()(TOKENS), TOKENS[:, 0])


def test_symbolic_shapes_and_configuration():
    for layer, shape in ((PatchTokens(1, (2, 3)), (None, 2, 3, 4)), (PatchTokens(2), (None, None, 4))):
        assert tuple(layer(keras.Input((None, 4))).shape) == shape
        assert PatchTokens.from_config(layer.get_config()).get_config() == layer.get_config()


def test_bad_input():
    with pytest.raises(ValueError, match=r"do not match the layer. Received: input of shape \(2, 7, 4\).*n = 5\."):
        PatchTokens(1, (2, 2))(TOKENS)
    with pytest.raises(ValueError, match="with n more than 7"):
        PatchTokens(7)(TOKENS)
    with pytest.raises(ValueError, match="do not match the layer"):
        PatchTokens()(TOKENS[:, 0])
    with pytest.raises(ValueError, match="two sides"):
        PatchTokens(grid=(2, 2, 2))
    with pytest.raises(ValueError, match="skip=-1"):
        PatchTokens(-1)
    with pytest.raises(ValueError, match="have the wrong rank"):
        ClassToken()(TOKENS[:, 0])
