import json
import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from tfdml import Gallery
from tfdml.gallery import BestF1, Calibration, FalseAcceptRate, Precision
from tfdml.gallery.intervals import clustered_interval


def make_classes(classes, per_class, seed, first=0, dim=4, spread=0.6):
    """Vectors around class centers of the same distribution, and labels from `first` on."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    return rng.normal(size=(classes, dim))[labels] * 2 + spread * rng.normal(size=(len(labels), dim)), labels + first


def make_gallery(distance="l2", classes=8, per_class=4, storage="float32"):
    gallery = Gallery(distance=distance, storage=storage)
    vectors, labels = make_classes(classes, per_class, seed=0)
    gallery.add(vectors, labels=labels)
    return gallery


def stored(gallery):
    return gallery.vectors(gallery.ids).astype(np.float64), np.array(gallery.labels(gallery.ids))


def queries_of_known_and_unseen():
    """Other vectors of the classes of the gallery, and of four classes that it does not have."""
    rng = np.random.default_rng(3)
    vectors, labels = make_classes(8, 4, seed=0)
    unseen, unseen_labels = make_classes(4, 5, seed=2, first=100)
    near = (vectors + 0.8 * rng.normal(size=vectors.shape)).astype(np.float32)
    return np.concatenate([near, unseen]).astype(np.float32), np.concatenate([labels, unseen_labels])


def scores_by_brute_force(gallery, queries, query_labels, method, excluded):
    vectors, labels = stored(gallery)
    if method == "prototypes":
        names = np.unique(labels)
        vectors, labels = np.array([vectors[labels == name].mean(axis=0) for name in names]), names
    distances = cdist(queries, vectors)
    if excluded:
        distances[query_labels[:, None] == labels] = np.inf
    return labels[distances.argmin(axis=1)], distances.min(axis=1)


@pytest.mark.parametrize("method", ["neighbors", "prototypes"])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_calibration_by_brute_force(method, rate):
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    result = gallery.calibrate(queries, labels, FalseAcceptRate(rate), method)
    found, scores = scores_by_brute_force(gallery, queries, labels, method, False)
    _, of_others = scores_by_brute_force(gallery, queries, labels, method, True)
    known = labels < 100
    # The largest score at which no more than the rate is accepted.
    candidates = np.sort(np.concatenate([scores[known], of_others]))
    expected = max(each for each in candidates if np.mean(of_others <= each) <= rate)
    assert result.threshold == pytest.approx(expected, rel=1e-12)
    slack = expected * (1 + 1e-12)
    assert result.false_accept_rate == np.mean(of_others <= slack) <= rate
    right = known & (found == labels)
    assert result.true_accept_rate == np.sum(right & (scores <= slack)) / known.sum()
    true, wrong = (np.sum(part & (scores <= slack)) / known.sum() for part in (right, known & ~right))
    assert result.precision == pytest.approx(true / (true + wrong + result.false_accept_rate))
    assert (result.unseen_queries, result.unseen_classes, result.known_queries) == (52, 12, 32)
    classified = gallery.classify(queries)
    np.testing.assert_array_equal(classified.labels, found)
    np.testing.assert_allclose(classified.scores, scores, rtol=1e-12)
    np.testing.assert_array_equal(classified.is_known, scores <= slack)
    curve = result.curve
    assert curve.false_accept_rates[0] == curve.true_accept_rates[0] == 0
    for threshold, false, true in list(zip(curve.thresholds, curve.false_accept_rates, curve.true_accept_rates))[1:]:
        slack = threshold * (1 + 1e-12)
        assert false == np.mean(of_others <= slack) and true == np.sum(right & (scores <= slack)) / known.sum()
    assert len(classified) == 52


def test_other_targets():
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    precise = gallery.calibrate(queries, labels, Precision(0.9, unknown=0.2))
    curve = precise.curve
    assert precise.precision >= 0.9
    assert (curve.precisions[curve.thresholds > precise.threshold] < 0.9).all()
    f1 = gallery.calibrate(queries, labels, BestF1())
    scores = 2 / (1 / f1.curve.precisions[1:] + 1 / np.maximum(f1.curve.true_accept_rates[1:], 1e-12))
    best = 2 / (1 / f1.precision + 1 / f1.true_accept_rate)
    assert best == pytest.approx(np.nanmax(scores))
    # The more unknown queries, the stricter.
    thresholds = [gallery.calibrate(queries, labels, BestF1(unknown)).threshold for unknown in (0.01, 0.99)]
    assert thresholds[0] > thresholds[1]
    with pytest.raises(ValueError, match=r"precision=0.9999.*at most 0\."):
        gallery.calibrate(queries + 3, labels, Precision(0.9999, unknown=0.9))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_vote_equals_scikit_learn(k):
    gallery = make_gallery()
    queries, _ = queries_of_known_and_unseen()
    result = gallery.classify(queries, threshold=np.inf, k=k)
    vectors, labels = stored(gallery)
    order = np.argsort(cdist(queries, vectors), axis=1)[:, :k]
    votes = KNeighborsClassifier(k).fit(vectors, labels).predict(queries)
    for label, vote, score, query, nearest in zip(result.labels, votes, result.scores, queries, order):
        counts = np.bincount(labels[nearest])
        # scikit-learn takes the smallest of equally frequent labels, a gallery that of the nearest item.
        tied = np.flatnonzero(counts == counts.max())
        assert vote in tied and label == next(each for each in labels[nearest] if each in tied)
        assert score == pytest.approx(cdist(query[None], vectors[nearest][labels[nearest] == label]).min())
    assert result.is_known.all()


@pytest.mark.parametrize("method", ["neighbors", "prototypes"])
def test_cosine_scores_are_cosine_distances(method):
    gallery = make_gallery("cosine")
    queries, _ = queries_of_known_and_unseen()
    vectors, labels = stored(gallery)
    if method == "prototypes":
        vectors = np.array([vectors[labels == label].mean(axis=0) for label in range(8)])
    expected = cdist(queries, vectors, "cosine").min(axis=1)
    result = gallery.classify(queries, threshold=0.01, method=method)
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    np.testing.assert_array_equal(result.is_known, result.scores <= 0.01)


def test_prototypes_follow_changes():
    gallery = Gallery()
    ids = gallery.add([[0.0], [2.0], [10.0], [99.0]], labels=["a", "a", "b", "b"])

    def scores():
        return gallery.classify([[0.0]], np.inf, "prototypes").scores.tolist()

    assert scores() == [1.0]
    gallery.update(ids[1:2], labels=["b"])
    assert scores() == [0.0]
    gallery.update(ids[:1], [[3.0]])
    assert scores() == [3.0]
    gallery.add([[5.0]], labels=["a"])
    assert scores() == [4.0]
    gallery.remove(ids[:1])
    assert scores() == [5.0]
    gallery.add([[1.0]], ids=[ids[3]], labels=["b"], on_conflict="replace")
    assert scores() == [pytest.approx(13 / 3)]


def test_items_without_labels_do_not_vote():
    gallery = Gallery()
    gallery.add(np.zeros((30, 1)))
    gallery.add([[5.0], [6.0]], labels=["a", "b"])
    for method in ("neighbors", "prototypes"):
        result = gallery.classify([[0.0]], np.inf, method)
        assert (result.labels.tolist(), result.scores.tolist()) == (["a"], [5.0])


def test_a_calibration_is_saved(tmp_path):
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    # Only unseen classes, so that there are values without a number.
    with pytest.warns(UserWarning, match="20 queries of 4 classes"):
        result = gallery.calibrate(queries[32:], labels[32:], FalseAcceptRate(0.2), "prototypes")
    assert np.isnan(result.true_accept_rate) and np.isnan(result.precision) and result.known_queries == 0
    gallery.save(tmp_path)
    assert "NaN" not in (tmp_path / "gallery.json").read_text()
    loaded = Gallery.load(tmp_path)
    assert repr(loaded.calibration) == repr(result) and len(repr(result)) < 600
    np.testing.assert_array_equal(loaded.calibration.curve.thresholds, result.curve.thresholds)
    np.testing.assert_array_equal(loaded.classify(queries).is_known, gallery.classify(queries).is_known)
    # A folder of an earlier version has no such entry.
    manifest = json.loads((tmp_path / "gallery.json").read_text())
    (tmp_path / "gallery.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "calibration"}))
    assert Gallery.load(tmp_path).calibration is None
    manifest["calibration"]["target"]["name"] = "Best"
    (tmp_path / "gallery.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="cannot be restored. Received: KeyError: 'Best'"):
        Gallery.load(tmp_path)
    for target in (Precision(0.9, 0.1), BestF1(0.2)):
        with pytest.raises(ValueError, match="needs queries of known classes"):
            gallery.calibrate(queries[32:], labels[32:], target)
    again = gallery.calibrate(queries, labels, BestF1(0.2))
    assert repr(Calibration.from_config(json.loads(json.dumps(again.config())))) == repr(again)


def test_curves_are_thinned():
    gallery = make_gallery()
    queries, labels = make_classes(150, 8, seed=5, first=100)
    result = gallery.calibrate(queries, labels, FalseAcceptRate(0.01))
    assert len(result.curve.thresholds) <= 512 and result.threshold in result.curve.thresholds


def test_too_few_queries_for_the_rate():
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    with pytest.warns(UserWarning, match=r"too few validation queries.*52 queries of 12 classes.*at least 1000"):
        result = gallery.calibrate(queries, labels)
    assert not result.is_resolved and result.false_accept_rate == 0.0
    assert result.false_accept_interval[0] == 0.0 and result.false_accept_interval[1] > 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gallery.calibrate(queries, labels, FalseAcceptRate(0.2)).is_resolved
    vectors, item_labels = stored(gallery)
    with pytest.warns(UserWarning, match="seem to be items of the gallery. Received: 32 of 32"):
        gallery.calibrate(vectors, item_labels, FalseAcceptRate(0.2))


def test_a_grown_gallery_warns():
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    gallery.calibrate(queries, labels, FalseAcceptRate(0.2))
    gallery.add(queries[:3], labels=labels[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.classify(queries)
        gallery.add(queries[3:6], labels=labels[3:6])
        with pytest.raises(UserWarning, match=r"has grown since its calibration.*38 items. Expected: about 32"):
            gallery.classify(queries)
        gallery.classify(queries, threshold=1.0)


def test_interval_of_independent_queries_is_that_of_clopper_and_pearson():
    hits = np.arange(400) < 20
    low, high, effective = clustered_interval(hits, np.arange(400), 0.95)
    expected = stats.binomtest(20, 400).proportion_ci(0.95, "exact")
    assert effective == pytest.approx(400, rel=0.01) and (low, high) == pytest.approx(tuple(expected), rel=0.01)
    # Ten queries of a class that are always accepted together count as one.
    low, high, effective = clustered_interval(np.repeat(hits, 10), np.repeat(np.arange(400), 10), 0.95)
    assert effective == pytest.approx(400, rel=0.01) and (low, high) == pytest.approx(tuple(expected), rel=0.01)
    for hits, expected in ((np.zeros(400), (0, 1 - 0.025 ** (1 / 400))), (np.ones(400), (0.025 ** (1 / 400), 1))):
        assert clustered_interval(hits, np.arange(400), 0.95)[:2] == pytest.approx(expected)


def test_intervals_cover_the_rate():
    """Queries of a class are accepted together: the interval covers the true rate as often as it says."""
    rng, covered, covered_naively = np.random.default_rng(0), 0, 0
    for _ in range(400):
        rates = rng.beta(0.2, 1.8, 60)
        groups = np.repeat(np.arange(60), 10)
        hits = rng.random(600) < rates[groups]
        low, high, _ = clustered_interval(hits, groups, 0.95)
        covered += low <= 0.1 <= high
        low, high, _ = clustered_interval(hits, np.arange(600), 0.95)
        covered_naively += low <= 0.1 <= high
    assert covered / 400 >= 0.93
    assert covered_naively / 400 < 0.85


@pytest.mark.parametrize("method", ["neighbors", "prototypes"])
def test_the_calibrated_rate_holds_on_unseen_classes(method):
    """In 95 % of the draws of validation classes, the rate on all unseen classes is in the interval."""
    gallery = make_gallery(classes=20)
    population, _ = make_classes(3000, 1, seed=50)
    covered, rates = [], []
    for seed in range(30):
        queries, labels = make_classes(80, 5, seed=100 + seed, first=100)
        result = gallery.calibrate(queries, labels, FalseAcceptRate(0.1), method)
        rates.append(np.mean(gallery.classify(population).is_known))
        low, high = result.false_accept_interval
        covered.append(low <= rates[-1] <= high)
    assert np.sum(covered) >= 27
    # Above and below the rate about equally often, though never chosen above it on the validation classes.
    assert np.mean(rates) == pytest.approx(0.1, abs=0.015)


def test_classes_of_the_gallery_calibrate_as_well():
    """Leaving a class out of the gallery stands for a class that it does not have."""
    vectors, labels = make_classes(60, 8, seed=7)
    gallery = Gallery()
    gallery.add(vectors[::2], labels=labels[::2])
    result = gallery.calibrate(vectors[1::2], labels[1::2], FalseAcceptRate(0.1))
    unseen, _ = make_classes(2000, 1, seed=70)
    low, high = result.false_accept_interval
    assert low <= np.mean(gallery.classify(unseen).is_known) <= high


def calibrated(change=None, labels=None, **options):
    gallery = make_gallery()
    queries, own = queries_of_known_and_unseen()
    if change is not None:
        queries = change(queries)
    return lambda: gallery.calibrate(queries, own if labels is None else labels(own), **options)


def unlabeled():
    gallery = Gallery()
    gallery.add(np.ones((3, 2)))
    return gallery


BAD = {
    "empty": (lambda: Gallery().calibrate([[1.0]], ["a"]), ValueError, "gallery is empty"),
    "empty classify": (lambda: Gallery().classify([[1.0]], 1.0), ValueError, "gallery is empty"),
    "no labels": (lambda: make_gallery().calibrate(np.ones((3, 4))), ValueError, "queries have no labels"),
    "one class": (calibrated(labels=lambda own: own * 0), ValueError, "too few classes. Received: .* of 1 class"),
    "number of labels": (calibrated(labels=lambda own: own[:-1]), ValueError, "abels"),
    "type of labels": (calibrated(labels=lambda own: own.astype(str)), TypeError, "Labels differ in type"),
    "float labels": (calibrated(labels=lambda own: own * 0.5), TypeError, "Labels have the wrong type"),
    "NaN": (calibrated(lambda queries: queries * np.nan), ValueError, "not finite"),
    "dimension": (calibrated(lambda queries: queries[:, 1:]), ValueError, "another size"),
    "unlabeled gallery": (lambda: unlabeled().calibrate(np.ones((2, 2)), ["a", "b"]), ValueError, "too few classes"),
    "unlabeled classify": (lambda: unlabeled().classify(np.ones((2, 2)), 1.0), ValueError, "items have no labels"),
    "target": (calibrated(target=0.01), TypeError, "target has the wrong type. Received: 0.01"),
    "method": (calibrated(method="svm"), ValueError, "method='svm'"),
    "k": (calibrated(k=99), ValueError, "too few items. Received: k=99"),
    "confidence": (calibrated(confidence=95), ValueError, "confidence=95"),
    "rate": (lambda: FalseAcceptRate(0), ValueError, "rate=0"),
    "percent": (lambda: Precision(99), ValueError, "precision=99"),
    "unknown": (lambda: BestF1(1.0), ValueError, "unknown=1.0"),
    "no threshold": (lambda: make_gallery().classify(np.ones((1, 4))), ValueError, "has no threshold"),
    "NaN threshold": (lambda: make_gallery().classify(np.ones((1, 4)), np.nan), ValueError, "not a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_options_of_another_calibration_are_refused():
    gallery = make_gallery()
    queries, labels = queries_of_known_and_unseen()
    before = gallery.calibrate(queries, labels, FalseAcceptRate(0.2), "neighbors", 3)
    for options in ({"method": "prototypes"}, {"k": 1}):
        with pytest.raises(ValueError, match="calibrated with other options.*k=3"):
            gallery.classify(queries, **options)
    gallery.classify(queries, threshold=1.0, **options)
    with pytest.raises(ValueError, match="too few classes"):
        gallery.calibrate(queries, labels * 0)
    # A calibration that fails leaves the previous one.
    assert gallery.calibration is before


@pytest.mark.parametrize("method", ["neighbors", "prototypes"])
def test_an_index_gives_the_same_threshold(method):
    pytest.importorskip("faiss")
    exact, gallery = make_gallery(), Gallery(index="hnsw")
    gallery.add(*stored(exact)[:1], labels=stored(exact)[1])
    queries, labels = queries_of_known_and_unseen()
    results = [each.calibrate(queries, labels, FalseAcceptRate(0.2), method, 3) for each in (exact, gallery)]
    assert repr(results[0]) == repr(results[1])
    classified = [each.classify(queries) for each in (exact, gallery)]
    np.testing.assert_array_equal(*(result.is_known for result in classified))
    np.testing.assert_array_equal(*(result.labels for result in classified))
