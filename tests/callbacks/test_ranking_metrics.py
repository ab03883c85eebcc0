"""The callback with ranking metrics."""

import keras
import numpy as np
import pytest

from tfdml.callbacks import RankingMetrics
from tfdml.models import DualEncoder


class _Stub(DualEncoder):
    """Returns what it is asked for."""

    def ranking_metrics(self, *arguments, **options):
        self.asked = arguments, options
        return {"ndcg_at_10": 0.5, "queries": 8}


def test_it_adds_the_metrics_of_the_model():
    callback = RankingMetrics([1], [2], [[0]], prefix="test_", batch_size=3, ks=(10,))
    model = _Stub(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    callback.set_model(model)
    callback.on_train_begin()
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    assert logs == {"loss": 1.0, "test_ndcg_at_10": 0.5}
    assert model.asked == (([1], [2], [[0]], 3), {"ks": (10,)})
    callback.on_epoch_end(0)


def test_other_models_are_refused():
    callback = RankingMetrics(np.eye(2), np.eye(2), range(2))
    callback.set_model(keras.Sequential())
    with pytest.raises(TypeError, match="Received: a Sequential. Expected: a DualEncoder"):
        callback.on_train_begin()
