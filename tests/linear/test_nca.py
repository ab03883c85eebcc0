import numpy as np
import pytest
from linear_objectives import finite_differences, nca
from sklearn.exceptions import ConvergenceWarning

from tfdml.linear import NCA
from tfdml.linear.nca import expected_correct


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    labels = np.arange(15) % 3
    return 0.5 * (generator.normal(size=(3, 4))[labels] + generator.normal(size=(15, 4))), labels


@pytest.mark.parametrize("block_bytes", [1, 300, 10**6])
def test_objective_and_gradient(samples, block_bytes):
    X, labels = samples
    X, W = X - X.mean(axis=0), np.random.default_rng(1).normal(size=(3, 4))
    value, gradient = expected_correct(W, X, labels, block_bytes)
    assert value == pytest.approx(nca(W.T @ W, X, labels))
    numeric = finite_differences(lambda moved: expected_correct(moved, X, labels)[0], W)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_no_row_underflows(samples):
    X, labels = samples
    value, gradient = expected_correct(1e3 * np.eye(4), X - X.mean(axis=0), labels)
    assert 0 <= value <= 15 and np.isfinite(gradient).all()


def test_fit(samples):
    X, labels = samples
    fitted = NCA().fit(X, labels)
    assert fitted.objective_ == pytest.approx(nca(fitted.metric_matrix_, X, labels))
    assert fitted.objective_ > nca(np.eye(4), X, labels)
    with pytest.warns(ConvergenceWarning, match="NCA did not converge. Received: max_iter=1"):
        NCA(max_iter=1).fit(X, labels)


@pytest.mark.parametrize("init", ["pca", "lda", "identity"])
def test_starts_of_low_rank(samples, init):
    assert NCA(n_components=3, init=init).fit(*samples).components_.shape == (3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"block_bytes": 0}, "block_bytes=0"), ({"init": "best"}, "init='best'"), ({"tol": np.nan}, "tol=nan")],
)
def test_bad_options(samples, options, message):
    with pytest.raises(ValueError, match=message):
        NCA(**options).fit(*samples)
