"""The study of linear metrics, on the small datasets."""

import numpy as np
import pytest

from studies import linear_metrics as study
from tfdml.experiments import InputError


def test_a_stopped_study_resumes(tmp_path, monkeypatch):
    options = {"datasets": ["iris"], "methods": ["ScatterDifference"], "repeats": 1}
    errors = study.linear_metrics(str(tmp_path), **options)
    assert errors["iris", "Euclidean"].shape == errors["iris", "ScatterDifference"].shape == (1, 150)
    table = (tmp_path / "linear_metrics.md").read_text()
    assert f"{errors['iris', 'Euclidean'].mean():.4f}" in table and "mean of 1 repeat(s)" in table
    monkeypatch.setattr(study, "_cross_validated", None)
    again = study.linear_metrics(str(tmp_path), **options)
    np.testing.assert_array_equal(again["iris", "ScatterDifference"], errors["iris", "ScatterDifference"])


@pytest.mark.parametrize("dataset", ["iris", "digits"])
def test_folds_cover_each_sample_once_and_are_scaled_by_the_training_part(dataset):
    seen = []
    for known, unknown, train, test in study._splits(dataset, 0):
        seen.extend(test)
        assert len(known) == len(train) and len(unknown) == len(test) and not set(train) & set(test)
        if dataset == "iris":
            np.testing.assert_allclose(known.mean(axis=0), 0.0, atol=1e-9)
    assert sorted(seen) == list(range(150 if dataset == "iris" else 1797))


@pytest.mark.parametrize("options", [{"methods": ["LMN"]}, {"protocols": ["LMN"]}])
def test_unknown_names(tmp_path, options):
    with pytest.raises(InputError, match="Received: 'LMN'. Expected: one of"):
        study.linear_metrics(str(tmp_path), **options)


@pytest.mark.parametrize("protocol", study.PROTOCOLS)
def test_outer_splits(protocol):
    is_random, is_reversed = study.PROTOCOLS[protocol]
    counts = np.zeros(1797, int)
    for known, tested in study._outer_splits("digits", is_random, is_reversed, 1):
        assert sorted([*known, *tested]) == list(range(1797))
        assert len(known) // 300 == (1 if is_reversed else 4)
        counts[tested] += 1
    assert (counts == (4 if is_reversed else 1)).all()


def test_options_are_chosen_on_known_samples(monkeypatch):
    """The second feature is noise, so one component is better, and what the tested samples would prefer is ignored."""
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 2
    known = np.stack([labels + 0.1 * generator.normal(size=24), 9 * generator.normal(size=24)], axis=1)
    monkeypatch.setattr(study, "TARGET_NEIGHBORS", (3,))
    monkeypatch.setattr(study, "_basis", lambda known, size: np.eye(2) if size is None else np.eye(size, 2))
    found = study.chosen(known, labels, known[:, ::-1], labels, (None, 1))
    assert found["Euclidean options"] == "k 1, components 1"
    assert found["LMNN options"].startswith("k 1, targets 3, mu 0.5, shrinkage 0")
    for name in study.CANDIDATES:
        assert found[name].mean() > 0.3


def test_errors_of_samples():
    outcomes = [{"tested": np.array([0, 1]), "a": np.array([True, False])}, {"tested": np.array([1]), "a": np.ones(1)}]
    np.testing.assert_allclose(study._errors_of_samples(outcomes, "a"), [1.0, 0.5])


@pytest.mark.slow
def test_lmnn_has_a_lower_error_than_the_euclidean_distance(tmp_path):
    errors = study.linear_metrics(str(tmp_path), datasets=["digits"], methods=["LMNN (mu 0.1)"], repeats=1)
    assert errors["digits", "LMNN (mu 0.1)"].mean() < errors["digits", "Euclidean"].mean()
    assert (tmp_path / "neighbors.png").stat().st_size > 1000
