"""The ablations of CCP: runs, search and reports."""

import csv
import sys

import numpy as np
import pytest
import tiny_backbone

from studies import ccp_ablation as study
from studies.ccp_ablation import (
    FIRST_TRIALS,
    Setting,
    Trainings,
    best_within,
    ccp_ablation,
    place_of,
    regression,
    search,
    seed_deviation,
    steps_of_problems,
)
from tfdml import models
from tfdml.experiments import InputError, TrainingResult, load_recipe


@pytest.fixture
def trained(monkeypatch):
    """Stub the runs with a MAP@R per recipe and three problems; returns a dict from folder names to recipes."""
    recipes = {}

    def result_of(recipe, folder):
        assert folder.name not in recipes or folder.exists()
        recipes[folder.name] = recipe
        folder.mkdir(parents=True, exist_ok=True)
        score = 0.3 + 0.01 * recipe.seed + 0.001 * recipe.batches.classes
        problems = {}
        if recipe.ccp.enabled:
            score += 0.01 * recipe.references.per_class - 0.1 * recipe.ccp.projection_weight
            score += 0.001 * recipe.ccp.pool_size * (recipe.seed + 1)
            problems = {"projections": 3 if recipe.ccp.reinitialize else 1}
        test = {"map_at_r": score - 0.1, "precision_at_1": score}
        return TrainingResult(folder, test, {}, {"map_at_r": score, "epoch": 4}, {"steps": 600, **problems})

    monkeypatch.setattr(study, "result_of", result_of)
    monkeypatch.setattr(study, "best_within", lambda folder, steps: steps / 1e4)
    monkeypatch.setattr(
        study, "steps_of_problems", lambda folder: [100 + recipes[folder.name].references.per_class, 50]
    )
    return recipes


def rows_of(path):
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def test_pool(tmp_path, trained):
    scores = ccp_ablation(str(tmp_path), ["pool"], proxies=[1, 4], pool_sizes=[4, 12], seeds=[0, 2])["pool"]
    assert [(of.proxies, of.pool) for of in scores] == [(1, 1), (1, 4), (1, 12), (4, 4), (4, 12)]
    assert len(trained) == 10
    for name, recipe in trained.items():
        assert name == f"ccp-p{recipe.references.per_class}-b{recipe.ccp.pool_size}-l0.0002-n32-{recipe.seed}"
        assert recipe.ccp.projection_weight == 2e-4 and (recipe.ccp.patience, recipe.ccp.in_batch_weight) == (1, 0.0)
    header, *rows = rows_of(tmp_path / "pool.csv")
    assert header[:2] == ["proxies", "pool"] and header[-2:] == ["unseen, seed 0", "unseen, seed 2"]
    # By hand: 0.3 + 0.008 + 0.04 and 12 or 36 thousandths, plus one hundredth per seed.
    values = np.array([0.348 + 0.012, 0.348 + 0.02 + 0.036])
    mean, deviation = values.mean(), values.std(ddof=1)
    assert rows[-1][:4] == ["4", "12", f"{mean:.3f} ± {deviation:.3f}", f"{mean - 0.1:.3f} ± {deviation:.3f}"]
    assert rows[-1][4:] == ["3.0", "0.2600", "0.3040"]
    text = (tmp_path / "pool.md").read_text(encoding="utf-8")
    assert f"over all rows: {seed_deviation(of.validation for of in scores.values()):.4f}" in text
    assert (tmp_path / "pool.png").stat().st_size > 1000


def test_alternating_and_batch_differ_in_what_they_tell(tmp_path, trained):
    parts = ["alternating", "batch"]
    measured = ccp_ablation(str(tmp_path), parts, batch_sizes=[16, 32], seeds=[1], overrides={"ccp.patience": 2})
    # Both parts share C2 and CCP with batches of 32.
    assert sorted(trained) == [
        "batch-16-1", "batch-32-1", "ccp-p8-b12-l0-n32-1", "ccp-p8-b12-l0.0002-n16-1", "ccp-p8-b12-l0.0002-n32-1",
        "fixed-p8-b12-l0.0002-n32-1",
    ]  # fmt: skip
    alone, fixed = trained["batch-32-1"], trained["fixed-p8-b12-l0.0002-n32-1"]
    assert not alone.ccp.enabled and alone.references.name == "batch"
    assert not fixed.ccp.reinitialize and trained["ccp-p8-b12-l0.0002-n32-1"].ccp.patience == 2
    assert (trained["batch-16-1"].batches.classes, trained["batch-16-1"].batches.samples_per_class) == (4, 4)
    assert [setting.method for setting in measured["alternating"]] == ["batch", "fixed", "ccp", "ccp"]
    assert trained["ccp-p8-b12-l0-n32-1"].ccp.projection_weight == 0.0
    assert [row[3] for row in rows_of(tmp_path / "alternating.csv")[1:]] == ["–", "1.0", "3.0", "3.0"]
    header, *rows = rows_of(tmp_path / "batch.csv")
    assert header[4] == "validation, 9,600 images seen"
    # 600 steps of 16 images, 300 of 32.
    assert [[*row[:2], row[4]] for row in rows] == [
        ["C2 in the batch", "16", "0.060"], ["C2 in the batch", "32", "0.030"],
        ["C2 + CCP", "16", "0.060"], ["C2 + CCP", "32", "0.030"],
    ]  # fmt: skip
    assert "between seeds" not in (tmp_path / "batch.md").read_text(encoding="utf-8")
    for part in parts:
        assert (tmp_path / f"{part}.png").stat().st_size > 1000


def test_steps(tmp_path, trained):
    steps = ccp_ablation(str(tmp_path), ["steps"], proxies=[2], pool_sizes=[8], seeds=[0, 1])["steps"]
    assert sorted(steps) == [50] * 6 + [102] * 4 + [108] * 2
    header, first, later = rows_of(tmp_path / "steps.csv")
    assert first == ["first problem", "6", "102", "102", "102", "106", "108", "0"]
    assert later == ["later problems", "6", "50", "50", "50", "50", "50", "100"]
    assert "12 finished problems of 6 runs" in (tmp_path / "steps.md").read_text(encoding="utf-8")
    assert (tmp_path / "steps.png").stat().st_size > 1000


def test_steps_where_no_problem_ended(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(study, "steps_of_problems", lambda folder: [])
    assert ccp_ablation(str(tmp_path), ["steps"], proxies=[2], pool_sizes=[2], seeds=[0])["steps"] == []
    assert len(rows_of(tmp_path / "steps.csv")) == 1 and not (tmp_path / "steps.png").exists()


def test_lambda_proxies(tmp_path, trained):
    trials = ccp_ablation(str(tmp_path), ["lambda_proxies"], trials=9, seeds=[3, 4])["lambda_proxies"]
    assert len(trials) == 9 and {recipe.seed for recipe in trained.values()} == {3}
    for trial in trials:
        pool = max(trial.proxies, 12)
        recipe = trained[f"ccp-p{trial.proxies}-b{pool}-l{trial.weight:g}-n32-3"]
        assert recipe.ccp.projection_weight == trial.weight and recipe.ccp.pool_size == pool
        expected = 0.338 + 0.01 * trial.proxies - 0.1 * trial.weight + 0.004 * pool
        assert trial.value == pytest.approx(expected)
    header, *rows = rows_of(tmp_path / "lambda_proxies.csv")
    assert rows[1][:6] == ["1", "0", "8", "0.4660", "0.3660", "3"]
    best = max(trials, key=lambda trial: trial.value)
    text = (tmp_path / "lambda_proxies.md").read_text(encoding="utf-8")
    assert f"Best trial: λ = {best.weight:g}, {best.proxies} proxies, {best.value:.4f}." in text
    assert (tmp_path / "lambda_proxies.png").stat().st_size > 1000


def test_search_is_reproducible_and_learns():
    def objective(weight, proxies):
        return -((place_of(weight) + 4.0) ** 2) - (np.log2(proxies) - 3.5) ** 2

    trials = search(objective, 40, seed=1)
    assert trials[:25] == search(objective, 25, seed=1) and trials != search(objective, 40, seed=2)
    assert tuple((trial.weight, trial.proxies) for trial in trials[:6]) == FIRST_TRIALS
    for trial in trials:
        assert trial.weight == 0.0 or (1e-6 <= trial.weight <= 1.0 and trial.weight == float(f"{trial.weight:.1e}"))
        assert 1 <= trial.proxies <= 16 and trial.value == objective(trial.weight, trial.proxies)
    # Uniformly drawn points have a mean of about -10.
    assert np.mean([trial.value for trial in trials[20:]]) > -3.0
    assert max(trial.value for trial in trials) > -0.3


def test_search_leaves_optuna_as_it_was():
    import optuna

    before = optuna.logging.get_verbosity()
    with pytest.raises(ZeroDivisionError):
        search(lambda weight, proxies: 1 / 0, 1, seed=0)
    assert optuna.logging.get_verbosity() == before


def test_without_optuna(tmp_path, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'tfdml\[search\]'"):
        ccp_ablation(str(tmp_path / "out"), ["pool", "lambda_proxies"])
    assert not trained and not (tmp_path / "out").exists()
    # The other parts do not need it.
    ccp_ablation(str(tmp_path / "out"), ["pool"], proxies=[1], pool_sizes=[1], seeds=[0])
    assert list(trained) == ["ccp-p1-b1-l0.0002-n32-0"]


def places(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(-7.0, 0.0, count), rng.uniform(0.0, 4.0, count)])


def test_regression_finds_a_smooth_surface():
    def surface(at):
        return 0.5 - 0.01 * (at[:, 0] + 3.0) ** 2 + 0.05 * np.sin(at[:, 1])

    rng = np.random.default_rng(1)
    predict, noise = regression(places(40), surface(places(40)) + rng.normal(scale=0.01, size=40))
    assert noise == pytest.approx(0.01, rel=0.4)
    # Where other trials constrain it.
    asked = places(200, seed=2)
    inner = asked[(abs(asked[:, 0] + 3.5) < 2.5) & (abs(asked[:, 1] - 2.0) < 1.5)]
    mean, deviation = predict(inner)
    errors = mean - surface(inner)
    assert abs(errors).max() < 0.03 and 0.5 < np.sqrt(np.mean((errors / deviation) ** 2)) < 2.0


def test_regression_does_not_follow_noise():
    extents = []
    for seed in range(5):
        values = 0.4 + np.random.default_rng(seed).normal(scale=0.02, size=30)
        predict, noise = regression(places(30, seed + 10), values)
        assert noise == pytest.approx(0.02, rel=0.4)
        extents.append(np.ptp(predict(places(100, seed=99))[0]))
    assert np.median(extents) < 0.005


def test_regression_of_equal_values():
    predict, noise = regression(places(4), np.full(4, 0.3))
    mean, deviation = predict(places(3, seed=5))
    np.testing.assert_allclose(mean, 0.3)
    assert noise == 0.0 and np.isfinite(deviation).all()


def test_deviation_between_seeds():
    values = [[0.1, 0.3], [0.5, 0.5], [0.2, 0.8]]
    assert seed_deviation(values) == pytest.approx(np.sqrt((0.02 + 0.0 + 0.18) / 3))
    assert np.isnan(seed_deviation([[0.1], [0.2]]))


def test_place():
    assert [place_of(weight) for weight in (1.0, 1e-6, 0.0)] == [0.0, -6.0, -6.5]


def test_recipe_takes_all_settings():
    for method in ("ccp", "fixed", "batch"):
        recipe = load_recipe("ccp-ablation", Setting(method, proxies=16, pool=16, weight=0.0, batch=128).changes)
        assert recipe.batches.classes == 32 and recipe.ccp.enabled == (method != "batch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ["pools"]}, "Did you mean 'pool'"),
        ({"proxies": [0]}, r"proxies=\[0\]. Expected: 1 to 16"),
        ({"proxies": [17]}, "Expected: 1 to 16"),
        ({"proxies": []}, "no proxies"),
        ({"pool_sizes": [0]}, "pool_sizes"),
        ({"batch_sizes": [4]}, "Expected: at least 8 and a multiple of 4"),
        ({"batch_sizes": [18]}, "a multiple of 4"),
        ({"trials": 0}, "trials"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [-1]}, "seeds"),
    ],
)
def test_bad_arguments(tmp_path, trained, arguments, message):
    with pytest.raises(InputError, match=message):
        ccp_ablation(str(tmp_path / "out"), **arguments)
    assert not trained and not (tmp_path / "out").exists()


@pytest.mark.integration
def test_quick_is_small(tmp_path, trained):
    measured = ccp_ablation(str(tmp_path), quick=True)
    assert set(measured) == set(study.PARTS) and len(trained) == 6
    for recipe in trained.values():
        assert recipe.training.steps_per_validation * recipe.training.max_validations == 18


@pytest.mark.integration
def test_trains_and_goes_on(tmp_path):
    small = {
        "data.name": "digits", "data.size": 12, "model.backbone": "tiny", "model.embedding_size": 4,
        "augmentation.rotation": 0.0, "augmentation.scale": 0.0, "augmentation.translation": 0.0,
        "training.steps_per_validation": 2, "training.max_validations": 5, "optimizer.learning_rate": 0.05,
    }  # fmt: skip
    setting = Setting(batch=16)
    with tiny_backbone.registered():
        trainings = Trainings(tmp_path, "ccp-ablation", small)
        scores = trainings.scores([setting], [0])[setting]
        steps = steps_of_problems(trainings.folder(setting, 0))
        assert steps and all(count >= 4 and count % 2 == 0 for count in steps) and scores.problems[0] >= len(steps)

        # Finished runs are not trained again.
        def fail(*arguments, **options):
            raise AssertionError("trained again")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models.MetricModel, "fit", fail)
            again = Trainings(tmp_path, "ccp-ablation", small).scores([setting], [0])[setting]
    np.testing.assert_array_equal(again, scores)
    folder = trainings.folder(setting, 0)
    (folder / "projections.csv").unlink()
    assert steps_of_problems(folder) == []
    values = [float(row["val_map_at_r"]) for row in csv.DictReader((folder / "history.csv").read_text().splitlines())]
    assert [best_within(folder, steps) for steps in (2, 5, 10)] == [values[0], max(values[:2]), max(values)]
    assert np.isnan(best_within(folder, 1)) and scores.validation == pytest.approx(max(values))
