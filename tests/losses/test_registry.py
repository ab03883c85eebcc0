"""Losses by name, configuration and instance."""

import keras
import pytest

from tfdml import losses


def test_names_and_forms():
    c1, c2 = losses.get("c1"), losses.get("C2", negative_margin=0.4)
    assert (c1.distance, c1.average, c1.negative_margin) == ("cosine", "anchor", 0.5)
    assert (c2.distance, c2.average, c2.negative_margin) == ("l2", "nonzero", 0.4)
    assert set(losses.loss_names()) >= {"c1", "c2", "contrastive"}


def test_instance_is_returned_as_it_is():
    loss = keras.losses.MeanSquaredError()
    assert losses.get(loss) is loss


def test_errors():
    with pytest.raises(ValueError, match="Did you mean 'contrastive'"):
        losses.get("contrastve")
    with pytest.raises(ValueError, match="margin"):
        losses.get("c2", margin=1)
    with pytest.raises(ValueError, match="Options go with a loss"):
        losses.get(losses.get("c2"), negative_margin=1)
    with pytest.raises(TypeError, match="Received: 3"):
        losses.get(3)
