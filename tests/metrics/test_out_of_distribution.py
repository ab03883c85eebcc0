import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tfdml.metrics import (
    MahalanobisScore,
    NeighborScore,
    PrototypeScore,
    out_of_distribution,
    out_of_distribution_metrics,
    validation_threshold,
)

RNG = np.random.default_rng(0)
LABELS = np.repeat(["b", "a", "c"], [5, 8, 1])
CENTERS = {"a": [0, 0, 0], "b": [4, 0, 0], "c": [0, 4, 0]}
POINTS = (np.array([CENTERS[label] for label in LABELS]) + RNG.normal(size=(14, 3))).astype(np.float32)
KNOWN = np.array([CENTERS[label] for label in "aabbc" * 4]) + RNG.normal(size=(20, 3))
UNKNOWN = RNG.normal(size=(30, 3)) * 3 + [0, 0, 3]


def means():
    return np.array([POINTS[LABELS == label].mean(axis=0, dtype=np.float64) for label in "abc"])


@pytest.mark.parametrize("subtract", [False, True])
def test_prototypes(subtract, monkeypatch):
    score = PrototypeScore(POINTS, LABELS, subtract)
    np.testing.assert_allclose(score.prototypes, means(), rtol=1e-12)
    radii = [cdist(POINTS[LABELS == label], means()[[index]]).max() for index, label in enumerate("abc")]
    np.testing.assert_allclose(score.radii, radii, rtol=1e-6, atol=1e-12)
    expected = cdist(UNKNOWN, means()) - (score.radii if subtract else 0)
    np.testing.assert_allclose(score(UNKNOWN), expected.min(axis=1), rtol=1e-12)
    assert score.nearest(UNKNOWN)[0].tolist() == [list("abc")[index] for index in expected.argmin(axis=1)]
    # The threshold of the radii accepts everything that the prototypes were made of.
    assert (score(POINTS) <= score.threshold() + 1e-6).all()
    assert score.threshold(0.5) == score.threshold() + 0.5
    whole = score(UNKNOWN)
    monkeypatch.setattr(out_of_distribution, "parts", lambda count, _: [slice(i, i + 7) for i in range(0, count, 7)])
    np.testing.assert_array_equal(PrototypeScore(POINTS, LABELS, subtract)(UNKNOWN), whole)


def test_neighbors():
    for k in (1, 3):
        expected = np.sort(cdist(UNKNOWN, POINTS), axis=1)[:, k - 1]
        np.testing.assert_allclose(NeighborScore(POINTS, k)(UNKNOWN), expected, rtol=1e-12)


def test_mahalanobis():
    centered = POINTS - means()[np.searchsorted(["a", "b", "c"], LABELS)]
    covariance = centered.T @ centered / len(POINTS)
    covariance += 0.1 * np.trace(covariance) / 3 * np.eye(3)
    inverse = np.linalg.inv(covariance)
    expected = [min(mahalanobis(query, mean, inverse) ** 2 for mean in means()) for query in UNKNOWN]
    np.testing.assert_allclose(MahalanobisScore(POINTS, LABELS, shrinkage=0.1)(UNKNOWN), expected, rtol=1e-9)
    flat = np.concatenate([POINTS, np.zeros((14, 1))], axis=1)
    away = MahalanobisScore(flat, LABELS)([[0, 0, 0, 1.0]])
    assert away > 100


def test_metrics_equal_scikit_learn():
    found = out_of_distribution_metrics(POINTS, LABELS, KNOWN, UNKNOWN, k=2, epsilon=0.25)
    functions = {
        "prototype": PrototypeScore(POINTS, LABELS),
        "prototype_radius": PrototypeScore(POINTS, LABELS, subtract_radius=True),
        "neighbors": NeighborScore(POINTS, 2),
        "mahalanobis": MahalanobisScore(POINTS, LABELS),
    }
    is_known = np.arange(50) < 20
    for name, function in functions.items():
        scores = function(np.concatenate([KNOWN, UNKNOWN]))
        false, true, _ = roc_curve(is_known, -scores, drop_intermediate=False)
        expected = {
            "auroc": roc_auc_score(is_known, -scores),
            "fpr_at_95_tpr": false[true >= 0.95].min(),
            "aupr_known": average_precision_score(is_known, -scores),
            "aupr_unknown": average_precision_score(~is_known, scores),
        }
        if name.startswith("prototype"):
            threshold = function.threshold(0.25)
            expected["known_accepted"] = np.mean(scores[is_known] <= threshold)
            expected["unknown_accepted"] = np.mean(scores[~is_known] <= threshold)
        assert {key: found[f"{name}_{key}"] for key in expected} == pytest.approx(expected)
    assert len(found) == 4 * 4 + 2 * 2


def test_disjoint_balls_of_different_size():
    """The score with radii separates what lies outside of all balls; the distance alone does not."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    large, small = 5 * directions[:100], [20, 0] + 0.5 * directions[100:]
    references, labels = np.concatenate([large, small]), np.repeat([0, 1], 100)
    known = np.concatenate([0.9 * large, [20, 0] + 0.4 * directions[:100]])
    # Outside of both balls, but nearer to the small one than known queries are to the large one.
    unknown = [20, 0] + 3 * directions
    found = out_of_distribution_metrics(references, labels, known, unknown)
    assert found["prototype_radius_auroc"] == 1.0 and found["prototype_auroc"] < 0.6


def test_threshold_from_validation():
    known, unknown = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.25, 0.5, 0.6])
    best = validation_threshold(known, unknown)
    rates = [(np.mean(known <= each) + np.mean(unknown > each)) / 2 for each in [*known, *unknown]]
    assert (np.mean(known <= best) + np.mean(unknown > best)) / 2 == max(rates)
    assert validation_threshold(known, true_rate=0.75) == 0.3
    assert validation_threshold(known, true_rate=0.76) == 0.9


BAD = {
    "NaN": (lambda: PrototypeScore([[np.nan]], [0]), "not finite"),
    "labels": (lambda: PrototypeScore([[1.0]], [0, 1]), "abels"),
    "dimension": (lambda: PrototypeScore([[1.0]], [0])([[1.0, 2.0]]), "differ in size"),
    "queries": (lambda: PrototypeScore([[1.0]], [0])([[np.inf]]), "queries with NaN"),
    "epsilon": (lambda: PrototypeScore([[1.0]], [0]).threshold(-1), "epsilon=-1"),
    "k": (lambda: NeighborScore([[1.0]], 2), "too few embeddings. Received: k=2"),
    "covariance": (lambda: MahalanobisScore([[1.0], [2.0]], [0, 1]), "covariance is 0"),
    "shrinkage": (lambda: MahalanobisScore(POINTS, LABELS, 0), "shrinkage=0"),
    "score": (lambda: out_of_distribution_metrics(POINTS, LABELS, KNOWN, UNKNOWN, ["energy"]), "'energy' in scores"),
    "no unknown": (lambda: out_of_distribution_metrics(POINTS, LABELS, KNOWN, np.empty((0, 3))), "unknown of shape"),
    "no scores": (lambda: validation_threshold([]), "known of shape"),
    "scores": (lambda: validation_threshold([1.0], [np.nan]), "unknown of shape .* 1 values"),
    "rate": (lambda: validation_threshold([1.0], true_rate=1.1), "true_rate=1.1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
