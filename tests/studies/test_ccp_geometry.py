"""The study of proxies in the plane: images in place of proxies, and its setup."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from studies.ccp_geometry import (
    RememberedPool,
    SampleReferences,
    best_of,
    ccp_geometry,
    split_samples,
)
from tfdml import data, layers, losses, models
from tfdml.experiments import InputError

STEPS, TEST = 20, (300, 420)


def small_embedder(input_shape):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(2, use_bias=False, kernel_initializer=keras.initializers.GlorotNormal(seed=3)),
            layers.L2Clip(),
        ]
    )


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    chosen = labels < 3
    return data.LabeledImages((images[chosen] * 15).astype(np.uint8).reshape(-1, 8, 8, 1), labels[chosen], "012")


@pytest.fixture
def pool(digits):
    return RememberedPool(data.class_pool(digits, 5, seed=0, preprocessing=data.Preprocessing((8, 8), 1)))


def test_the_pool_remembers_its_last_draw(pool):
    for number in (0, 1):
        ((images, labels),) = list(pool(number))
        np.testing.assert_array_equal(images, pool.images)
        np.testing.assert_array_equal(labels, pool.labels)
        assert np.bincount(pool.labels).tolist() == [5, 5, 5]
    first = np.array(pool(0).get_single_element()[0])
    assert np.abs(first - images).max() > 0.1


def test_images_are_found_by_their_embeddings(pool):
    pool(0)
    embedder = small_embedder((8, 8, 1))
    references = SampleReferences(embedder, pool, num_classes=3, per_class=2)
    embeddings = np.asarray(embedder(pool.images))
    chosen = np.array([[4, 1], [7, 9], [10, 13]])
    references.assign(embeddings[chosen])
    np.testing.assert_array_equal(references.images, pool.images[chosen.reshape(-1)])
    np.testing.assert_array_equal(references.proxies, embeddings[chosen])
    # A later pool does not change them. New weights change them when they are embedded again.
    pool(1)
    embedder.set_weights([0.5 * embedder.get_weights()[0]])
    expected = np.asarray(embedder(references.images))
    called = references()
    np.testing.assert_allclose(called.embeddings, expected, atol=1e-6)
    assert called.labels.numpy().tolist() == [0, 0, 1, 1, 2, 2] and called.per_class == 2
    assert np.abs(expected.reshape(3, 2, 2) - references.proxies).max() > 1e-3
    references.embed()
    np.testing.assert_allclose(references.proxies, expected.reshape(3, 2, 2), atol=1e-6)


@pytest.mark.integration
def test_gradients_go_through_the_images(digits, pool):
    """A step of SGD by hand, on the loss as a function of the kernel alone."""
    pool(0)
    embedder = small_embedder((8, 8, 1))
    references = SampleReferences(embedder, pool, num_classes=3, per_class=2)
    references.assign(np.asarray(embedder(pool.images)).reshape(3, 5, 2)[:, :2])
    model = models.CCPModel(embedder, references)
    model.compile(keras.optimizers.SGD(0.3), "c2", jit_compile=False)
    assert len(model.trainable_variables) == 1
    images, labels = digits.images[:20] / np.float32(255), digits.labels[:20]
    kernel = tf.Variable(embedder.get_weights()[0])

    def embed(batch):
        vectors = tf.reshape(batch, (len(batch), -1)) @ kernel
        return vectors / tf.maximum(1.0, tf.norm(vectors, axis=1, keepdims=True))

    with tf.GradientTape() as tape:
        both = layers.References(embed(np.array(references.images)), np.repeat(np.arange(3), 2))
        value = tf.reduce_mean(losses.get("c2").against(labels, embed(images), both))
    expected = kernel - 0.3 * tape.gradient(value, kernel)
    model.fit(images, labels, batch_size=20, epochs=1, verbose=0)
    assert np.abs(expected - kernel.numpy()).max() > 1e-3
    np.testing.assert_allclose(embedder.get_weights()[0], expected, atol=1e-5)


def test_split_takes_the_last_of_each_class(digits):
    most, last = split_samples(digits, 7)
    assert last.class_counts.tolist() == [7, 7, 7] and len(most) + len(last) == len(digits)
    for label in range(3):
        of_class = digits.images[digits.labels == label]
        np.testing.assert_array_equal(most.images[most.labels == label], of_class[:-7])
        np.testing.assert_array_equal(last.images[last.labels == label], of_class[-7:])
    for count in (0, 200):
        with pytest.raises(InputError, match=f"Received: {count} images per class"):
            split_samples(digits, count)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder and the result of a study with a linear embedder on digits in the format and the size of MNIST."""
    folder = tmp_path_factory.mktemp("study")
    images, labels = load_digits(return_X_y=True)
    images = np.pad(images.reshape(-1, 8, 8) * 15, ((0, 0), (10, 10), (10, 10))).astype(np.uint8)
    parts = {"train": slice(0, 300), "test": slice(*TEST)}
    arrays = {f"x_{part}": images[place] for part, place in parts.items()}
    arrays.update({f"y_{part}": labels[place] for part, place in parts.items()})
    np.savez(folder / "mnist.npz", **arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build_embedder", lambda *arguments, input_shape, **options: small_embedder(input_shape))
        results = ccp_geometry(
            str(folder / "out"), path=str(folder / "mnist.npz"), side=28, steps=STEPS, warmup_steps=4,
            steps_per_validation=2, validation_per_class=5, per_class=2, pool_size=6, patience=1, learning_rate=0.1,
            seeds=[5],
        )  # fmt: skip
    return folder / "out", results


@pytest.mark.integration
def test_methods_begin_alike_and_take_the_same_steps(study):
    _, results = study
    assert list(results) == ["fixed", "ccp", "samples"]
    ((first,),) = results["fixed"]
    for name, (problems,) in results.items():
        assert name == "fixed" or len(problems) >= 2
        assert sum(problem.record["steps"] for problem in problems) == STEPS
        assert [problem.record["projection"] for problem in problems] == list(range(len(problems)))
        # Validations of the warm-up do not end a problem.
        assert problems[0].record["steps"] > 4
        for measure in ("covering_radius", "proxy_diversity"):
            assert problems[0].record[measure] == pytest.approx(first.record[measure], rel=1e-5)
        assert best_of(problems).record["best"] == max(problem.record["best"] for problem in problems)


@pytest.mark.integration
def test_what_is_seen_of_a_problem(study):
    _, results = study
    labels = load_digits().target[slice(*TEST)]
    count = len(labels)
    for problem in (problem for (problems,) in results.values() for problem in problems):
        assert problem.points.shape == (count, 2) and np.linalg.norm(problem.points, axis=1).max() <= 1 + 1e-6
        radii = []
        for label, proxies in enumerate(problem.proxies):
            members = problem.points[labels == label]
            radii.append(max(min(np.linalg.norm(point - proxy) for proxy in proxies) for point in members))
        assert problem.covering_radius == pytest.approx(np.mean(radii), rel=1e-5)
        distances = np.linalg.norm(problem.points[:, None] - problem.points, axis=-1) + 9.0 * np.eye(count)
        assert problem.precision_at_1 == pytest.approx(np.mean(labels[distances.argmin(axis=1)] == labels), abs=0.02)
        between = [distances[i, labels != labels[i]].sum() for i in range(count)]
        pairs = sum(np.sum(labels != label) for label in labels)
        assert problem.interclass_distance == pytest.approx(sum(between) / pairs, rel=1e-5)
        assert problem.record["converged_proxy_diversity"] == pytest.approx(apart(problem.proxies), abs=1e-6)
    for (problems,) in results.values():
        for problem, following in zip(problems, problems[1:]):
            assert following.record["proxy_diversity"] == pytest.approx(apart(problem.next_proxies), abs=1e-6)


def apart(proxies):
    """Mean distance between the two proxies of a class."""
    return np.linalg.norm(proxies[:, 0] - proxies[:, 1], axis=1).mean()


@pytest.mark.integration
def test_report(study):
    folder, results = study
    with open(folder / "ccp_geometry.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == ["one problem", "CCP, proxies", "CCP, samples in place of proxies"]
    for row, (problems,) in zip(rows[1:], results.values()):
        best = best_of(problems)
        assert (row[1], row[-1]) == (f"{best.map_at_r:.3f}", f"{best.map_at_r:.4f}")
    with open(folder / "problems.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + sum(len(problems) for (problems,) in results.values())
    for name in ("ccp_geometry.md", "problems.md", "proxies.png", "samples.png"):
        assert (folder / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["ccq"]}, "ccq"),
        ({"steps": 110, "warmup_steps": 100, "steps_per_validation": 11}, "steps=110, warmup_steps=100"),
        ({"steps_per_validation": 0}, "steps_per_validation=0"),
    ],
)
def test_bad_input(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        ccp_geometry(str(tmp_path), **options)
