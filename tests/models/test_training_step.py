"""Two optimizers, L2 weight decay and warm-up: each against steps by hand, and in every precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning_loss import LearningLoss

from tfdml import layers, losses, models


def proxies(**options):
    return layers.ClassProxies(4, 2, embedding_size=2, initializer=keras.initializers.RandomNormal(seed=1), **options)


def with_hidden_layer(backbone_layers=()):
    """An embedder with something to hold before its layer "embedding"."""
    embedder = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, name="hidden", kernel_initializer=keras.initializers.RandomNormal(0.0, 0.3, seed=2)),
            *backbone_layers,
            keras.layers.Dense(2, name="embedding", kernel_initializer=keras.initializers.RandomNormal(seed=3)),
        ]
    )
    return embedder


def values(variables):
    return [np.array(variable) for variable in variables]


def gradients_by_hand(model, points, labels):
    """Of the loss without weight decay, of the embedder's trainable variables and of the proxies."""
    with tf.GradientTape() as tape:
        embeddings = model.embedder(points, training=True)
        loss = tf.reduce_mean(model.sample_losses(labels, embeddings))
    variables = [*model.embedder.trainable_variables, *model.proxies.trainable_variables]
    # Keras 3 wraps TensorFlow's variables.
    variables = [variable if isinstance(variable, tf.Variable) else variable.value for variable in variables]
    gradients = tape.gradient(loss, variables)
    return float(loss), [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def clip(gradients, norm):
    total = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
    return [gradient * min(1.0, norm / total) for gradient in gradients]


def step(model, points, labels):
    model.reset_metrics()
    return model.train_on_batch(points, labels, return_dict=True)["loss"]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_optimizer_has_its_own_rate_and_clips_its_own_gradients(blobs, linear_embedder, jit_compile):
    points, labels = blobs[0][:32], blobs[1][:32]
    model = models.MetricModel(linear_embedder(), proxies())
    model.compile(
        keras.optimizers.SGD(0.01, global_clipnorm=0.5), "c1",
        reference_optimizer=keras.optimizers.SGD(1.0, global_clipnorm=0.05), jit_compile=jit_compile,
    )  # fmt: skip
    for _ in range(3):
        _, gradients = gradients_by_hand(model, points, labels)
        assert np.linalg.norm(gradients[0]) > 0.5 and np.linalg.norm(gradients[1]) > 0.05
        expected = values(model.trainable_variables)
        expected[0] -= 0.01 * clip(gradients[:1], 0.5)[0]
        expected[1] -= 1.0 * clip(gradients[1:], 0.05)[0]
        step(model, points, labels)
        for value, right in zip(model.trainable_variables, expected):
            np.testing.assert_allclose(value, right, atol=1e-6)


def test_a_rate_of_its_own_equals_one_optimizer_with_the_same_rate(blobs, linear_embedder):
    fitted = []
    for options in ({}, {"reference_optimizer": keras.optimizers.Adam(0.01)}):
        model = models.MetricModel(linear_embedder(), proxies())
        model.compile(keras.optimizers.Adam(0.01), LearningLoss(), run_eagerly=True, **options)
        model.fit(*blobs, epochs=4, shuffle=False, verbose=0)
        fitted.append(values(model.trainable_variables))
    assert len(fitted[0]) == 3
    for one, two in zip(*fitted):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_weight_decay_is_added_before_clipping_and_leaves_out_batch_normalization_and_proxies(blobs, jit_compile):
    points, labels = blobs[0][:32], blobs[1][:32]
    # Also inside a nested model.
    inner = keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization()])
    model = models.MetricModel(with_hidden_layer([inner]), proxies())
    model.compile(keras.optimizers.SGD(0.1, global_clipnorm=2.0), "c1", weight_decay=0.7, jit_compile=jit_compile)
    inside = model.embedder.trainable_variables
    decayed = [len(variable.shape) == 2 or int(variable.shape[0]) == 2 for variable in inside]
    assert sum(decayed) == 3  # two kernels and the bias of the embedding; the bias of the hidden layer is next
    decayed[1] = True
    for variable in inside:
        variable.assign(variable + 0.1)
    for _ in range(2):
        loss, gradients = gradients_by_hand(model, points, labels)
        before = values([*inside, *model.proxies.trainable_variables])
        full = [
            gradient + 0.7 * value if is_decayed else gradient
            for gradient, value, is_decayed in zip(gradients, before, [*decayed, False])
        ]
        assert np.sqrt(sum(np.sum(gradient**2) for gradient in full)) > 2.0
        assert step(model, points, labels) == pytest.approx(loss, rel=1e-5)
        for value, start, gradient in zip([*inside, *model.proxies.trainable_variables], before, clip(full, 2.0)):
            np.testing.assert_allclose(value, start - 0.1 * gradient, atol=2e-6)


@pytest.mark.parametrize(
    ("second", "jit_compile"), [(None, False), (0.1, False), pytest.param(0.1, True, marks=pytest.mark.integration)]
)
def test_the_warm_up_trains_the_embedding_and_what_is_outside(blobs, second, jit_compile):
    model = models.MetricModel(with_hidden_layer(), proxies())
    model.compile(
        keras.optimizers.Adam(0.01), LearningLoss(), weight_decay=0.1, warmup_steps=4, jit_compile=jit_compile,
        reference_optimizer=None if second is None else keras.optimizers.Adam(second),
    )  # fmt: skip
    start = values(model.trainable_variables)
    model.fit(*blobs, batch_size=24, epochs=1, verbose=0)
    moved = [np.abs(now - then).max() > 0 for now, then in zip(values(model.trainable_variables), start)]
    assert moved == [False, False, True, True, True, True]
    model.fit(*blobs, batch_size=96, epochs=1, verbose=0)
    assert all(np.abs(now - then).max() > 0 for now, then in zip(values(model.trainable_variables), start))


def test_the_warm_up_goes_by_the_models_steps_and_traces_nothing_anew(blobs):
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    def fit(model, batches):
        model.fit(blobs[0][: 24 * batches], blobs[1][: 24 * batches], batch_size=24, epochs=1, verbose=0)
        return np.array(model.embedder.get_layer("hidden").kernel)

    whole, resumed = (models.MetricModel(with_hidden_layer([Counting()])) for _ in range(2))
    for model in (whole, resumed):
        model.compile(keras.optimizers.SGD(0.1), "c2", warmup_steps=6, jit_compile=False)
    start = fit(whole, 4)
    resumed.build_optimizers()
    resumed.steps.assign(4)
    count = len(traces)
    np.testing.assert_array_equal(fit(whole, 2), start)
    assert np.abs(fit(whole, 1) - start).max() > 0
    assert len(traces) == count
    np.testing.assert_array_equal(fit(resumed, 2), start)
    assert np.abs(fit(resumed, 1) - start).max() > 0


def scaled(optimizer, policy, initial_scale):
    if policy != "mixed_float16":
        return optimizer
    return keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=initial_scale)


@pytest.mark.parametrize(("policy", "jit_compile"), [("mixed_float16", True), ("mixed_bfloat16", False)])
def test_the_second_optimizer_gets_unscaled_gradients(blobs, policy, jit_compile, dtype_policy):
    points, labels = blobs[0][:32], blobs[1][:32]
    dtype_policy(policy)
    model = models.MetricModel(with_hidden_layer(), proxies())
    model.compile(
        scaled(keras.optimizers.SGD(0.01), policy, 2.0**10), "c1", reference_optimizer=keras.optimizers.SGD(0.5),
        jit_compile=jit_compile, weight_decay=0.1,
    )  # fmt: skip
    for _ in range(3):
        embeddings = tf.cast(model.embedder(points), tf.float32)
        targets = tf.Variable(model.proxies().embeddings)
        with tf.GradientTape() as tape:
            references = layers.References(targets, np.repeat(np.arange(4), 2))
            loss = tf.reduce_mean(losses.get("c1").against(labels, embeddings, references))
        expected = targets - 0.5 * tf.convert_to_tensor(tape.gradient(loss, targets))
        before = values(model.embedder.trainable_variables)
        step(model, points, labels)
        # As near as half precision computes the embeddings; a scale left in would be off by 1024.
        np.testing.assert_allclose(model.proxies().embeddings, expected, atol=5e-3)
        assert all(
            0 < np.abs(now - then).max() < 0.1 for now, then in zip(values(model.embedder.trainable_variables), before)
        )


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_a_step_with_gradients_that_overflow_is_skipped_by_both(blobs, jit_compile, dtype_policy):
    dtype_policy("mixed_float16")
    model = models.MetricModel(with_hidden_layer(), proxies())
    optimizer = scaled(keras.optimizers.SGD(0.01, momentum=0.9), "mixed_float16", 2.0**40)
    model.compile(optimizer, "c1", reference_optimizer=keras.optimizers.Adam(0.5), jit_compile=jit_compile)
    before = values(model.trainable_variables)
    loss = step(model, *blobs)
    assert np.isfinite(loss)
    for now, then in zip(values(model.trainable_variables), before):
        np.testing.assert_array_equal(now, then)
    assert int(model.reference_optimizer.iterations) == 0
    for _ in range(40):
        step(model, *blobs)
    assert all(np.abs(now - then).max() > 0 for now, then in zip(values(model.trainable_variables), before))
    assert 0 < int(model.reference_optimizer.iterations) < 40


def test_what_cannot_be(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder(), proxies())
    with pytest.raises(ValueError, match="weight_decay=-1. Expected: weight_decay >= 0"):
        model.compile(weight_decay=-1)
    with pytest.raises(ValueError, match="warmup_steps=1.5. Expected: an integer >= 0"):
        model.compile(warmup_steps=1.5)
    with pytest.raises(ValueError, match="layer named 'embedding', which does not exist"):
        model.compile(warmup_steps=1)
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        model.compile(reference_optimizer=keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD()))
    with pytest.raises(ValueError, match="nothing trainable outside the embedder"):
        models.MetricModel(linear_embedder()).compile(reference_optimizer="sgd")
    frozen = linear_embedder()
    frozen.trainable = False
    with pytest.raises(ValueError, match="nothing trainable in the embedder"):
        models.MetricModel(frozen, proxies()).compile(reference_optimizer="sgd")
    with pytest.raises(ValueError, match="Decoupled weight decay would change.*AdamW with weight_decay=0.004"):
        models.MetricModel(with_hidden_layer()).compile(keras.optimizers.AdamW(weight_decay=0.004), warmup_steps=1)
