"""Poolings by name, configuration and instance."""

import keras
import pytest

from tfdml.layers import pooling


def test_names():
    names = pooling.pooling_names()
    assert names == sorted(names)
    assert set(names) == {
        "cbam",
        "crow",
        "delf",
        "gap",
        "gap_gmp",
        "generalized_max",
        "generalized_mean",
        "gmp",
        "gsop",
        "gsp",
        "gsp_gmp",
        "netvlad",
        "netvlad_64x128",
        "netvlad_8x16",
        "optimal_transport",
        "optimal_transport_64x128",
        "optimal_transport_8x16",
        "smk",
        "solar",
        "weldon",
    }


@pytest.mark.parametrize("kind", ["netvlad", "optimal_transport"])
def test_sizes_in_names(kind):
    small, great = pooling.get_pooling(f"{kind}_8x16"), pooling.get_pooling(f"{kind.upper()}_64x128", name="great")
    assert (small.prototypes, small.channels) == (8, 16)
    assert (great.prototypes, great.channels, great.name) == (64, 128, "great")
    assert pooling.get_pooling(kind).channels is None


def test_options_and_instances():
    layer = pooling.get_pooling("weldon", greatest=5, name="pooling")
    assert (layer.greatest, layer.name) == (5, "pooling")
    assert pooling.get_pooling(layer) is layer
    other = keras.layers.GlobalMaxPooling2D()
    assert pooling.get_pooling(other) is other


def test_errors():
    with pytest.raises(ValueError, match="Unknown pooling. Received: 'netvla'.*Did you mean 'netvlad'"):
        pooling.get_pooling("netvla")
    with pytest.raises(ValueError, match="ratio"):
        pooling.get_pooling("gmp", ratio=0.3)
    with pytest.raises(ValueError, match="Options go with a pooling's name"):
        pooling.get_pooling(pooling.get_pooling("gmp"), name="other")
    with pytest.raises(TypeError, match="Received: 3"):
        pooling.get_pooling(3)
