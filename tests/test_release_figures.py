"""The tables of README and docs/thesis.md are made from finished runs, and only from the right ones."""

import itertools
import json
import pathlib
import sys

import numpy as np
import pytest
from scipy import stats

from benchmarks import release_figures
from tfdml.experiments.recipe_files import dump_recipe, load_recipe

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {
    "tfdml": "1.2.3",
    "git_commit": "0123456789",
    "python": "3.11.7",
    "packages": {"tensorflow": "2.15.1", "keras": "2.15.0", "numpy": "1.26.4"},
    "cpus": 2,
}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder of finished runs, and copies of the pages in place of the real ones."""
    for page in release_figures.PAGES:
        path = tmp_path / "pages" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(release_figures, "ROOT", tmp_path / "pages")
    monkeypatch.setattr(release_figures.subprocess, "run", lambda *_, **__: pytest.fail("Every run is finished."))
    for number, (recipe, seed) in enumerate(itertools.product(release_figures.TITLES, range(3))):
        folder = tmp_path / "runs" / f"{recipe}-{seed}"
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(dump_recipe(load_recipe(recipe, {"seed": seed})))
        (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
        trained = {"map_at_r": 0.5 + number / 100, "precision_at_1": 0.9}
        untrained = {"map_at_r": 0.01, "precision_at_1": 0.07}
        metrics = {"test": trained, "untrained": untrained, "training": {"seconds": 90.0}}
        (folder / "test_metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["release_figures.py", *map(str, arguments)])
    release_figures.main()


def test_the_pages_are_rewritten_and_nothing_else_in_them(finished, monkeypatch):
    before = {page: (ROOT / page).read_text(encoding="utf-8") for page in release_figures.PAGES}
    run(monkeypatch, finished / "runs", "--write")
    for page, (name, _) in release_figures.PAGES.items():
        text = (finished / "pages" / page).read_text(encoding="utf-8")
        for marker in ("begin", "end"):
            assert text.count(f"<!-- {name}: {marker} -->") == 1
        assert text.split(f"<!-- {name}: begin -->")[0] == before[page].split(f"<!-- {name}: begin -->")[0]
        assert text.split(f"<!-- {name}: end -->")[1] == before[page].split(f"<!-- {name}: end -->")[1]
        assert "| 0.510 ± 0.010 |" in text and "TensorFlow 2.15.1, Keras 2.15.0" in text and "0123456" in text
    assert "+0.030 [+0.030, +0.030]" in (finished / "pages" / "docs/thesis.md").read_text(encoding="utf-8")


def test_a_run_of_another_recipe_is_refused(finished, monkeypatch):
    path = finished / "runs" / "gsp-1" / "recipe.yaml"
    path.write_text(dump_recipe(load_recipe("gsp", {"seed": 1, "training.max_validations": 1})))
    with pytest.raises(SystemExit, match="gsp with seed 1: training differ"):
        run(monkeypatch, finished / "runs")


def test_runs_of_two_environments_are_refused(finished, monkeypatch):
    path = finished / "runs" / "gap-0" / "environment.json"
    path.write_text(json.dumps({**ENVIRONMENT, "cpus": 4}))
    with pytest.raises(SystemExit, match="different environments"):
        run(monkeypatch, finished / "runs")


def test_the_interval_is_that_of_a_paired_t_test():
    first, second = np.array([0.61, 0.64, 0.66]), np.array([0.60, 0.61, 0.66])
    low, high = stats.ttest_rel(first, second).confidence_interval(0.95)
    expected = f"{np.mean(first - second):+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    assert release_figures.paired_interval(first - second) == expected
