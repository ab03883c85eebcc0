"""Mixed images against NumPy: the mixtures, the loss of two labels, and what it needs of a model."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfdml import layers, models
from tfdml._utils.variables import array_of
from tfdml.models import mixing as mixing_module

EAGER, GRAPH, XLA = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}
SHAPE = (6, 5, 2)


def make_batch(count=12):
    rng = np.random.default_rng(0)
    return rng.random((count, *SHAPE)).astype("float32"), np.arange(count) % 4


def make_model(mixing=None, loss="normalized_softmax", mode=EAGER, **options):
    keras.utils.set_random_seed(0)
    embedder = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4), layers.L2Normalization()]
    )
    references = options.pop("references", layers.ClassProxies(4, options.pop("per_class", 1), embedding_size=4))
    model = models.MetricModel(embedder, references, **options)
    model.compile(keras.optimizers.SGD(0.5), loss, mixing=mixing, **mode)
    return model


def weights_of(model):
    return [array_of(weight) for weight in (*model.embedder.weights, *model.proxies.weights)]


def over_steps(function, count):
    """The values of a function of the step, stacked."""
    return np.asarray(tf.function(lambda: tf.map_fn(function, tf.range(count), fn_output_signature=tf.float32))())


def with_share(monkeypatch, share):
    monkeypatch.setattr(mixing_module.Mixing, "_share", lambda self, step: tf.constant(share, tf.float32))


@pytest.mark.parametrize(
    ("mixing", "mode"),
    [
        (models.Mixup(), EAGER),
        (models.CutMix(), GRAPH),
        pytest.param(models.Mixup(seed=3), XLA, marks=pytest.mark.integration),
    ],
)
def test_a_share_of_1_is_no_mixing_bit_for_bit(mixing, mode, monkeypatch):
    with_share(monkeypatch, 1.0)
    plain, mixed = make_model(None, mode=mode), make_model(mixing, mode=mode)
    for _ in range(2):
        assert plain.train_on_batch(*make_batch()) == mixed.train_on_batch(*make_batch())
    for one, other in zip(weights_of(plain), weights_of(mixed)):
        np.testing.assert_array_equal(one, other)


def test_mixup_is_the_weighted_sum_of_an_image_and_its_partner():
    images, _ = make_batch()
    for step in range(3):
        mixed = models.Mixup(alpha=1.0, seed=5)(images, step)
        share, partners = float(mixed.share), np.asarray(mixed.partners)
        assert sorted(partners) == list(range(len(images)))
        np.testing.assert_allclose(mixed.images, share * images + (1 - share) * images[partners], rtol=1e-5)


def test_cutmix_shows_one_rectangle_of_the_partner():
    images, _ = make_batch()
    for step in range(20):
        mixed = models.CutMix(seed=1)(images, step)
        partners = np.asarray(mixed.partners)
        moved = partners != np.arange(len(images))
        is_replaced = (np.asarray(mixed.images) != images)[moved].any(-1)
        assert (is_replaced == is_replaced[0]).all()
        np.testing.assert_array_equal(
            mixed.images, np.where(is_replaced[0][None, ..., None], images[partners], images)
        )
        rows, columns = is_replaced[0].any(1), is_replaced[0].any(0)
        np.testing.assert_array_equal(is_replaced[0], rows[:, None] & columns)
        for places in (np.flatnonzero(rows), np.flatnonzero(columns)):
            assert len(places) == 0 or np.ptp(places) == len(places) - 1
        assert float(mixed.share) == pytest.approx(1 - is_replaced[0].mean(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    mixup = models.Mixup(alpha, seed=2)
    shares = over_steps(mixup._share, 2000)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_area_of_boxes_is_the_rest_of_the_share_on_average_and_they_are_everywhere():
    cutmix = models.CutMix(alpha=1.0, seed=4)
    images = tf.reshape(tf.constant([0.0, 1.0]), (2, 1, 1, 1)) * tf.ones((2, 32, 24, 1))

    def box(step):
        mixed = cutmix(images, step)
        return tf.abs(mixed.images - images)[0, ..., 0] + 2.0 * tf.cast(mixed.partners[0] == 0, tf.float32)

    boxes = over_steps(box, 1500)
    # Without those whose partner is the image itself.
    boxes = boxes[boxes[:, 0, 0] < 2.0]
    assert len(boxes) > 600
    # Shares are uniform with mean 1/2; the deviation of the mean of 600 is 0.012.
    assert boxes.mean() == pytest.approx(0.5, abs=0.04)
    shares = boxes.mean(axis=0)
    np.testing.assert_allclose(shares, shares[::-1, ::-1], atol=0.08)
    assert shares.min() > 0.03


def test_probability():
    mixup = models.Mixup(alpha=4.0, probability=0.3, seed=1)
    shares = over_steps(mixup._share, 1000)
    assert np.mean(shares < 1.0) == pytest.approx(0.3, abs=0.06)
    assert (np.asarray([models.Mixup(probability=0.0)._share(step) for step in range(5)]) == 1.0).all()


def softmax_with_soft_labels(labels, partner_labels, share, embeddings, proxies):
    """Cross-entropy of the label distribution of each sample."""
    proxies = proxies / np.linalg.norm(proxies, axis=-1, keepdims=True)
    logits = embeddings @ proxies[:, 0].T / 0.05
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = share * np.eye(4)[labels] + (1 - share) * np.eye(4)[partner_labels]
    return -(targets * log_probabilities).sum(1)


def proxy_anchor_twice(labels, partner_labels, share, embeddings, proxies):
    """The loss of the batch with either label, by loops."""
    proxies = proxies[:, 0] / np.linalg.norm(proxies[:, 0], axis=-1, keepdims=True)
    cosines = embeddings @ proxies.T

    def loss(of_samples):
        pulls = [np.log1p(np.exp(-32 * (cosines[of_samples == c, c] - 0.1)).sum()) for c in set(of_samples)]
        pushes = [np.log1p(np.exp(32 * (cosines[of_samples != c, c] + 0.1)).sum()) for c in range(4)]
        return np.mean(pulls) + np.mean(pushes)

    return np.full(len(labels), share * loss(labels) + (1 - share) * loss(partner_labels))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [("normalized_softmax", softmax_with_soft_labels), ("proxy_anchor", proxy_anchor_twice)],
)
def test_the_loss_of_a_step(loss, reference):
    images, labels = make_batch()
    mixup = models.Mixup(alpha=2.0, seed=7)
    model = make_model(mixup, loss)
    mixed = mixup(images, 0)
    embeddings = np.asarray(model.embedder(mixed.images), np.float64)
    partner_labels = labels[np.asarray(mixed.partners)]
    values = reference(labels, partner_labels, float(mixed.share), embeddings, array_of(model.proxies.proxies))
    assert model.train_on_batch(images, labels) == pytest.approx(values.mean(), rel=1e-4)


def test_each_label_has_the_weight_of_its_own_image():
    images, labels = make_batch()
    weights = np.linspace(0.2, 1.5, len(images)).astype("float32")
    mixup = models.Mixup(alpha=2.0, seed=7)
    model = make_model(mixup)
    mixed = mixup(images, 0)
    embeddings, partners, share = model.embedder(mixed.images), np.asarray(mixed.partners), float(mixed.share)
    one, other = (np.asarray(model.sample_losses(of, embeddings)) for of in (labels, labels[partners]))
    expected = share * np.mean(weights * one) + (1 - share) * np.mean(weights[partners] * other)
    assert model.train_on_batch(images, labels, sample_weight=weights) == pytest.approx(expected, rel=1e-4)


def test_steps_are_mixed_differently():
    mixup = models.Mixup(alpha=1.0)
    images, _ = make_batch()
    eager, graph = (
        [function(images, tf.constant(step, tf.int64)) for step in range(2)] for function in (mixup, tf.function(mixup))
    )
    for one, same in zip(eager, graph):
        np.testing.assert_array_equal(one.partners, same.partners)
        np.testing.assert_allclose(one.images, same.images, rtol=1e-5)
    assert not np.array_equal(eager[0].partners, eager[1].partners) and eager[0].share != eager[1].share
    assert models.Mixup(seed=1)(images, 0).share != models.Mixup(seed=2)(images, 0).share


@pytest.mark.parametrize("mixing", [models.Mixup(0.4, 0.9, seed=3), models.CutMix(2.0)])
def test_a_saved_model_goes_on_exactly(mixing, tmp_path):
    whole, stopped = make_model(mixing), make_model(mixing)
    for step in range(4):
        whole.train_on_batch(*make_batch())
        if step < 2:
            stopped.train_on_batch(*make_batch())
    stopped.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert repr(resumed.mixing) == repr(mixing)
    for _ in range(2):
        resumed.train_on_batch(*make_batch())
    for one, other in zip(weights_of(whole), weights_of(resumed)):
        np.testing.assert_array_equal(one, other)


def test_images_of_bytes_are_mixed_as_floats():
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    mixed = models.Mixup(alpha=5.0)(images, 1)
    assert mixed.images.dtype == tf.float32
    expected = float(mixed.share) * images + (1 - float(mixed.share)) * images[np.asarray(mixed.partners)]
    np.testing.assert_allclose(mixed.images, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"in_batch_weight": 0.5}, "in_batch_weight=0.5"),
        ({"references": None}, "in_batch_weight=1"),
        ({"references": [layers.CrossBatchMemory(8, 4)], "in_batch_weight": 0}, "the reference CrossBatchMemory"),
    ],
)
def test_losses_that_need_one_label_per_image(options, received):
    with pytest.raises(ValueError, match=rf"mixing=Mixup\(.*\) with {received}.*Expected: references=ClassProxies"):
        make_model(models.Mixup(), **options)


def test_a_zero_shot_loss_needs_one_label_per_image():
    model = types.SimpleNamespace(references=(), memories=(), proxies=None, in_batch_weight=0, zero_shot=object())
    with pytest.raises(ValueError, match="with a zero-shot loss"):
        mixing_module.check_mixing(models.CutMix(), model)


def test_a_memory_of_recent_batches_needs_one_label_per_image(linear_embedder):
    model = models.CCPModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2), recent_size=8)
    with pytest.raises(ValueError, match="with the memory CrossBatchMemory of recent batches"):
        model.compile("sgd", "c2", mixing=models.Mixup())


def test_cutmix_needs_images_and_mixup_takes_vectors(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    with pytest.raises(ValueError, match=r"embedder with inputs of shape \(None, 8\)"):
        model.compile("sgd", "normalized_softmax", mixing=models.CutMix())
    model.compile("sgd", "normalized_softmax", mixing=models.Mixup(), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(*blobs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.Mixup(alpha=0.0), "alpha=0.0"),
        (lambda: models.CutMix(probability=1.5), "probability=1.5"),
        (lambda: models.Mixup(seed=-1), "seed=-1"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_type_of_mixing():
    with pytest.raises(TypeError, match="mixing='mixup'.*Expected: Mixup"):
        make_model("mixup")


