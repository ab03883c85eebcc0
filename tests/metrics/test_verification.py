import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.distance import pdist
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from tfdml._utils.operating_points import OperatingPoints
from tfdml.metrics import pair_distances, pairs, verification, verification_metrics

FIRST, SECOND = np.triu_indices(90, 1)


def make_points(seed=0, integers=False):
    """90 points of nine classes of different sizes and spreads."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(9), [2, 4, 6, 8, 10, 12, 14, 16, 18]))
    points = rng.normal(size=(9, 3))[labels] * 2 + rng.normal(size=(90, 3)) * rng.uniform(0.3, 1.5, 9)[labels, None]
    return (np.rint(points * 2) if integers else points).astype(np.float32), labels


def by_scipy(points, labels, distance="l2"):
    name = {"l2": "euclidean", "cosine": "cosine"}[distance]
    return pdist(points.astype(np.float64), name), labels[FIRST] == labels[SECOND]


def metrics_by_scikit_learn(distances, same, rates):
    false, true, _ = roc_curve(same, -distances, drop_intermediate=False)
    expected = {"roc_auc": roc_auc_score(same, -distances)}
    expected["eer"] = brentq(lambda x: 1 - x - np.interp(x, false, true), 0, 1, xtol=1e-14)
    for rate in rates:
        expected[f"tar_at_far_{rate:g}"] = true[false <= rate].max()
    expected["best_accuracy"] = max((true + 1 - false) / 2)
    return expected


@pytest.mark.parametrize(("distance", "integers"), [("l2", False), ("l2", True), ("cosine", False)])
def test_equals_scikit_learn_on_all_pairs(distance, integers):
    points, labels = make_points(integers=integers)
    distances, same = by_scipy(points, labels, distance)
    found = verification_metrics(points, labels, distance=distance, false_accept_rates=(0.01, 0.1))
    expected = metrics_by_scikit_learn(distances, same, (0.01, 0.1))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for rate in (0.01, 0.1):
        threshold = found[f"threshold_at_far_{rate:g}"] + 1e-9
        assert (distances[~same] <= threshold).mean() <= rate
        assert (distances[same] <= threshold).mean() == found[f"tar_at_far_{rate:g}"]
    assert (found["same_pairs"], found["different_pairs"]) == (same.sum(), (~same).sum())


def test_three_inputs_agree():
    points, labels = make_points()
    distances, same = by_scipy(points, labels)
    of_labels = verification_metrics(points, labels)
    of_pairs = verification_metrics(points, pairs=np.stack([FIRST, SECOND], axis=1), same=same)
    of_distances = verification_metrics(distances=distances, same=same)
    assert of_pairs == pytest.approx(of_distances, nan_ok=True)
    # Folds of labeled embeddings are disjoint in classes, and only they have an OPIS.
    others = {"accuracy", "accuracy_std", "opis"}
    assert {k: v for k, v in of_labels.items() if k not in others} == pytest.approx(
        {k: v for k, v in of_pairs.items() if k not in others}, nan_ok=True
    )
    assert np.isnan(of_pairs["opis"])


def test_blocks_and_samples(monkeypatch):
    points, labels = make_points(integers=True)

    def measured(**options):
        return verification_metrics(points, labels, false_accept_rates=(0.1,), **options)

    expected = measured(max_pairs=None)
    assert measured() == expected
    monkeypatch.setattr(pairs, "_BLOCK_PAIRS", 100)
    assert measured(max_pairs=None) == expected
    sample = measured(max_pairs=300)
    assert sample == measured(max_pairs=300) != measured(max_pairs=300, seed=1)
    assert 200 < sample["different_pairs"] <= 300 and 200 < sample["same_pairs"] <= 300
    aucs = [measured(max_pairs=300, seed=seed)["roc_auc"] for seed in range(20)]
    assert np.mean(aucs) == pytest.approx(expected["roc_auc"], abs=4 * np.std(aucs) / np.sqrt(20))


def test_each_pair_is_drawn_once_and_equally_often():
    points, labels = np.arange(12.0)[:, None] ** 2, np.repeat([0, 1, 2], 4)
    drawn = [pair_distances(points, labels, max_pairs=20, seed=seed) for seed in range(300)]
    counts = {}
    for distances, same in drawn:
        assert np.isin(distances, distances[same]).sum() >= same.sum() == 18
        different = distances[~same]
        assert len(set(different)) > 10
        for value in different:
            counts[value] = counts.get(value, 0) + 1
    everything = pdist(points)[~(labels[:, None] == labels)[np.triu_indices(12, 1)]]
    assert sorted(counts) == sorted(set(everything))
    shares = np.array([counts[value] / np.sum(everything == value) for value in counts]) / 300
    np.testing.assert_allclose(shares, shares.mean(), atol=0.15)


def test_folds_are_disjoint_in_classes():
    points, labels = make_points()
    distances, same = by_scipy(points, labels)
    found = verification_metrics(points, labels, folds=3, seed=5)
    fold = (np.random.default_rng(5).permutation(9) % 3)[labels]
    scores = []
    for index in range(3):
        tested = (fold[FIRST] == index) & (fold[SECOND] == index)
        chosen = (fold[FIRST] == fold[SECOND]) & ~tested
        candidates = np.sort(distances[same])
        true, false = ((distances[chosen & kind, None] <= candidates).mean(axis=0) for kind in (same, ~same))
        accuracies = (true + 1 - false) / 2
        scores.append(balanced_accuracy_score(same[tested], distances[tested] <= candidates[np.argmax(accuracies)]))
    assert (found["accuracy"], found["accuracy_std"]) == pytest.approx((np.mean(scores), np.std(scores)))


def test_opis_by_its_formula():
    points, labels = make_points()
    distances, same = by_scipy(points, labels)
    limits = np.quantile(distances[~same], [0.01, 0.1], method="lower")
    utilities = []
    for threshold in np.linspace(*limits, 101):
        of_classes = []
        for label in range(9):
            mine, other = labels[FIRST] == label, labels[SECOND] == label
            sensitivity = np.mean(distances[mine & other] <= threshold)
            specificity = np.mean(distances[mine ^ other] > threshold)
            of_classes.append(2 * sensitivity * specificity / (sensitivity + specificity))
        utilities.append(of_classes)
    variance = np.var(utilities, axis=1)
    expected = np.trapezoid(variance, dx=0.01) if hasattr(np, "trapezoid") else np.trapz(variance, dx=0.01)
    assert verification_metrics(points, labels)["opis"] == pytest.approx(expected, rel=1e-6)


def test_opis_is_zero_if_classes_are_alike():
    circle = np.exp(2j * np.pi * (np.repeat(np.arange(8), 3) / 8 + np.tile([0, 0.01, 0.02], 8)))
    points, labels = np.stack([circle.real, circle.imag], axis=1), np.repeat(np.arange(8), 3)
    # Equal distances are rounded to one side of a threshold or the other.
    assert verification_metrics(points, labels)["opis"] < 1e-5
    # Thresholds that accept nearly all pairs of the other classes reject those of a wide class.
    points[labels == 0] = [[1, 0], [0.9, 0.4], [0.9, -0.4]]
    assert verification_metrics(points, labels)["opis"] > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_and_rates_of_operating_points(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.3
    scores = rng.integers(0, 12, 60) - 3 * positive
    points = OperatingPoints(scores[positive], iter([scores[~positive][:9], scores[~positive][9:]]))
    assert points.average_precision() == pytest.approx(average_precision_score(positive, -scores))
    false, true, _ = roc_curve(positive, -scores)
    rate, threshold = points.at_true_rate(0.95)
    assert rate == np.mean(scores[~positive] <= threshold) and np.mean(scores[positive] <= threshold) >= 0.95
    assert rate == false[true >= 0.95].min()
    x, y = points.curve()
    np.testing.assert_allclose(np.interp(false, x, y), np.interp(false, false, true), atol=1e-12)


def test_what_cannot_be_measured_is_nan():
    alone = verification_metrics([[0.0], [1.0], [2.0]], ["a", "a", "a"])
    undefined = ("roc_auc", "eer", "tar_at_far_0.1", "opis")
    assert np.isnan([alone[name] for name in (*undefined, "best_accuracy", "accuracy")]).all()
    assert (alone["same_pairs"], alone["different_pairs"]) == (3, 0)
    different = verification_metrics([[0.0], [1.0], [2.0]], ["a", "b", "c"])
    assert np.isnan([different[name] for name in undefined]).all()
    # Four pairs of different classes cannot show a rate of 0.1.
    few = verification_metrics([[0.0], [1.0], [5.0], [5.5]], ["a", "a", "b", "b"], false_accept_rates=(0.1, 0.25))
    assert np.isnan(few["tar_at_far_0.1"]) and few["tar_at_far_0.25"] == 1.0


def test_collapsed_embeddings_are_chance():
    found = verification_metrics(np.ones((8, 2)), np.repeat([0, 1, 2, 3], 2), false_accept_rates=(0.1,))
    assert (found["roc_auc"], found["eer"], found["best_accuracy"], found["accuracy"]) == (0.5, 0.5, 0.5, 0.5)
    assert (found["tar_at_far_0.1"], found["threshold_at_far_0.1"], found["opis"]) == (0.0, -np.inf, 0.0)


BAD = {
    "nothing": ({}, ValueError, "not defined. Received: \\[\\]"),
    "embeddings alone": ({"embeddings": [[0.0]]}, ValueError, "not defined"),
    "distances and labels": ({"distances": [1.0], "labels": [1]}, ValueError, "contradict"),
    "two inputs": ({"embeddings": [[0.0]], "distances": [1.0], "same": [True]}, ValueError, "not defined"),
    "NaN": ({"distances": [np.nan], "same": [True]}, ValueError, "1 values that are not finite"),
    "NaN embeddings": ({"embeddings": [[np.nan]], "labels": [1]}, ValueError, "not finite"),
    "length of same": ({"distances": [1.0, 2.0], "same": [True]}, ValueError, "not labeled"),
    "no flags": ({"distances": [1.0, 2.0], "same": [2, 1]}, ValueError, "not labeled"),
    "rows": ({"embeddings": [[0.0]], "pairs": [[0, 1]], "same": [True]}, ValueError, "values 0 to 1"),
    "pairs": ({"embeddings": [[0.0]], "pairs": [0, 0], "same": [True]}, ValueError, "shape \\(2,\\)"),
    "labels": ({"embeddings": [[0.0]], "labels": [0.5]}, TypeError, "Labels"),
    "rate": ({"embeddings": [[0.0]], "labels": [1], "false_accept_rates": [1.0]}, ValueError, "0 < rate < 1"),
    "folds": ({"embeddings": [[0.0]], "labels": [1], "folds": 1}, ValueError, "folds=1"),
    "distance": ({"embeddings": [[0.0]], "labels": [1], "distance": "l1"}, ValueError, "distance='l1'"),
    "max_pairs": ({"embeddings": [[0.0]], "labels": [1], "max_pairs": 0}, ValueError, "max_pairs=0"),
    "zero": ({"embeddings": [[0.0]], "labels": [1], "distance": "cosine"}, ValueError, "norm 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        verification_metrics(**arguments)


def test_many_thresholds_of_folds_are_thinned(monkeypatch):
    points, labels = make_points()
    exact = verification_metrics(points, labels)
    monkeypatch.setattr(verification, "_FOLD_THRESHOLDS", 50)
    assert verification_metrics(points, labels)["accuracy"] == pytest.approx(exact["accuracy"], abs=0.03)
