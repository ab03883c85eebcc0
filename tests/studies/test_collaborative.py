"""Generated interactions, the factorization by hand, and the study in small."""

import csv

import keras
import numpy as np
import pytest

from studies import collaborative as study


def test_generated_interactions():
    interactions, places = study.generate(30, 3, users=20, items=80)
    counts = np.bincount(interactions.users, minlength=20)
    assert 15 <= counts.min() and counts.max() <= 45
    assert interactions.item_features.shape == places.shape == (80, study.LATENT)
    again, _ = study.generate(30, 3, users=20, items=80)
    np.testing.assert_array_equal(interactions.items, again.items)


def test_points_in_the_plane():
    interactions, places = study.generate(10, 0, users=5, items=400, is_plane=True)
    radii = np.linalg.norm(places, axis=1)
    assert interactions.item_features.shape == places.shape == (400, 2) and radii.max() <= 1
    # A quarter of the disk is within half of its radius.
    assert np.mean(radii < 0.5) == pytest.approx(0.25, abs=0.05)


def test_each_method_has_the_same_number_of_combinations():
    for setting in study.SETTINGS.values():
        numbers = {len(study._grid(grid, quick=False)) for method, grid in setting.grids.items() if grid}
        assert numbers == {9}


@pytest.mark.parametrize("pairwise", [False, True])
def test_the_factorization_by_hand(pairwise):
    interactions, _ = study.generate(30, 0, users=8, items=50)
    model = study.Factorization(8, 50, 3, pairwise, penalty=0.1, seed=1)
    model.compile(keras.optimizers.SGD(0.1))
    batch = next(iter(interactions.batches(6, negatives=2)))
    loss = float(model.compute_loss(batch, None, model(batch)))
    (users, items), total = model.vectors(), 0.0
    for user, item, negatives in zip(*(batch[name].numpy() for name in ("user", "item", "negatives"))):
        own, others = users[user] @ items[item], [users[user] @ items[other] for other in negatives]
        if pairwise:
            total += np.mean([np.log1p(np.exp(other - own)) for other in others])
        else:
            total += np.log1p(np.exp(-own)) + np.mean([np.log1p(np.exp(other)) for other in others])
        total += 0.1 * np.sum(users[user][:-1] ** 2)
        total += 0.1 * np.mean([np.sum(items[index][:-1] ** 2) for index in (item, *negatives)])
    assert loss == pytest.approx(total / 6, rel=1e-5)


def test_a_factorization_without_bias():
    interactions, _ = study.generate(30, 0, users=8, items=50)
    model = study._model("bpr_no_bias", {"learning_rate": 0.1, "penalty": 0.1}, 0, interactions, dim=3)
    model(next(iter(interactions.batches(6, negatives=2))))
    assert [tuple(variable.shape) for variable in model.trainable_variables] == [(8, 3), (50, 3)]
    assert not model.vectors()[1][:, -1].any()


@pytest.mark.parametrize("similarity", ["dot", "l2"])
def test_the_fast_recall_is_that_of_the_library(similarity):
    interactions, _ = study.generate(30, 0, users=20, items=60)
    validation, test, train = interactions.split(0.2, 0.2, seed=0)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(20, 3)), generator.normal(size=(60, 3))
    expected = study._metrics(vectors, similarity, test, [train, validation])["recall_at_20"]
    assert study.recall_of(vectors, similarity, test, [train, validation]) == pytest.approx(expected)


def test_training_in_one_graph_is_that_of_fit():
    interactions, _ = study.generate(30, 0, users=8, items=50)
    runs = [study._model("bpr", {"learning_rate": 0.1, "penalty": 0.1}, 0, interactions, dim=3) for _ in range(2)]
    batches = interactions.batches(16, negatives=2).take(2)
    runs[0].fit(batches, verbose=0)
    study._training(runs[1])(next(iter(batches.batch(2))))
    for expected, found in zip(*(model.get_weights() for model in runs)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.integration
def test_the_study_in_small(tmp_path, monkeypatch):
    results = tmp_path / "results.csv"
    found = study.collaborative(tmp_path, results=results, quick=True)
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert len(rows) == 7 + 4 + 2 and {row["method"] for row in rows} == set(study.NAMES)
    assert "| CML, logistic loss " in (tmp_path / "few_interactions.md").read_text()
    assert (tmp_path / "summary_recall.csv").exists() and (tmp_path / "cold_items.csv").exists()
    # Results that are there are not repeated.
    monkeypatch.setattr(study, "_model", None)
    assert study.collaborative(tmp_path, results=results, quick=True) == found
