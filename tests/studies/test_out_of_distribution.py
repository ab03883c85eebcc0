"""The claims about class balls are checked by brute force; the whole path is an integration test."""

import itertools

import numpy as np
import pytest

from studies import out_of_distribution as study
from tfdml.experiments import InputError

RNG = np.random.default_rng(0)
LABELS = np.repeat([3, 5, 9], [4, 6, 5])
POINTS = RNG.normal(size=(15, 3)) * 0.4 + 2 * RNG.normal(size=(3, 3))[np.searchsorted([3, 5, 9], LABELS)]
COVERAGE = ("classes", "queries", "true_rate", "covered", "low", "high", "covered_naively", "effective_queries")
QUERIES = POINTS + 0.3 * RNG.normal(size=POINTS.shape)


def test_balls_by_brute_force():
    unknown = {"near": RNG.normal(size=(20, 3)), "far": 9 + RNG.normal(size=(20, 3))}
    found = study.balls(POINTS, LABELS, QUERIES, LABELS, unknown)
    means = {label: POINTS[LABELS == label].mean(axis=0) for label in (3, 5, 9)}
    distances = {label: np.linalg.norm(POINTS[LABELS == label] - means[label], axis=1) for label in means}
    radii = {label: values.max() for label, values in distances.items()}
    pairs = list(itertools.combinations(means, 2))

    def disjoint(sizes):
        return [np.linalg.norm(means[a] - means[b]) > sizes[a] + sizes[b] for a, b in pairs]

    assert found["disjoint_pairs"] == np.mean(disjoint(radii))
    assert found["disjoint_halves"] == np.mean(disjoint({label: np.median(distances[label]) for label in means}))
    alone = [all(free for free, pair in zip(disjoint(radii), pairs) if label in pair) for label in means]
    assert found["disjoint_classes"] == np.mean(alone)
    inside = [np.linalg.norm(query - means[label]) <= radii[label] for query, label in zip(QUERIES, LABELS)]
    assert found["inside_own"] == np.mean(inside)
    expected = np.mean([*radii.values()]), max(radii.values())
    assert (found["radius_mean"], found["radius_max"]) == pytest.approx(expected)
    for name, queries in unknown.items():
        to_means = np.array([[np.linalg.norm(query - mean) for mean in means.values()] for query in queries])
        outside = (to_means > list(radii.values())).all(axis=1)
        assert found[f"{name}_outside"] == outside.mean()
        assert found[f"{name}_outside_yet_near"] == np.mean(outside & (to_means.min(axis=1) <= max(radii.values())))
    assert 0 < found["near_outside"] and found["far_outside"] == 1.0


def test_separation_by_brute_force(monkeypatch):
    monkeypatch.setattr(study, "_TRIPLETS", 20_000)
    found = study.separation(POINTS, LABELS, 0.5, seed=0)
    distances = np.linalg.norm(POINTS[:, None] - POINTS, axis=2)
    same, other = LABELS[:, None] == LABELS, ~np.eye(15, dtype=bool)
    assert found["d_intra"] == pytest.approx(distances[same & other].mean())
    assert found["d_inter"] == pytest.approx(distances[~same].mean())
    assert found["gap"] == pytest.approx(found["d_inter"] - found["d_intra"])
    assert (found["d_max"], found["d_min"]) == pytest.approx((distances[~same].max(), distances[same & other].min()))
    terms = [
        distances[a, p] - distances[a, n] + 0.5
        for a, p, n in itertools.product(range(15), repeat=3)
        if a != p and same[a, p] and not same[a, n]
    ]
    assert found["violating"] == pytest.approx(np.mean(np.array(terms) > 0), abs=0.02)
    assert found["triplet_loss"] == pytest.approx(np.maximum(terms, 0).mean(), abs=0.03)


def test_every_third_image_of_a_class_is_a_query():
    labels = RNG.permutation(np.repeat([4, 7], [5, 7]))
    divided = study._divided(labels[:, None, None, None].astype(np.float32), labels)
    np.testing.assert_array_equal(divided.images[:, 0, 0, 0], divided.labels)
    for label, queries in ((4, 1), (7, 2)):
        assert divided.is_query[divided.labels == label].sum() == queries


def test_batches_have_classes_with_several_images(monkeypatch):
    monkeypatch.setattr(study, "CLASSES_PER_BATCH", 3)
    labels = np.repeat(np.arange(6), [1, 2, 3, 5, 6, 9])
    batches = study._batches(labels.astype(np.float32), labels, seed=0)
    for _ in range(20):
        images, found = next(batches)
        np.testing.assert_array_equal(images, found)
        sizes = np.bincount(found)
        assert np.count_nonzero(sizes) == 3 and sizes[0] == 0
        assert all(size == min(4, count) for size, count in zip(sizes, [1, 2, 3, 5, 6, 9]) if size)


def test_definitions_of_runs():
    keys = {
        study.run_key(task, method, seed, steps)
        for task in study.TASKS for method in study.METHODS for seed in (0, 1) for steps in (1, 2)
    }  # fmt: skip
    assert len(keys) == 2 * len(study.METHODS) * 4
    for options, message in (({"tasks": ["emojis"]}, "emoji"), ({"methods": ["triplet 7"]}, "method")):
        with pytest.raises(InputError, match=message):
            study.out_of_distribution("unused", **options)


def test_coverage_of_calibrations(monkeypatch):
    """Classes of one distribution: intervals contain the true rate, those of independent queries less often."""
    labels = np.repeat(np.arange(500), 6)
    vectors = np.random.default_rng(0).normal(size=(500, 3))[labels] * 2 + 0.02 * RNG.normal(size=(3000, 3))
    monkeypatch.setattr(study, "known_images", lambda *_: (vectors, labels))
    monkeypatch.setattr(study, "embedded", lambda _, images: images)
    monkeypatch.setattr(study, "CALIBRATIONS", 20)
    seen = study.Images(vectors[:6], labels[:6], labels[:6] == 0)
    found = study.coverage(None, seen, "glyphs", None, seed=0)
    assert (found["classes"], found["queries"]) == (399, 600)
    assert found["covered"] > 0.9 > found["covered_naively"]
    assert found["low"] < study.RATE < found["high"] and found["effective_queries"] < 200


@pytest.mark.integration
def test_runs_are_kept_and_reported(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)

    def load_task(task, seed, path):
        labels = np.repeat(np.arange(36), 6)
        images = generator.random((216, study.SIZE, study.SIZE, 1), np.float32) * (1 + labels[:, None, None, None])
        parts = [study._divided(images[labels % 2 == part], labels[labels % 2 == part]) for part in (0, 1)]
        return study.Task(*parts, images[:20], images[20:40])

    monkeypatch.setattr(study, "load_task", load_task)
    monkeypatch.setattr(study, "coverage", lambda *_: dict.fromkeys(COVERAGE, 1))
    path = tmp_path / "results.csv"
    arguments = dict(methods=["untrained", "triplet 0.05", "triplet 0.2"], steps=2, seeds=[0], results=str(path))
    found = study.out_of_distribution(str(tmp_path), **arguments)
    # Without data there are no rows of emoji.
    assert {task for task, _, _ in found} == {"glyphs"} and len(found) == 6
    assert all(len(rows) == 1 for rows in found.values())
    assert len(path.read_text().splitlines()) == 1 + 6
    for name in ("geometry-glyphs", "detection-glyphs"):
        assert "triplet 0.05" in (tmp_path / f"{name}.md").read_text()
    assert len((tmp_path / "calibration.csv").read_text().splitlines()) == 1 + 1
    for name in ("margins-glyphs", "roc-glyphs", "distances-glyphs-near", "distances-glyphs-far"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    monkeypatch.setattr(study, "trained", lambda *_: pytest.fail("A finished run is trained again."))
    again = study.out_of_distribution(str(tmp_path), **arguments)
    assert again == found


@pytest.mark.integration
def test_quick(tmp_path):
    found = study.out_of_distribution(str(tmp_path), quick=True)
    methods = ("untrained", "triplet 0.2")
    assert set(found) == {("glyphs", method, regime) for method in methods for regime in study.REGIMES}
    task = study.load_task("glyphs", 0, None)
    assert not set(np.unique(task.seen.labels)) & set(np.unique(task.unseen.labels))
    assert task.far.shape == (1797, 32, 32, 1) and 0 <= task.far.min() and task.far.max() <= 1
