"""Views of patches, their comparison by a loop, and the study in small."""

import csv

import numpy as np
import pytest

from studies import patch_matching as study


def test_views_follow_the_seed():
    patches, labels = study.view_patches("flower", 3, 2, 5)
    assert patches.shape == (6, 32, 32) and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert patches.min() >= 0 and patches.max() <= 1
    again, _ = study.view_patches("flower", 3, 2, 5)
    np.testing.assert_array_equal(patches, again)
    assert np.abs(patches - study.view_patches("flower", 3, 2, 6)[0]).max() > 0.1


def test_comparison_equals_the_loop():
    generator = np.random.default_rng(0)
    places = generator.normal(size=(40, 4))
    descriptors = (places[:, None] + 0.6 * generator.normal(size=(40, 2, 4))).reshape(80, 4)
    found = study.compare(descriptors, np.repeat(np.arange(40), 2))
    first, second = descriptors[::2], descriptors[1::2]
    matched = [min(range(40), key=lambda j, i=i: np.linalg.norm(first[i] - second[j])) == i for i in range(40)]
    assert float(found["matched"]) == pytest.approx(np.mean(matched), abs=1e-5)
    same = sorted(np.linalg.norm(a - b) for a, b in zip(first, second))
    order = np.random.default_rng(0).permutation(40)
    other = [np.linalg.norm(first[order[i]] - second[order[i - 1]]) for i in range(40)]
    # 38 of 40 pairs are 95 %.
    assert float(found["fpr95"]) == pytest.approx(np.mean([value <= same[37] for value in other]), abs=1e-5)


def test_ncc_is_the_correlation():
    patches, _ = study.view_patches("china", 2, 1, 0)
    first, second = study.FIXED["ncc"](patches)
    correlation = np.corrcoef(patches[0].ravel(), patches[1].ravel())[0, 1]
    assert np.sum((first - second) ** 2) == pytest.approx(2 - 2 * correlation, abs=1e-4)


@pytest.mark.integration
def test_the_study_in_small(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    results = tmp_path / "results.csv"
    study.patch_matching(tmp_path, results=results, quick=True)
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert [row["method"] for row in rows] == list(study.NAMES)
    assert (tmp_path / "correspondences.png").stat().st_size > 10_000
    # Results that are there are not repeated.
    monkeypatch.setattr(study, "compare", None)
    again = study.patch_matching(tmp_path, results=results, quick=True)
    assert again["sift"] == [row for row in rows if row["method"] == "sift"]
    assert "| SIFT " in (tmp_path / "patch_matching.md").read_text()
