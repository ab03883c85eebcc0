"""SoftTriple against a loop over classes, with sorted and unsorted references, and the penalty on centers."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.layers import ClassProxies, References
from tfdml.losses.soft_triple import SoftTripleLoss

FORMS = [
    dict(scale=20.0, center_scale=10.0, margin=0.01, center_weight=0.2),
    dict(scale=2.0, center_scale=1.0, margin=0.3, center_weight=0.5),
]


def loop_of(scale, center_scale, margin, center_weight, per_class=None):
    """The formula as loops over samples and classes."""

    def similarity(cosines):
        weights = np.exp(center_scale * cosines)
        return np.sum(weights * cosines) / np.sum(weights)

    def loop(x, labels, references=None, reference_labels=None):
        values = []
        for anchor in anchors(x, labels, references, reference_labels):
            if not len(anchor.positives) or not len(anchor.negatives):
                values.append(0.0)
                continue
            cosines = cosine(anchor.x, anchor.negatives)
            classes = (labels if references is None else reference_labels)[anchor.negative_indices]
            others = sum(np.exp(scale * similarity(cosines[classes == c])) for c in np.unique(classes))
            target = np.exp(scale * (similarity(cosine(anchor.x, anchor.positives)) - margin))
            values.append(-np.log(target / (target + others)))
        return np.mean(values) + (center_weight * spread(references, reference_labels) if per_class else 0.0)

    def spread(references, reference_labels):
        classes, unit = np.unique(reference_labels), references / np.linalg.norm(references, axis=1, keepdims=True)
        lengths = [
            np.sqrt(2.0 - 2.0 * unit[s] @ unit[t])
            for c in classes
            for s, t in itertools.combinations(np.flatnonzero(reference_labels == c), 2)
        ]
        return sum(lengths) / (len(classes) * per_class * (per_class - 1))

    return loop


def proxies(classes, per_class, dim=4, seed=0):
    points = np.random.default_rng(seed).normal(size=(classes * per_class, dim))
    return References(points, np.repeat(np.arange(classes), per_class), per_class=per_class)


def batch(seed, classes, dim=4, size=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, dim)), rng.integers(0, classes, size)


@pytest.mark.parametrize("options", FORMS)
def test_equals_the_loop(options):
    """Unsorted references have no penalty on centers."""
    check_values(SoftTripleLoss(**options), loop_of(**options))
    check_gradients(SoftTripleLoss(**options), loop_of(**options))


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize(("classes", "per_class"), [(3, 2), (5, 4), (1, 3)])
def test_class_proxies_equal_the_loop(options, classes, per_class):
    (x, labels), references = batch(1, classes), proxies(classes, per_class)
    values = SoftTripleLoss(**options).against(labels, x, references)
    expected = loop_of(**options, per_class=per_class)(x, labels, references.embeddings, references.labels)
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-9)


def test_gradients_of_class_proxies():
    loss, loop = SoftTripleLoss(**FORMS[1]), loop_of(**FORMS[1], per_class=3)
    (x, labels), references = batch(1, 3), proxies(3, 3)
    variables = tf.Variable(x), tf.Variable(references.embeddings)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.against(labels, variables[0], references._replace(embeddings=variables[1])))
    step = 1e-6
    for k, gradient in enumerate(tape.gradient(value, variables)):
        arguments, expected = [x, references.embeddings], np.zeros(gradient.shape)
        for index in np.ndindex(*gradient.shape):
            sides = []
            for sign in (1.0, -1.0):
                moved = [argument.copy() for argument in arguments]
                moved[k][index] += sign * step
                sides.append(loop(moved[0], labels, moved[1], references.labels))
            expected[index] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, atol=1e-7)


def test_order_of_the_references_does_not_matter():
    """Class proxies are reduced by their order, other references by sorted labels, with the same result."""
    (x, labels), references = batch(2, 7, size=20), proxies(7, 3)
    loss = SoftTripleLoss(center_weight=0.0)
    shuffled = np.random.default_rng(0).permutation(21)
    others = References(references.embeddings[shuffled], references.labels[shuffled] * 1000 - 3000)
    against = tf.function(loss.against, jit_compile=True)
    np.testing.assert_allclose(against(labels * 1000 - 3000, x, others), loss.against(labels, x, references), rtol=1e-9)


def test_one_proxy_of_a_class_has_no_spread():
    (x, labels), references = batch(3, 5), proxies(5, 1)
    values = SoftTripleLoss().against(labels, x, references)
    np.testing.assert_allclose(values, SoftTripleLoss(center_weight=0.0).against(labels, x, references))


def test_references_that_do_not_exist_take_no_part():
    (x, labels), references = batch(4, 4), proxies(4, 3)._replace(per_class=None)
    exists = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0], bool)  # class 2 has none
    values = SoftTripleLoss().against(labels, x, references._replace(valid=exists))
    without = References(references.embeddings[exists], references.labels[exists])
    np.testing.assert_allclose(values, SoftTripleLoss().against(labels, x, without))
    assert set(np.flatnonzero(values.numpy() == 0)) == set(np.flatnonzero(labels == 2))


def test_pairs_that_a_miner_leaves_out_take_no_part():
    x, labels = batch(5, 3, size=8)
    loss = SoftTripleLoss(miner="hard")
    masks = loss.miner(labels, x)
    for i, value in enumerate(loss.call(labels, x).numpy()):
        chosen = np.flatnonzero(masks.positives[i] | masks.negatives[i])
        alone = SoftTripleLoss().against(labels[i : i + 1], x[i : i + 1], References(x[chosen], labels[chosen]))
        np.testing.assert_allclose(value, alone[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_coinciding_centers_have_a_finite_gradient(dtype):
    point = np.random.default_rng(0).normal(size=(1, 4))
    centers = tf.constant(np.repeat(point, 6, axis=0).astype(dtype))
    x, labels = batch(6, 2)
    with tf.GradientTape() as tape:
        tape.watch(centers)
        references = References(centers, np.repeat(np.arange(2), 3), per_class=3)
        value = tf.reduce_mean(SoftTripleLoss().against(labels, x.astype(dtype), references))
    assert np.isfinite(value) and np.all(np.isfinite(tape.gradient(value, centers)))


def test_extreme_center_scales_choose_the_nearest():
    """With a large center_scale the exponentials of all but the nearest center vanish, without overflow."""
    x, labels = np.float32([[1.0, 0.0]]), np.array([0])
    references = References(np.float32([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([0, 0, 1, 1]))
    value = SoftTripleLoss(scale=1.0, center_scale=1e4, margin=0.0).against(labels, x, references)
    np.testing.assert_allclose(value, [np.log(1.0 + np.exp(-1.0))], rtol=1e-5)


def test_takes_the_proxies_of_the_layer():
    layer = ClassProxies(num_classes=3, per_class=2, embedding_size=4)
    (x, labels), points = batch(7, 3), layer().embeddings.numpy().astype("float64")
    expected = loop_of(**FORMS[0], per_class=2)(x, labels, points, np.repeat(np.arange(3), 2))
    np.testing.assert_allclose(np.mean(SoftTripleLoss().against(labels, x, layer())), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scale=0.0), "Expected: scale > 0"),
        (dict(center_scale=-1.0), "Expected: center_scale > 0"),
        (dict(margin=-0.01), "margin=-0.01"),
        (dict(center_weight=-0.2), "center_weight=-0.2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SoftTripleLoss(**options)
