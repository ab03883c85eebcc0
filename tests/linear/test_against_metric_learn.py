"""Objectives are at least as good as those of metric-learn, evaluated by functions independent of both."""

import numpy as np
import pytest
from linear_objectives import itml, lmnn, mmc, nca_of_many
from old_metric_learn import import_metric_learn
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from tfdml.linear import ITML, LMNN, MMC, NCA
from tfdml.linear.pairs import draw_pairs

ALL = [
    "iris",
    pytest.param("wine", marks=pytest.mark.integration),
    pytest.param("digits", marks=pytest.mark.integration),
]
TOLERANCE = 1e-4


@pytest.fixture
def peer(monkeypatch):
    return import_metric_learn(monkeypatch)


def samples(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X = X / 16.0 if name == "digits" else StandardScaler().fit_transform(X)
    # Equal distances would make the choice of target neighbors arbitrary.
    return X + 1e-6 * np.random.default_rng(0).normal(size=X.shape), y


@pytest.mark.parametrize("name", [*ALL[:2], pytest.param("digits", marks=pytest.mark.slow)])
def test_lmnn(name, peer):
    X, y = samples(name)
    ours = LMNN(tol=1e-5).fit(X, y)
    theirs = peer.LMNN(n_neighbors=3, init="identity", learn_rate=1e-4, max_iter=300).fit(X, y)
    least = lmnn(theirs.get_mahalanobis_matrix(), X, y, 3, 0.5)
    found = lmnn(ours.metric_matrix_, X, y, 3, 0.5)
    assert found == pytest.approx(ours.objective_)
    print(f"LMNN on {name}: {found:.4f}, metric-learn {least:.4f}")
    assert found <= least * (1 + TOLERANCE)


@pytest.mark.parametrize("name", ALL)
def test_nca(name, peer):
    X, y = samples(name)
    ours = NCA().fit(X, y)
    theirs = peer.NCA(init="identity", max_iter=100).fit(X, y)
    most = nca_of_many(theirs.get_mahalanobis_matrix(), X, y)
    found = nca_of_many(ours.metric_matrix_, X, y)
    assert found == pytest.approx(ours.objective_)
    print(f"NCA on {name}: {found:.4f}, metric-learn {most:.4f}")
    assert found >= most * (1 - TOLERANCE)


def pairs_of(y, n_pairs):
    return draw_pairs(y, n_pairs, np.random.RandomState(0))


@pytest.mark.parametrize("name", ALL)
def test_mmc(name, peer):
    X, y = samples(name)
    if name == "digits":
        # With few pairs of many features, MMC regularizes its constraint, and the objectives differ.
        X = PCA(20).fit_transform(X)
    pairs, same = pairs_of(y, 300)
    ours = MMC().fit_pairs(X, pairs, same)
    theirs = peer.MMC(max_iter=50).fit(X[pairs], np.where(same, 1, -1))
    most = mmc(theirs.get_mahalanobis_matrix(), X, pairs, same)
    found = mmc(ours.metric_matrix_, X, pairs, same)
    assert found == pytest.approx(ours.objective_)
    print(f"MMC on {name}: {found:.4f}, metric-learn {most:.4f}")
    assert found >= most * (1 - TOLERANCE)


@pytest.mark.parametrize("name", ALL)
def test_itml(name, peer):
    X, y = samples(name)
    pairs, same = pairs_of(y, 100)
    distances = np.sum((X[pairs[:, 0]] - X[pairs[:, 1]]) ** 2, axis=1)
    bounds = np.percentile(distances, (20, 80))
    ours = ITML(bounds=tuple(bounds)).fit_pairs(X, pairs, same)
    theirs = peer.ITML(max_iter=300).fit(X[pairs], np.where(same, 1, -1), bounds=bounds)

    def objective(M):
        return itml(M, X, pairs, same, bounds, 1.0, np.eye(X.shape[1]))

    least, found = objective(theirs.get_mahalanobis_matrix()), objective(ours.metric_matrix_)
    assert found == pytest.approx(ours.objective_)
    print(f"ITML on {name}: {found:.4f}, metric-learn {least:.4f}")
    assert found <= least * (1 + TOLERANCE)
