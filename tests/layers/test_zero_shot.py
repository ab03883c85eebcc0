"""ZeroShotPrediction against a loop and finite differences; halves, edge cases and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from tfdml.layers import AttributeRegression, GeneralizedSumPooling, ZeroShotPrediction
from tfdml.layers.zero_shot import in_second_half

CLASSES, DIM, PROTOTYPES = 7, 4, 5


def make_batch(labels, seed=0):
    labels = np.asarray(labels)
    logits = np.random.default_rng(seed).normal(size=(len(labels), PROTOTYPES))
    return np.exp(log_softmax(logits, axis=-1)), labels


def make_layer(dtype="float64", **options):
    layer = ZeroShotPrediction(CLASSES, DIM, dtype=dtype, **options)
    layer.label_embeddings.assign(np.random.default_rng(1).normal(size=(CLASSES, DIM)))
    return layer


def halves_by_loop(labels):
    """The samples of each half: classes alternate in the order in which they appear."""
    classes = list(dict.fromkeys(labels.tolist()))
    return [[j for j, label in enumerate(labels) if classes.index(label) % 2 == half] for half in (0, 1)]


def losses_by_loop(attributes, labels, embeddings, ridge, temperature):
    halves, losses = halves_by_loop(labels), np.zeros(len(labels))
    if not halves[1]:
        return losses
    for fitted, predicted in (halves, halves[::-1]):
        z, y = attributes[fitted], embeddings[labels[fitted]]
        predictor = y.T @ z @ np.linalg.inv(z.T @ z + ridge * np.eye(z.shape[1]))
        for j in predicted:
            logits = embeddings @ (predictor @ attributes[j]) / temperature
            losses[j] = -log_softmax(logits)[labels[j]]
    return losses


BATCHES = {
    "grouped": [4, 4, 2, 2, 0, 0, 6, 6],
    "sorted": [0, 0, 1, 1, 2, 2, 3, 3],
    "shuffled": [5, 0, 3, 5, 3, 0, 1, 1],
    "odd number of classes": [3, 1, 0, 3, 1, 0],
    "unequal counts": [2, 2, 2, 2, 2, 6, 0, 0],
    "one of each": [6, 5, 4, 3, 2, 1, 0],
    "two samples": [3, 1],
}


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("ridge", "temperature"), [(0.05, 1 / 9.5), (2.0, 0.5)])
def test_equals_the_loop(labels, ridge, temperature):
    attributes, labels = make_batch(labels)
    layer = make_layer(ridge=ridge, temperature=temperature)
    expected = losses_by_loop(attributes, labels, np.array(layer.label_embeddings), ridge, temperature)
    np.testing.assert_allclose(layer(attributes, labels), expected, rtol=1e-9)
    in_float32 = make_layer("float32", ridge=ridge, temperature=temperature)
    np.testing.assert_allclose(in_float32(attributes.astype("float32"), labels), expected, rtol=1e-3)


def test_the_thesis_defaults():
    config = ZeroShotPrediction(3, 2).get_config()
    assert config["ridge"] == 0.05 and config["temperature"] == pytest.approx(1 / 9.5)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
def test_gradients_equal_finite_differences(labels):
    attributes, labels = make_batch(labels)
    layer = make_layer(temperature=0.5)
    embeddings = np.array(layer.label_embeddings)

    def loss(attributes, embeddings):
        return losses_by_loop(attributes, labels, embeddings, 0.05, 0.5).mean()

    with tf.GradientTape() as tape:
        variable = tf.Variable(attributes)
        value = tf.reduce_mean(layer(variable, labels))
    gradients = tape.gradient(value, [variable, *layer.trainable_variables])
    for position, gradient in enumerate(gradients):
        gradient = tf.convert_to_tensor(gradient).numpy()
        for index in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-6, -1e-6):
                arguments = [attributes.copy(), embeddings.copy()]
                arguments[position][index] += step
                sides.append(loss(*arguments))
            assert gradient[index] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-7)


@settings(deadline=None, max_examples=150)
@given(labels=st.lists(st.integers(0, 6) | st.sampled_from([2**24, 2**24 + 1, 2**62, 2**62 + 1]), max_size=30))
@example([])
@example([3])
@example([1, 0, 2, 0, 1])
def test_halves_share_no_class(labels):
    labels = np.array(labels, np.int64)
    is_second = in_second_half(tf.constant(labels)).numpy()
    first, second = set(labels[~is_second].tolist()), set(labels[is_second].tolist())
    assert not first & second
    assert len(first) - len(second) in (0, 1)
    assert [np.flatnonzero(half).tolist() for half in (~is_second, is_second)] == halves_by_loop(labels)


@pytest.mark.parametrize("labels", [[2], [2, 2, 2, 2]])
def test_one_class_is_worth_nothing(labels):
    attributes, labels = make_batch(labels)
    layer = make_layer()
    with tf.GradientTape() as tape:
        variable = tf.Variable(attributes)
        losses = layer(variable, labels)
        mean = tf.reduce_mean(losses)
    for values in (losses, *tape.gradient(mean, [variable, *layer.trainable_variables])):
        np.testing.assert_array_equal(tf.convert_to_tensor(values), np.zeros(values.shape))


@pytest.mark.parametrize(
    "attributes",
    [np.zeros((6, PROTOTYPES)), np.full((6, PROTOTYPES), 1 / PROTOTYPES), 1e3 * np.eye(6, PROTOTYPES)],
    ids=["zero", "equal", "huge"],
)
def test_values_and_gradients_are_finite(attributes):
    layer = make_layer("float32")
    with tf.GradientTape() as tape:
        variable = tf.Variable(attributes, dtype=tf.float32)
        losses = layer(variable, np.array([0, 0, 1, 1, 2, 2]))
        mean = tf.reduce_mean(losses)
    for values in (losses, *tape.gradient(mean, [variable, *layer.trainable_variables])):
        assert np.isfinite(tf.convert_to_tensor(values)).all()


@pytest.mark.parametrize("mode", ["unknown batch", "xla"])
def test_graph_modes_agree_with_eager(mode):
    layer = make_layer("float32")

    def run(attributes, labels):
        with tf.GradientTape() as tape:
            tape.watch(attributes)
            losses = layer(attributes, labels)
            mean = tf.reduce_mean(losses)
        gradients = tape.gradient(mean, [attributes, *layer.trainable_variables])
        return [losses, *map(tf.convert_to_tensor, gradients)]

    # XLA compiles once per size, so only the batches of eight samples are tested.
    batches = [labels for labels in [*BATCHES.values(), [2] * 8] if mode != "xla" or len(labels) == 8]
    if mode == "xla":
        function = tf.function(run, jit_compile=True)
    else:
        function = tf.function(
            run, input_signature=[tf.TensorSpec((None, PROTOTYPES)), tf.TensorSpec((None,), tf.int64)]
        )
    for labels in batches:
        attributes, labels = (tf.constant(values) for values in make_batch(labels))
        attributes = tf.cast(attributes, tf.float32)
        for got, wanted in zip(function(attributes, labels), run(attributes, labels)):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3, err_msg=str(labels))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_float32_under_every_policy(policy, dtype_policy):
    dtype_policy(policy)
    layer = make_layer("float32")
    attributes, labels = make_batch(BATCHES["shuffled"])
    half = tf.cast(attributes, policy[len("mixed_") :])
    expected = losses_by_loop(attributes, labels, np.array(layer.label_embeddings), 0.05, 1 / 9.5)
    assert layer(half, labels).dtype == tf.float32 and layer.label_embeddings.dtype == "float32"
    # Attributes keep their precision: a cast of the inputs to half precision would be visible.
    np.testing.assert_allclose(layer(attributes.astype("float32"), labels), expected, rtol=1e-4)


def test_round_trip_in_a_model(tmp_path):
    attributes, labels = keras.Input((PROTOTYPES,)), keras.Input((), dtype="int64")
    layer = ZeroShotPrediction(CLASSES, DIM, ridge=0.2, temperature=0.3, initializer="ones", name="zero_shot")
    model = keras.Model([attributes, labels], layer(attributes, labels))
    assert tuple(model.output_shape) == (None,)
    layer.label_embeddings.assign(np.random.default_rng(0).normal(size=(CLASSES, DIM)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    batch = [tf.constant(values) for values in make_batch(BATCHES["grouped"])]
    batch[0] = tf.cast(batch[0], tf.float32)
    np.testing.assert_array_equal(again(batch), model(batch))
    assert again.get_layer("zero_shot").get_config() == layer.get_config()
    made = ZeroShotPrediction.from_config(layer.get_config())
    np.testing.assert_array_equal(np.array(made.label_embeddings), np.ones((CLASSES, DIM)))


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_the_prototypes_of_pooling_learn_from_it(ratio):
    """With a ratio of 1, that is, global average pooling, the attributes are the mean soft assignment."""
    pooling = GeneralizedSumPooling(PROTOTYPES, ratio=ratio, return_attributes=True)
    features = np.random.default_rng(0).normal(size=(8, 3, 3, 6)).astype("float32")
    with tf.GradientTape() as tape:
        _, attributes = pooling(features)
        loss = tf.reduce_mean(make_layer("float32")(attributes, np.array(BATCHES["grouped"])))
    (gradient,) = tape.gradient(loss, pooling.trainable_variables)
    assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-4


def test_training_makes_it_small():
    """Training only the label embeddings makes the attributes of one half predict the other."""
    keras.utils.set_random_seed(0)
    labels = np.repeat(np.arange(6), 4)
    attributes = np.random.default_rng(0).normal(size=(6, PROTOTYPES))[labels].astype("float32")
    layer = ZeroShotPrediction(6, DIM)
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def loss_and_gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(layer(attributes, labels))
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, layer.trainable_variables)]

    first, _ = loss_and_gradients()
    for _ in range(100):
        loss, gradients = loss_and_gradients()
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables))
    assert loss < 0.2 * first


def test_labels_of_other_forms():
    attributes, labels = make_batch(BATCHES["shuffled"])
    layer = make_layer()
    expected = layer(attributes, labels)
    for form in (labels[:, None], labels.astype("int32"), labels.astype("float32"), tf.constant(labels)):
        np.testing.assert_array_equal(layer(attributes, form), expected)


def test_label_out_of_range():
    attributes, labels = make_batch([0, 1, CLASSES])
    layer, message = make_layer(), r"Labels are out of range for ZeroShotPrediction\(7, …\)"
    with pytest.raises(ValueError, match=message + ". Received: 7. Expected: 0 <= label < 7"):
        layer(attributes, labels)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(layer)(tf.constant(attributes), tf.constant(labels))
    compiled = tf.function(layer, jit_compile=True)
    losses = compiled(tf.constant(attributes), tf.constant(labels))
    np.testing.assert_array_equal(np.isnan(losses), [False, False, True])


@pytest.mark.parametrize(
    ("attributes", "labels", "message"),
    [((3, 5), (4,), "one label per"), ((3, 5), (3, 2), "integer class labels"), ((3, 2, 5), (3,), r"\(batch, pro")],
)
def test_bad_shapes(attributes, labels, message):
    with pytest.raises(ValueError, match=message):
        make_layer()(np.ones(attributes), np.zeros(labels, int))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "Received: num_classes=0"),
        ({"embedding_size": 1.5}, "Received: embedding_size=1.5"),
        ({"ridge": 0.0}, "Received: ridge=0.0. Expected: ridge > 0"),
        ({"temperature": -1}, "Received: temperature=-1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotPrediction(**{"num_classes": 3, "embedding_size": 2, **options})


def make_regression(dtype="float64", **options):
    layer = AttributeRegression(CLASSES, PROTOTYPES, DIM, dtype=dtype, **options)
    generator = np.random.default_rng(1)
    layer.set_weights([generator.normal(size=weight.shape) for weight in layer.get_weights()])
    return layer


@pytest.mark.parametrize("labels", [BATCHES["shuffled"], [2, 2, 2]], ids=["shuffled", "one class"])
def test_a_trained_regressor_equals_the_loop(labels):
    attributes, labels = make_batch(labels)
    layer = make_regression(temperature=0.3)
    embeddings, regressor = np.array(layer.label_embeddings), np.array(layer.regressor)
    expected = [-log_softmax(embeddings @ (z @ regressor) / 0.3)[label] for z, label in zip(attributes, labels)]
    np.testing.assert_allclose(layer(attributes, labels), expected, rtol=1e-9)
    with tf.GradientTape() as tape:
        variable = tf.Variable(attributes)
        value = tf.reduce_mean(layer(variable, labels))
    variables = [variable, *layer.trainable_variables]
    for one, gradient in zip(variables, map(tf.convert_to_tensor, tape.gradient(value, variables))):
        start, direction = np.array(one), np.random.default_rng(4).normal(size=one.shape)
        sides = []
        for step in (1e-6, -1e-6):
            one.assign(start + step * direction)
            sides.append(float(tf.reduce_mean(layer(tf.convert_to_tensor(variable), labels))))
        one.assign(start)
        assert np.sum(direction * gradient) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-6, abs=1e-9)


def test_a_trained_regressor_round_trip(tmp_path):
    layer = make_regression("float32", initializer="ones", name="regression")
    made = AttributeRegression.from_config(layer.get_config())
    assert made.get_config() == layer.get_config()
    np.testing.assert_array_equal(np.array(made.label_embeddings), np.ones((CLASSES, DIM)))
    attributes, labels = keras.Input((PROTOTYPES,)), keras.Input((), dtype="int64")
    model = keras.Model([attributes, labels], layer(attributes, labels))
    model.save(tmp_path / "model.keras")
    batch = [tf.constant(values) for values in make_batch(BATCHES["grouped"])]
    batch[0] = tf.cast(batch[0], tf.float32)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(batch), model(batch))


@pytest.mark.parametrize("options", [{"num_attributes": 0}, {"temperature": 0.0}, {"num_classes": 1.5}])
def test_bad_options_of_a_trained_regressor(options):
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        AttributeRegression(**{"num_classes": 3, "num_attributes": 4, "embedding_size": 2, **options})


def test_bad_input_of_a_trained_regressor():
    layer, (attributes, labels) = make_regression(), make_batch([0, 1, CLASSES])
    with pytest.raises(ValueError, match=r"out of range for AttributeRegression\(7, …\). Received: 7"):
        layer(attributes, labels)
    with pytest.raises(ValueError, match=r"match the regressor. Received: shape \(3, 4\). Expected: \(batch, 5\)"):
        layer(attributes[:, 1:], np.zeros(3, int))
    with pytest.raises(ValueError, match="wrong rank"):
        layer(np.ones((3, 2, 5)), np.zeros(3, int))
