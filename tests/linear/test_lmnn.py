import warnings

import numpy as np
import pytest
from linear_objectives import finite_differences, lmnn, lmnn_loop, targets_of
from sklearn.exceptions import ConvergenceWarning

from tfdml.linear import LMNN
from tfdml.linear import lmnn as lmnn_module
from tfdml.linear.lmnn import Triplets, target_neighbors


@pytest.fixture(params=[1, 10**9], ids=["lists", "searches"])
def lists(request, monkeypatch):
    """With and without lists of impostors, which small samples do not have by default."""
    monkeypatch.setattr(lmnn_module, "_LISTED_SHARE", request.param)
    return request.param == 1


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    labels = np.sort(np.arange(18) % 3)
    return generator.normal(size=(3, 4))[labels] + generator.normal(size=(18, 4)), labels


def problem(samples, k=2, mu=0.3, memory_bytes=2**20):
    return Triplets(*samples, k, mu, memory_bytes)


@pytest.mark.parametrize("memory_bytes", [1, 500, 2**20])
def test_objective_and_gradient(samples, memory_bytes, monkeypatch):
    monkeypatch.setattr(lmnn_module, "_LISTED_SHARE", 1)
    X, labels = samples
    triplets, W = problem(samples, memory_bytes=memory_bytes), np.random.default_rng(1).normal(size=(3, 4))
    expected = lmnn_loop(W.T @ W, X, labels, 2, 0.3)
    assert lmnn(W.T @ W, X, labels, 2, 0.3) == pytest.approx(expected)
    value, gradient = triplets.objective(W)
    assert value == pytest.approx(expected)
    numeric = finite_differences(lambda moved: triplets.objective(moved)[0], W)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)
    listed = triplets.impostors(W)
    assert (listed is None) == (memory_bytes < 2**20)
    if listed is not None:
        np.testing.assert_allclose(triplets.objective(W, listed)[0], expected)
        np.testing.assert_allclose(triplets.objective(W, listed)[1], gradient)


def test_gradient_by_the_metric(samples, lists):
    X, labels = samples
    W = np.random.default_rng(1).normal(size=(4, 4))
    triplets = problem(samples)
    listed = triplets.impostors(W)
    assert (listed is not None) == lists
    found = triplets.gradient_by_metric(W, listed, 0.0)
    numeric = finite_differences(lambda M: lmnn_loop(M, X, labels, 2, 0.3), W.T @ W)
    np.testing.assert_allclose(found, numeric, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(2 * W @ found, triplets.objective(W)[1])


def test_rounded_hinge(samples):
    triplets, W = problem(samples), np.random.default_rng(1).normal(size=(3, 4))
    exact = triplets.objective(W)[0]
    value, gradient = triplets.objective(W, width=0.2)
    assert exact - 0.1 * 18 * 2 * 12 <= value < exact
    np.testing.assert_allclose(
        gradient, finite_differences(lambda moved: triplets.objective(moved, width=0.2)[0], W), rtol=1e-5, atol=1e-5
    )


def test_target_neighbors(samples):
    X, labels = samples
    targets, is_target = target_neighbors(X, labels, 3)
    assert is_target.all()
    assert [sorted(row) for row in targets.tolist()] == [sorted(row) for row in targets_of(X, labels, 3)]
    with pytest.warns(UserWarning, match="1 classes have fewer than 4 samples"):
        targets, is_target = target_neighbors(X[:7], np.array([0, 0, 0, 0, 1, 1, 2]), 3)
    np.testing.assert_array_equal(is_target.sum(axis=1), [3, 3, 3, 3, 1, 1, 0])
    assert targets[4, 0] == 5 and targets[6].tolist() == [6, 6, 6]


def test_targets_do_not_depend_on_the_origin(samples):
    X, labels = samples
    near, far = (Triplets(X + offset, labels, 2, 0.3, 2**20) for offset in (0.0, 1e8))
    np.testing.assert_array_equal(far._targets, near._targets)


def test_classes_of_different_sizes(samples):
    X, _ = samples
    labels = np.array([0] * 9 + [1] * 6 + [2] * 2 + [3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triplets = problem((X, labels), k=3)
        fitted = LMNN(max_iter=30).fit(X, labels)
    W = np.random.default_rng(1).normal(size=(4, 4))
    assert triplets.objective(W)[0] == pytest.approx(lmnn_loop(W.T @ W, X, labels, 3, 0.3))
    assert fitted.objective_ == pytest.approx(lmnn_loop(fitted.metric_matrix_, X, labels, 3, 0.5))


def test_the_minimum_does_not_depend_on_the_start(samples, lists):
    X, labels = samples
    kept = LMNN(n_neighbors=2, tol=1e-5).fit(X, labels)
    assert kept.objective_ == pytest.approx(lmnn_loop(kept.metric_matrix_, X, labels, 2, 0.5))
    assert kept.objective_ < 0.8 * lmnn_loop(np.eye(4), X, labels, 2, 0.5)
    # A direction of size 0 has a zero gradient, and must come back all the same.
    lost = np.eye(4) * [0.0, 1.0, 1.0, 1.0]
    for options in ({"init": lost}, {"init": "lda"}):
        again = LMNN(n_neighbors=2, tol=1e-5, **options).fit(X, labels)
        assert again.objective_ == pytest.approx(kept.objective_, rel=1e-3)


def test_no_descent_along_any_direction(samples):
    X, labels = samples
    fitted = LMNN(n_neighbors=2).fit(X, labels)
    generator = np.random.default_rng(0)
    for _ in range(30):
        W = fitted.components_ + 0.03 * generator.normal(size=(4, 4))
        # The objective is convex in M, so nearby metrics show that the minimum is global.
        assert lmnn(W.T @ W, X, labels, 2, 0.5) > fitted.objective_ * (1 - 1e-4)


@pytest.mark.parametrize(("mu", "scale"), [(0.0, 1.0), (1.0, 0.0)])
def test_extreme_weights(samples, mu, scale):
    X, labels = samples
    fitted = LMNN(mu=mu, tol=1e-3).fit(X, labels)
    if scale == 0.0:
        assert np.abs(fitted.components_).max() < 1e-2  # Only pulling: everything contracts.
    else:
        assert fitted.objective_ < lmnn_loop(np.eye(4), X, labels, 3, 0.0)


@pytest.mark.parametrize("size", [4, 2])
def test_shrinkage(samples, size):
    options = {"n_components": size, "tol": 1e-3}
    kept = LMNN(**options).fit(*samples)
    fitted = LMNN(shrinkage=0.3, **options).fit(*samples)
    M, basis = kept.metric_matrix_, np.linalg.qr(kept.components_.T)[0]
    np.testing.assert_allclose(fitted.metric_matrix_, 0.7 * M + 0.3 * np.trace(M) / size * basis @ basis.T, atol=1e-9)
    assert fitted.objective_ == kept.objective_ and fitted.components_.shape == (size, 4)


def test_stopped_early(samples):
    with pytest.warns(ConvergenceWarning, match="LMNN did not converge. Received: max_iter=1."):
        fitted = LMNN(max_iter=1).fit(*samples)
    assert fitted.n_iter_ == 1
    assert fitted.objective_ <= lmnn_loop(np.eye(4), *samples, 3, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors=0"),
        ({"mu": 1.5}, "mu=1.5"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"memory_bytes": 0}, "memory_bytes=0"),
        ({"shrinkage": 1.5}, "shrinkage=1.5"),
        ({"init": "random"}, "init='random'"),
        ({"init": np.eye(3)}, r"Invalid init. Received: an array of shape \(3, 3\). Expected: finite values \(4, 4\)"),
        ({"init": np.full((4, 4), np.nan)}, "Invalid init"),
    ],
)
def test_bad_options(samples, options, message):
    with pytest.raises(ValueError, match=message):
        LMNN(**options).fit(*samples)
