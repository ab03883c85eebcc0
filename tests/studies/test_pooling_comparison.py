"""The comparison of poolings: its contestants, its tables, and that finished runs are not run again."""

import csv

import numpy as np
import pytest
import tiny_backbone

from studies import pooling_comparison as study
from studies.pooling_comparison import LOSSES, TITLES, ZERO_SHOT, pooling_comparison, step_times
from tfdml.experiments import InputError, TrainingResult, load_recipe
from tfdml.layers import pooling as poolings

TINY = {key: value for key, value in tiny_backbone.CHANGES.items() if key.partition(".")[0] == "model"}
TINY |= {"data.name": "digits", "data.size": 12, "batches.classes": 4}


def test_all_poolings_take_part_once():
    names = set(TITLES) - {ZERO_SHOT}
    # GSP inside GeM is an option of the author's code for two datasets, added after the study was run.
    assert set(poolings.names()) - names == {"gsp_gem", "netvlad", "optimal_transport"}
    for name in ("netvlad", "optimal_transport"):
        # Excluded, because variants with fixed options are included.
        assert type(poolings.get(name)) is type(poolings.get(f"{name}_8x16"))


@pytest.mark.parametrize("loss", LOSSES)
def test_contestants_differ_in_the_pooling_alone(loss):
    gap = study._changes("gap", loss)
    for name in TITLES:
        other = study._changes(name, loss)
        assert {key for key in gap if other[key] != gap[key]} <= {"model.pooling", "zero_shot.enabled"}
        assert other["model.pooling"] == ("gsp" if name == ZERO_SHOT else name)
        assert other["zero_shot.enabled"] == (name == ZERO_SHOT)


@pytest.mark.parametrize(
    ("recipe", "name", "loss"),
    [("tournament", "netvlad_8x16", "proxy_nca_plus_plus"), ("tournament", ZERO_SHOT, "c2"), ("collage", "cbam", "c2")],
)
def test_recipes_take_the_contestants(recipe, name, loss):
    made = load_recipe(recipe, study._changes(name, loss))
    assert made.loss.name == loss and made.references.has_proxies == (loss == "proxy_nca_plus_plus")
    assert made.zero_shot.enabled == (name == ZERO_SHOT)


@pytest.fixture
def made_up(monkeypatch):
    """Stub the runs with a MAP@R per pooling, loss and seed, and times."""
    asked, scores = [], {"gap": 0.4, "gsp": 0.6, "weldon": 0.5}

    def result_of(changes, folder):
        asked.append((folder.name, changes))
        score = scores[changes["model.pooling"]] + 0.1 * (changes["loss.name"] == "c2") + 0.02 * changes["seed"]
        return TrainingResult(folder, {"map_at_r": score, "precision_at_1": score + 0.1}, {}, {}, {})

    monkeypatch.setattr(study, "result_of", result_of)
    monkeypatch.setattr(study, "load_recipe", lambda recipe, changes: changes)
    slowness = {"gap": 1.0, "gsp": 1.25, "weldon": 2.0}
    busy = np.array([1.0, 3.0, 1.0])
    monkeypatch.setattr(study, "step_times", lambda recipes, turns: {name: slowness[name] * busy for name in recipes})
    return asked


def test_tables_and_image(tmp_path, made_up):
    results = pooling_comparison(str(tmp_path), ["weldon", "gsp"], seeds=[0, 1], steps=10)
    assert [name for name, _ in made_up][:4] == ["c2-gap-0", "c2-gap-1", "c2-weldon-0", "c2-weldon-1"]
    assert len(made_up) == 12
    assert {changes["training.steps_per_validation"] for _, changes in made_up} == {5}
    np.testing.assert_allclose(results["gsp", "c2"], [0.7, 0.72])
    header, *rows = csv.reader((tmp_path / "pooling_comparison.csv").read_text(encoding="utf-8").splitlines())
    assert header[2:6] == ["MAP@R, C2", "P@1, C2", "MAP@R, ProxyNCA++", "P@1, ProxyNCA++"]
    assert [row[1] for row in rows] == ["gsp", "weldon", "gap"]
    assert rows[0][2:] == ["0.710 ± 0.010", "0.810 ± 0.010", "0.610 ± 0.010", "0.710 ± 0.010", "1.25"]
    assert "A step with average pooling takes 1000 ms" in (tmp_path / "pooling_comparison.md").read_text()
    assert (tmp_path / "scores.csv").read_text().splitlines()[1] == "gsp,0.7000,0.7200,0.6000,0.6200"
    assert (tmp_path / "pooling_comparison.png").stat().st_size > 1000


def test_quick_and_without_times(tmp_path, made_up):
    results = pooling_comparison(str(tmp_path / "quick"), quick=True)
    assert list(results) == [("gap", "c2"), ("gsp", "c2")]
    pooling_comparison(str(tmp_path / "untimed"), ["gsp"], ["c2"], [0], timed_turns=0)
    assert (tmp_path / "untimed" / "pooling_comparison.csv").read_text().splitlines()[1].endswith(",–")


def test_unknown_pooling(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'weldon'"):
        pooling_comparison(str(tmp_path), ["weldom"])


@pytest.mark.integration
def test_times_of_training_steps():
    with tiny_backbone.registered():
        recipes = {
            name: load_recipe("tournament", {**study._changes(name, loss), **TINY})
            for name, loss in (("gap", "c2"), (ZERO_SHOT, "proxy_nca_plus_plus"))
        }
        times = step_times(recipes, 2)
    assert list(times) == list(recipes)
    assert all(len(values) == 2 and 0 < values.min() and values.max() < 5 for values in times.values())
