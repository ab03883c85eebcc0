"""Poolings from names, configurations and instances."""

import keras
import pytest

from tfdml.layers import pooling


def test_names():
    names = pooling.names()
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
        "gsp_gem",
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
    small, great = pooling.get(f"{kind}_8x16"), pooling.get(f"{kind.upper()}_64x128", name="great")
    assert (small.prototypes, small.channels) == (8, 16)
    assert (great.prototypes, great.channels, great.name) == (64, 128, "great")
    assert pooling.get(kind).channels is None


def test_options_and_instances():
    layer = pooling.get("weldon", greatest=5, name="pooling")
    assert (layer.greatest, layer.name) == (5, "pooling")
    assert pooling.get(layer) is layer
    other = keras.layers.GlobalMaxPooling2D()
    assert pooling.get(other) is other


def test_errors():
    with pytest.raises(ValueError, match="Unknown pooling. Received: 'netvla'.*Did you mean 'netvlad'"):
        pooling.get("netvla")
    with pytest.raises(ValueError, match="ratio"):
        pooling.get("gmp", ratio=0.3)
    with pytest.raises(ValueError, match="Options go with a pooling's name"):
        pooling.get(pooling.get("gmp"), name="other")
    with pytest.raises(TypeError, match="Received: 3"):
        pooling.get(3)
