"""What all linear metrics share: distances, inputs, pipelines, and the checks of scikit-learn."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tfdml.linear import ITML, LMNN, MMC, NCA, ScatterDifference

ALL = [LMNN(tol=1e-3), NCA(tol=1e-3), ITML(random_state=0), MMC(), ScatterDifference(lam=0.2)]
IDS = [type(estimator).__name__ for estimator in ALL]
OF_PAIRS = ALL[2:]


@pytest.fixture
def samples():
    """Points of three classes, eight each, in five dimensions."""
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 3
    return generator.normal(size=(3, 5))[labels] + generator.normal(size=(24, 5)) * [0.3, 0.3, 1.0, 1.0, 1.0], labels


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_all_distances_agree(estimator, samples):
    X, y = samples
    fitted = clone(estimator).fit(X, y)
    W, M = fitted.components_, fitted.metric_matrix_
    np.testing.assert_allclose(M, W.T @ W)
    np.testing.assert_allclose(fitted.transform(X), X @ W.T)
    u, v = X[0], X[5]
    expected = np.sqrt((u - v) @ M @ (u - v))
    metric = pickle.loads(pickle.dumps(fitted.get_metric()))
    assert metric(u, v) == pytest.approx(expected)
    assert metric(u, v, squared=True) == pytest.approx(expected**2)
    np.testing.assert_allclose(fitted.score_pairs([[u, v], [u, u]]), [expected, 0.0])
    assert np.linalg.norm(np.subtract(*fitted.transform(np.stack([u, v])))) == pytest.approx(expected)
    assert fitted.transform(X.astype("float32")).dtype == np.float32
    assert list(fitted.get_feature_names_out())[0] == f"{type(fitted).__name__.lower()}0"


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_text_labels_and_their_order_do_not_matter(estimator, samples):
    X, y = samples
    kept = clone(estimator).fit(X, y)
    order = np.argsort(np.sin(np.arange(len(y))))
    if not isinstance(estimator, ITML):  # Its pairs are drawn.
        again = clone(estimator).fit(X[order], np.array(["c", "a", "b"])[y[order]])
        np.testing.assert_allclose(again.objective_, kept.objective_, rtol=0.01)


def test_pipeline_and_search(samples):
    X, y = samples
    pipeline = make_pipeline(StandardScaler(), LMNN(max_iter=5), KNeighborsClassifier(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = GridSearchCV(pipeline, {"lmnn__mu": [0.3, 0.7]}, cv=2).fit(X, y)
    assert search.predict(X).shape == y.shape


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_low_rank(estimator, size, samples):
    fitted = clone(estimator).set_params(n_components=size).fit(*samples)
    assert fitted.components_.shape[0] <= size
    assert fitted.transform(samples[0]).shape == (24, len(fitted.components_))
    if not isinstance(estimator, ScatterDifference):
        assert len(fitted.components_) == size


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_fewer_samples_than_features(estimator):
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(6, 10)), np.arange(6) % 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = clone(estimator).fit(X, y)
    assert np.isfinite(fitted.components_).all()
    messages = " ".join(str(warning.message) for warning in caught)
    assert ("scatter of similar pairs is singular: rank 4 in 5 dimensions" in messages) == isinstance(estimator, MMC)


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_constant_and_equal_features(estimator, samples):
    X, y = samples
    X = np.concatenate([X, X[:, :1], np.ones((24, 1))], axis=1)
    fitted = clone(estimator).fit(X, y)
    assert np.isfinite(fitted.components_).all()


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_single_samples_are_named(estimator, samples):
    X, y = samples
    y = np.where(np.arange(24) == 3, 9, y)
    with pytest.warns(UserWarning, match="1 of 4 classes have one sample.*: 9."):
        clone(estimator).fit(X, y)


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X * np.where(np.arange(5) == 2, np.nan, 1.0), y), "contains NaN"),
        (lambda X, y: (X, y * 0), "no dissimilar pairs. Received: one class, 0"),
        (lambda X, y: (X, np.arange(24)), "no similar pairs. Received: 24 classes with one sample each"),
        (lambda X, y: (X, y + 0.5), "Unknown label type"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X[:1], y[:1]), "minimum of 2"),
    ],
)
def test_bad_samples(estimator, change, message, samples):
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(*change(*samples))


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
@pytest.mark.parametrize("value", [0, 6, 2.5, "all"])
def test_bad_number_of_components(estimator, value, samples):
    with pytest.raises(ValueError, match=f"n_components={value!r}"):
        clone(estimator).set_params(n_components=value).fit(*samples)


@pytest.mark.parametrize("estimator", ALL, ids=IDS)
def test_methods_need_a_fit(estimator, samples):
    unfitted = clone(estimator)
    for method in (lambda: unfitted.transform(samples[0]), unfitted.get_metric, lambda: unfitted.metric_matrix_,
                   lambda: unfitted.score_pairs([samples[0][:2]])):  # fmt: skip
        with pytest.raises(NotFittedError):
            method()


def test_bad_pairs_to_score(samples):
    fitted = ScatterDifference(lam=0.2).fit(*samples)
    with pytest.raises(ValueError, match=r"wrong shape. Received: \(2, 5\). Expected: \(m, 2, 5\)"):
        fitted.score_pairs(samples[0][:2])
    with pytest.raises(ValueError, match="not finite"):
        fitted.score_pairs(np.full((1, 2, 5), np.inf))


@pytest.mark.parametrize("estimator", OF_PAIRS, ids=IDS[2:])
@pytest.mark.parametrize(
    ("pairs", "same", "message"),
    [
        ([[0, 1], [0, 2]], [True, True], "no dissimilar pairs"),
        ([[0, 1], [0, 2]], [0, 0], "no similar pairs"),
        ([[0, 1], [1, 0]], [True, False], r"contradict each other. Received: \[0, 1\]"),
        ([[0, 1], [2, 2]], [True, False], r"paired with itself. Received: pairs\[1\]=\[2, 2\]"),
        ([[0, 1], [2, 24]], [True, False], "out of range. Received: indices from 0 to 24"),
        ([[0, 1], [2, -1]], [True, False], "out of range. Received: indices from -1"),
        ([[0, 1], [2, 3]], [1, -1], "Invalid same"),
        ([[0, 1], [2, 3]], [True], "Invalid same"),
        ([[0.0, 1.0]], [True], "Invalid pairs"),
        ([0, 1], [True], "Invalid pairs"),
        (np.zeros((0, 2), int), np.zeros(0, bool), "Invalid pairs"),
    ],
)
def test_bad_pairs(estimator, pairs, same, message, samples):
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit_pairs(samples[0], pairs, same)


@pytest.mark.parametrize("estimator", OF_PAIRS, ids=IDS[2:])
def test_given_pairs_bring_the_right_samples_together(estimator, samples):
    X, y = samples
    pairs = np.array([[0, 3], [6, 9], [1, 4], [7, 10], [2, 5], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
    same = y[pairs[:, 0]] == y[pairs[:, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = clone(estimator).fit_pairs(X, pairs, same)
    before, after = np.linalg.norm(np.subtract(*X[pairs.T]), axis=1), fitted.score_pairs(X[pairs])
    assert after[same].mean() / after[~same].mean() < before[same].mean() / before[~same].mean()


@pytest.mark.integration
@parametrize_with_checks(ALL)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
