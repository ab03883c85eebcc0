import numpy as np
import pytest
from linear_objectives import class_pairs, squared

from tfdml.linear import ScatterDifference


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    labels = np.arange(15) % 3
    return generator.normal(size=(3, 4))[labels] + generator.normal(size=(15, 4)), labels


def psi(M, X, labels, lam, average):
    pairs, same = class_pairs(labels)
    of_pairs = np.array([squared(M, X[i], X[j]) for i, j in pairs])
    total = np.mean if average else np.sum
    return lam * total(of_pairs[same]) - (1 - lam) * total(of_pairs[~same])


@pytest.mark.parametrize(("lam", "average"), [(0.45, True), (0.5, False), (0.0, True)])
def test_minimum_with_the_frobenius_norm(samples, lam, average):
    X, labels = samples
    fitted = ScatterDifference(lam, average).fit(X, labels)
    M = fitted.metric_matrix_
    assert fitted.objective_ == pytest.approx(psi(M, X, labels, lam, average))
    least = fitted.objective_ + np.sum(M**2) / 2
    generator = np.random.default_rng(1)
    for _ in range(20):
        W = fitted.components_ + 0.1 * generator.normal(size=fitted.components_.shape)
        other = W.T @ W
        assert psi(other, X, labels, lam, average) + np.sum(other**2) / 2 >= least - 1e-9 * abs(least)
        other = M + 0.1 * (W := generator.normal(size=(4, 4))).T @ W
        assert psi(other, X, labels, lam, average) + np.sum(other**2) / 2 >= least


def test_minimum_of_orthonormal_rows(samples):
    X, labels = samples
    fitted = ScatterDifference(0.4, bound="orthonormal", n_components=2).fit(X, labels)
    np.testing.assert_allclose(fitted.components_ @ fitted.components_.T, np.eye(2), atol=1e-12)
    assert fitted.objective_ == pytest.approx(psi(fitted.metric_matrix_, X, labels, 0.4, True))
    generator = np.random.default_rng(1)
    for _ in range(50):
        W = np.linalg.qr(generator.normal(size=(4, 2)))[0].T
        assert psi(W.T @ W, X, labels, 0.4, True) >= fitted.objective_


def test_low_rank_keeps_the_largest_eigenvalues(samples):
    full, low = (ScatterDifference(0.2, n_components=size).fit(*samples) for size in (None, 2))
    values, vectors = np.linalg.eigh(full.metric_matrix_)
    np.testing.assert_allclose(low.metric_matrix_, (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T, atol=1e-9)


def test_listed_pairs_are_the_pairs_of_classes(samples):
    X, labels = samples
    kept = ScatterDifference(0.3).fit(X, labels)
    again = ScatterDifference(0.3).fit_pairs(X, *class_pairs(labels))
    np.testing.assert_allclose(again.metric_matrix_, kept.metric_matrix_)


def test_the_message_names_the_largest_weight(samples):
    with pytest.raises(ValueError, match="solution is M = 0.*lam=0.99. Expected: a smaller value, below 0") as error:
        ScatterDifference(0.99).fit(*samples)
    largest = float(str(error.value).split("below ")[1].rstrip("."))
    assert len(ScatterDifference(0.99 * largest).fit(*samples).components_) >= 1
    with pytest.raises(ValueError, match="M = 0"):
        ScatterDifference(1.01 * largest).fit(*samples)


@pytest.mark.parametrize(("options", "message"), [({"lam": 1.5}, "lam=1.5"), ({"bound": "trace"}, "bound='trace'")])
def test_bad_options(samples, options, message):
    with pytest.raises(ValueError, match=message):
        ScatterDifference(**options).fit(*samples)


def test_equal_dissimilar_pairs():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="all dissimilar pairs are equal"):
        ScatterDifference().fit_pairs(X, [[0, 1], [0, 2], [1, 3]], [True, False, False])
