import numpy as np
import pytest
import scipy.linalg
from linear_objectives import class_pairs, mmc

from tfdml.linear import MMC


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    labels = np.arange(15) % 3
    return generator.normal(size=(3, 4))[labels] + generator.normal(size=(15, 4)) * [0.2, 0.5, 1.0, 2.0], labels


def scatter(X, pairs):
    differences = X[pairs[:, 0]] - X[pairs[:, 1]]
    return differences.T @ differences


def relative_gap(fitted, X, pairs, same):
    """Bound on how much larger the maximum can be, from the gradient: a certificate of the convex program."""
    differences = X[pairs[~same, 0]] - X[pairs[~same, 1]]
    distances = fitted.score_pairs(X[pairs[~same]])
    gradient = (differences / (2 * distances[:, None])).T @ differences
    largest = scipy.linalg.eigh(gradient, scatter(X, pairs[same]), eigvals_only=True)[-1]
    return (largest - distances.sum() / 2) / distances.sum()


def test_the_maximum_is_certain(samples):
    X, labels = samples
    pairs, same = class_pairs(labels)
    fitted = MMC().fit(X, labels)
    M = fitted.metric_matrix_
    assert np.trace(M @ scatter(X, pairs[same])) == pytest.approx(1.0)
    assert fitted.objective_ == pytest.approx(mmc(M, X, pairs, same))
    assert fitted.objective_ == pytest.approx(fitted.score_pairs(X[pairs[~same]]).sum())
    assert relative_gap(fitted, X, pairs, same) < 1e-4
    again = MMC().fit_pairs(X, pairs, same)
    np.testing.assert_allclose(again.metric_matrix_, M, rtol=1e-3, atol=1e-6)


def test_squared_distances_have_a_closed_solution(samples):
    X, labels = samples
    pairs, same = class_pairs(labels)
    fitted = MMC(distance="squared_l2").fit(X, labels)
    similar, dissimilar = scatter(X, pairs[same]), scatter(X, pairs[~same])
    assert fitted.components_.shape == (1, 4)
    assert np.trace(fitted.metric_matrix_ @ similar) == pytest.approx(1.0)
    assert fitted.objective_ == pytest.approx(np.trace(fitted.metric_matrix_ @ dissimilar))
    # The Lagrange dual: the maximum is the smallest t with t S - D positive semidefinite.
    assert np.linalg.eigvalsh(fitted.objective_ * similar - dissimilar)[0] == pytest.approx(0.0, abs=1e-8)


def test_low_rank_is_worse_than_full_rank_and_better_than_a_truncated_one(samples):
    X, labels = samples
    pairs, same = class_pairs(labels)
    full = MMC().fit(X, labels)
    values, vectors = np.linalg.eigh(full.metric_matrix_)
    for size in (1, 2, 3):
        low = MMC(n_components=size).fit(X, labels)
        truncated = (vectors[:, -size:] * values[-size:]) @ vectors[:, -size:].T
        assert mmc(truncated, X, pairs, same) * (1 - 1e-6) <= low.objective_ <= full.objective_ * (1 + 1e-6)


def test_drawn_pairs(samples):
    first, again, other = (MMC(n_pairs=8, random_state=seed).fit(*samples).metric_matrix_ for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_equal_similar_pairs():
    X = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    with pytest.warns(UserWarning, match="All similar pairs are equal"):
        fitted = MMC().fit(X, [0, 0, 1, 1])
    assert np.trace(fitted.metric_matrix_) == pytest.approx(1.0)
    assert fitted.score_pairs([X[[0, 2]]])[0] == pytest.approx(5**0.5)


def test_too_few_pairs_are_regularized(samples):
    X, labels = samples
    pairs, same = np.array([[0, 3], [0, 1], [1, 2], [2, 3], [0, 5]]), np.array([True, False, False, False, False])
    with pytest.warns(UserWarning, match="scatter of similar pairs is singular: rank 1 in 4 dimensions. 0.001 of"):
        fitted = MMC().fit_pairs(X, pairs, same)
    assert np.isfinite(fitted.components_).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosine"}, "distance='cosine'"),
        ({"n_pairs": 0}, "n_pairs=0"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"tol": -1.0}, "tol=-1.0"),
    ],
)
def test_bad_options(samples, options, message):
    with pytest.raises(ValueError, match=message):
        MMC(**options).fit(*samples)


def test_equal_dissimilar_pairs():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="Dissimilar pairs are equal"):
        MMC().fit_pairs(X, [[0, 1], [0, 2], [1, 3]], [True, False, False])
