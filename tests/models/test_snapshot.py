"""Copies of weights stay with their variables when layers are frozen, unfrozen, saved and loaded."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, models
from tfdml._utils.variables import array_of
from tfdml.models.snapshot import ordered_variables, ordered_weights


class Two(keras.layers.Layer):
    """A layer whose weights Keras 2 reorders when it is frozen."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)
        super().build(shape)

    def call(self, values, training=None):
        return self.second(self.first(values, training=training), training=training)

    def compute_output_shape(self, shape):
        return shape


def build(trainable=True):
    inputs = keras.Input((4,))
    block = Two(trainable=trainable)
    embedder = keras.Model(inputs, keras.layers.Dense(3)(block(inputs)))
    return models.CCPModel(embedder, layers.ClassProxies(3, embedding_size=3), projection_weight=1.0), block


def distinguish(variables):
    """Gives every number of the variables a value of its own; the values by the variables' ids."""
    values, start = {}, 1.0
    for variable in variables:
        size = int(np.prod(variable.shape))
        values[id(variable)] = np.arange(start, start + size, dtype="float32").reshape(tuple(variable.shape))
        variable.assign(values[id(variable)])
        start += size
    return values


def assert_holds(values, variables):
    for variable in variables:
        np.testing.assert_array_equal(array_of(variable), values[id(variable)])


def test_a_snapshot_survives_freezing_and_unfreezing():
    model, block = build()
    values = distinguish(model.solution)
    model.best.copy_from(model.solution)
    model.anchor.copy_from()
    model.projection.assign(1)
    block.trainable = False
    assert float(model.projection_penalty()) == model.weight_change() == 0.0
    model.best.restore(model.solution)
    assert_holds(values, model.solution)
    block.first.trainable = True
    model.best.copy_from()
    model.best.restore(reversed(model.solution))
    assert_holds(values, model.solution)
    block.trainable = True
    model.best.restore()
    assert_holds(values, model.solution)


def test_the_order_of_weights_does_not_depend_on_what_is_frozen():
    model, block = build()
    order = [id(variable) for variable in ordered_weights(model.embedder)]
    assert order == [id(variable) for variable in model.embedder.weights]
    for layer, trainable in [(block.first, False), (block, False), (block.second, True), (block, True)]:
        layer.trainable = trainable
        assert [id(variable) for variable in ordered_weights(model.embedder)] == order
        everything = ordered_variables(model)
        assert {id(variable) for variable in everything} == {id(variable) for variable in model.variables}
        assert len(everything) == len(model.variables)


@pytest.mark.parametrize("pooling", ["gsop", "solar"])
def test_poolings_keep_their_weights_when_frozen(pooling):
    inputs = keras.Input((4, 4, 2))
    embedder = models.build_embedder(keras.Model(inputs, keras.layers.Conv2D(4, 1)(inputs)), pooling, 4)
    model = models.CCPModel(embedder, layers.ClassProxies(3, embedding_size=4))
    values = distinguish(model.solution)
    model.best.copy_from(model.solution)
    embedder.get_layer("pooling").trainable = False
    model.best.restore(model.solution)
    assert_holds(values, model.solution)


def test_a_file_of_a_frozen_model_loads_into_one_that_is_not(tmp_path):
    model, block = build(trainable=False)
    values = distinguish(model.embedder.weights)
    model.best.copy_from()
    block.trainable = True
    model.save_weights(tmp_path / "frozen.weights.h5")
    other, _ = build()
    other.load_weights(tmp_path / "frozen.weights.h5")
    expected = [values[id(variable)] for variable in ordered_weights(model.embedder)]
    for (_, copy), value in zip(other.best.pairs(ordered_weights(other.embedder)), expected):
        np.testing.assert_array_equal(array_of(copy), value)


def test_what_is_refused():
    model, _ = build()
    with pytest.raises(ValueError, match="no copy of some variables. Received: .*stranger"):
        model.best.copy_from([tf.Variable(1.0, name="stranger")])
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="which is not built. Expected: a built model"):
        models.CCPModel(unbuilt, layers.ClassProxies(3, embedding_size=2))


def test_an_embedder_that_is_frozen_as_a_whole_is_not_pulled():
    model, _ = build()
    model.embedder.trainable = False
    assert float(model.projection_penalty()) == 0.0
