"""Miners from names, configurations and instances."""

import keras
import numpy as np
import pytest

from tfdml import losses, miners


def test_names():
    assert miners.names() == ["distance_weighted", "hard", "hard_negative", "multi_similarity", "semi_hard"]
    assert miners.get("Semi_Hard", margin=0.3).margin == 0.3


@pytest.mark.parametrize("name", miners.names())
def test_round_trip(name):
    miner = miners.get(name)
    again = miners.get(keras.saving.serialize_keras_object(miner))
    assert type(again) is type(miner)
    assert again.get_config() == miner.get_config()
    assert miners.get(miner) is miner


def test_errors():
    with pytest.raises(ValueError, match="Unknown miner.*Did you mean 'semi_hard'"):
        miners.get("semihard")
    with pytest.raises(ValueError, match="Unknown miner"):
        losses.get("c2", miner="easy")
    with pytest.raises(ValueError, match="does not take these options"):
        miners.get("hard", margin=1)
    with pytest.raises(ValueError, match="Options go with a miner"):
        miners.get(miners.HardMiner(), margin=1)
    with pytest.raises(TypeError, match="A miner must be a name"):
        miners.get(3)


def test_shape_mistakes_of_a_miner_alone():
    with pytest.raises(ValueError, match="3 labels and 4 embeddings"):
        miners.HardMiner()(np.zeros(3, int), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="Embeddings must be a matrix"):
        miners.HardMiner()(np.zeros(4, int), np.zeros((4, 2, 2)))
