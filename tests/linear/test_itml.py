import numpy as np
import pytest
from linear_objectives import class_pairs, finite_differences, itml
from sklearn.exceptions import ConvergenceWarning

from tfdml.linear import ITML
from tfdml.linear.itml import _objective

PRIOR = np.diag([1.0, 2.0, 3.0, 0.5]) + 0.2


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    labels = np.arange(15) % 3
    return generator.normal(size=(3, 4))[labels] + generator.normal(size=(15, 4)), labels


def test_gradient(samples):
    X, labels = samples
    pairs, same = class_pairs(labels)
    differences = X[pairs[:, 0]] - X[pairs[:, 1]]
    V, bounds = np.random.default_rng(1).normal(size=(4, 4)), (2.0, 9.0)

    def function(moved):
        return _objective(moved, differences[same], differences[~same], bounds, 0.7)

    assert function(V)[0] == pytest.approx(itml(V.T @ V, X, pairs, same, bounds, 0.7, np.eye(4)))
    numeric = finite_differences(lambda moved: function(moved)[0], V)
    np.testing.assert_allclose(function(V)[1], numeric, rtol=1e-5, atol=1e-6)
    assert function(np.zeros((4, 4)))[0] == np.inf


@pytest.mark.parametrize("prior", ["identity", "covariance", PRIOR], ids=["identity", "covariance", "array"])
def test_the_minimum_is_certain(samples, prior):
    X, labels = samples
    pairs, same = class_pairs(labels)
    fitted = ITML(gamma=0.5, prior=prior).fit_pairs(X, pairs, same)
    matrix = {"identity": np.eye(4), "covariance": np.linalg.inv(np.cov(X.T))}.get(str(prior), prior)

    def objective(M):
        return itml(M, X, pairs, same, fitted.bounds_, 0.5, matrix)

    M = fitted.metric_matrix_
    assert fitted.objective_ == pytest.approx(objective(M))
    # The program is convex: where its gradient vanishes is the minimum.
    scale = np.abs(finite_differences(objective, 1.1 * M)).max()
    assert np.abs(finite_differences(objective, M)).max() < 1e-3 * scale


def test_default_bounds_are_percentiles_under_the_prior(samples):
    X, labels = samples
    fitted = ITML(prior=PRIOR).fit_pairs(X, *class_pairs(labels))
    expected = [(X[i] - X[j]) @ PRIOR @ (X[i] - X[j]) for i in range(15) for j in range(i)]
    np.testing.assert_allclose(fitted.bounds_, np.percentile(expected, [5, 95]))


def test_bounds_of_many_samples_are_estimated():
    X = np.random.default_rng(0).normal(size=(400, 2))
    fitted = ITML(random_state=0).fit(X, np.arange(400) % 2)
    squares = np.sum((X[:, None] - X) ** 2, axis=2)[np.triu_indices(400, 1)]
    np.testing.assert_allclose(fitted.bounds_, np.percentile(squares, [5, 95]), rtol=0.1)


def test_satisfied_bounds_return_the_prior(samples):
    X, labels = samples
    fitted = ITML(prior=PRIOR, bounds=(1e6, 1e6)).fit_pairs(X, [[0, 3], [0, 1]], [True, False])
    assert np.linalg.norm(fitted.metric_matrix_ - PRIOR) > 1e-3  # One pair must move apart,
    fitted = ITML(prior=PRIOR, bounds=(1e6, 1e6), gamma=1e-9).fit_pairs(X, [[0, 3], [0, 1]], [True, False])
    np.testing.assert_allclose(fitted.metric_matrix_, PRIOR, atol=1e-5)  # but not at this price.


def test_low_rank_keeps_the_largest_eigenvalues(samples):
    full, low = (ITML(n_components=size, random_state=0).fit(*samples) for size in (None, 2))
    values, vectors = np.linalg.eigh(full.metric_matrix_)
    np.testing.assert_allclose(low.metric_matrix_, (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T, atol=1e-9)


def test_equal_dissimilar_pairs_are_skipped(samples):
    X, _ = samples
    X = np.concatenate([X, X[:1]])
    pairs, same = np.array([[0, 3], [0, 1], [0, 15]]), np.array([True, False, False])
    with pytest.warns(UserWarning, match="1 of 2 dissimilar pairs are equal"):
        fitted = ITML(bounds=(1.0, 2.0)).fit_pairs(X, pairs, same)
    again = ITML(bounds=(1.0, 2.0)).fit_pairs(X, pairs[:2], same[:2])
    np.testing.assert_allclose(fitted.metric_matrix_, again.metric_matrix_)


def test_singular_covariance_is_regularized():
    X = np.random.default_rng(0).normal(size=(4, 6))
    with pytest.warns(UserWarning, match="covariance of the samples is singular: rank 3 in 6 dimensions"):
        ITML(prior="covariance").fit(X, [0, 0, 1, 1])


def test_stopped_early(samples):
    with pytest.warns(ConvergenceWarning, match="ITML did not converge"):
        ITML(max_iter=1, random_state=0).fit(*samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"gamma": np.inf}, "gamma=inf"),
        ({"prior": "random"}, "Unknown prior. Received: prior='random'"),
        ({"prior": np.eye(3)}, r"Invalid prior. Received: an array of shape \(3, 3\)"),
        ({"prior": np.triu(np.ones((4, 4)))}, "Invalid prior"),
        ({"prior": np.diag([1.0, 1.0, 1.0, 0.0])}, "not positive definite. Received: an eigenvalue of 0"),
        ({"bounds": (2.0, 1.0)}, "Invalid bounds"),
        ({"bounds": (0.0, 1.0)}, "Invalid bounds"),
        ({"n_pairs": -1}, "n_pairs=-1"),
    ],
)
def test_bad_options(samples, options, message):
    with pytest.raises(ValueError, match=message):
        ITML(**options).fit(*samples)


@pytest.mark.parametrize("prior", ["identity", "covariance"])
def test_equal_samples(prior):
    with pytest.raises(ValueError, match="All samples are equal"):
        ITML(prior=prior).fit(np.ones((4, 2)), [0, 0, 1, 1])
