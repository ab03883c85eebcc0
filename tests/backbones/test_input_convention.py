"""The input convention of a network."""

import numpy as np
import pytest

from tfdml.backbones import InputConvention


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_one_number_for_all_channels_equals_one_for_each(kind):
    images = np.random.default_rng(0).random((2, 4, 4, 3), "float32")
    of_channels = InputConvention(kind([2.0, 2.0, 2.0]), kind([0.5, 0.5, 0.5]))
    layer = InputConvention(2.0, 0.5)
    np.testing.assert_array_equal(layer(images), of_channels(images))
    np.testing.assert_array_equal(InputConvention.from_config(layer.get_config())(images), layer(images))
