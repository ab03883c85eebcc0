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


def test_an_unknown_method(tmp_path):
    with pytest.raises(InputError, match="Received: 'LMN'. Expected: one of"):
        study.linear_metrics(str(tmp_path), methods=["LMN"])


@pytest.mark.slow
def test_lmnn_has_a_lower_error_than_the_euclidean_distance(tmp_path):
    errors = study.linear_metrics(str(tmp_path), datasets=["digits"], methods=["LMNN (mu 0.1)"], repeats=1)
    assert errors["digits", "LMNN (mu 0.1)"].mean() < errors["digits", "Euclidean"].mean()
    assert (tmp_path / "neighbors.png").stat().st_size > 1000
