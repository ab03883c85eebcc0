"""The bound of chapter 4, computed by hand, and a short run of the study."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from studies.gap_analysis import beyond, combine_prototypes, gap_analysis, prototype_hulls


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """scikit-learn's digits in the file format and the size of MNIST."""
    digits = load_digits()
    images = np.pad(np.kron(digits.images * 15, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    order = np.argsort(digits.target, kind="stable").reshape(-1)
    rank = np.concatenate([np.arange(count) for count in np.bincount(digits.target)])
    train, test = order[rank < 12], order[(rank >= 12) & (rank < 22)]
    path = tmp_path_factory.mktemp("mnist") / "mnist.npz"
    np.savez(
        path,
        x_train=images[train],
        y_train=digits.target[train].astype(np.uint8),
        x_test=images[test],
        y_test=digits.target[test].astype(np.uint8),
    )
    return path


def test_combination_by_hand():
    prototypes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    features = np.array([[[0.1, 0.0], [0.9, 0.1], [0.8, 0.0], [0.0, 0.2]], [[0.0, 0.9]] * 4])
    weights = combine_prototypes(features, prototypes)
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory, small_mnist):
    """The folder and the result of a short run."""
    folder = tmp_path_factory.mktemp("study")
    results = gap_analysis(str(folder), path=str(small_mnist), steps=3, seeds=[4, 5], quick=True)
    assert list(results) == [4]
    return folder, results[4]


@pytest.mark.integration
def test_bound_on_every_image(quick_run):
    _, result = quick_run
    assert result.features.shape == (80, 49, 2) and np.linalg.norm(result.features, axis=-1).max() <= 1.0 + 1e-9
    assert result.prototypes.shape == (48, 2) and len(result.all_errors) == 220
    np.testing.assert_allclose(result.weights.sum(axis=1), 1.0)
    # The bound of an image, the mean distance of its features to their prototypes, lies in between.
    apart = np.linalg.norm(result.features[:, :, None] - result.prototypes, axis=-1).min(axis=-1)
    assert (result.errors <= apart.mean(axis=1) + 1e-12).all()
    assert apart.max() == pytest.approx(result.radius)
    assert 0.0 < result.errors.max() <= result.radius <= result.all_radius
    assert beyond(result) == (0, 0)
    assert beyond(result._replace(radius=0.5 * np.median(result.errors)))[0] > 40


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="prototypes=3"):
        gap_analysis(str(tmp_path), prototypes=3)
    with pytest.raises(ValueError, match="active_share=0.0"):
        gap_analysis(str(tmp_path), active_share=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_every_class_has_an_active_prototype(quick_run):
    # If no prototype reaches the share, the most frequent prototype of the class remains.
    _, result = quick_run
    shares = np.stack([result.weights[result.labels == label].mean(axis=0) for label in range(10)])
    hulls = prototype_hulls(result, 0.999)
    assert list(hulls) == list(range(10))
    for label, hull in hulls.items():
        np.testing.assert_allclose(hull.points.mean(axis=0), result.prototypes[shares[label].argmax()], atol=1e-9)
    # The hull of all used prototypes covers the local features of the class up to δ.
    (corners,) = [hull.points for label, hull in prototype_hulls(result, 1e-6).items() if label == 3]
    used = result.prototypes[shares[3] > 0]
    np.testing.assert_allclose(corners.min(axis=0), used.min(axis=0), atol=1e-4)
    np.testing.assert_allclose(corners.max(axis=0), used.max(axis=0), atol=1e-4)


@pytest.mark.integration
def test_report(quick_run):
    folder, _ = quick_run
    table = (folder / "gap_analysis.csv").read_text().splitlines()
    assert len(table) == 2 and "0 of 80" in table[1] and "0 of 220" in table[1]
    assert all((folder / f"{name}.png").stat().st_size > 1000 for name in ("prototypes", "hulls", "combinations"))
