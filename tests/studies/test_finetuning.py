"""The study of fine-tuning: its methods, its results file, and the tables that are made from it."""

import numpy as np
import pytest
import tiny_backbone
from scipy import stats

from studies import finetuning as study
from studies.report import append_rows, paired_interval
from tfdml.experiments import InputError, load_recipe, runner
from tfdml.experiments.builders import dry_build
from tfdml.experiments.recipe_files import recipe_hash

TINY = {key: value for key, value in tiny_backbone.CHANGES.items() if key.partition(".")[0] in ("model", "training")}
TINY |= {
    "model.backbone_options": {},
    "data.name": "digits",
    "data.options": {},
    "data.size": 12,
    "data.channels": 1,
    "data.test_classes": 0.3,
    "data.validation_classes": 0.2,
    "batches.classes": 4,
    "augmentation.crop_area": None,
    "optimizer.schedule_warmup_steps": 0,
    "training.max_validations": 1,
}


HEADS = [name for name in (*study.METHODS, *study.CCP_METHODS) if not study._OF_NETWORKS & set(name.split("+"))]


@pytest.mark.parametrize("method", [*study.METHODS, *study.CCP_METHODS])
def test_methods_differ_in_loss_pooling_and_references_alone(method):
    equal = load_recipe("finetune")
    recipe = load_recipe("finetune", study.changes_of(method))
    dry_build(recipe)
    for part in ("data", "batches", "augmentation", "training", "evaluation"):
        assert getattr(recipe, part) == getattr(equal, part)
    assert recipe.model.backbone_options == equal.model.backbone_options
    loss, *additions = method.split("+")
    assert recipe.model.has_gsp == ("gsp" in additions)
    assert recipe.zero_shot.enabled == ("zero_shot" in additions)
    assert recipe.cross_batch.enabled == ("xml" in additions)
    assert recipe.ccp.enabled == any(name.startswith("ccp") for name in additions)
    assert recipe.references.has_memory == any(name.endswith("xbm") for name in additions)
    assert recipe.loss.name.startswith(loss.partition("_")[0])


@pytest.mark.parametrize("recipe", sorted(study.SHARED))
def test_what_all_methods_share_changes_no_method(recipe):
    methods = {name for name in (*study.METHODS, *study.CCP_METHODS) if recipe != "features" or name in HEADS}
    recipes = [load_recipe(recipe, {**study.changes_of(name), **study.SHARED[recipe]}) for name in methods]
    assert len({recipe_hash(each) for each in recipes}) == len(methods)
    for name, each in zip(methods, recipes):
        assert each.model.has_gsp == ("gsp" in name.split("+"))


@pytest.mark.parametrize(("method", "message"), [("c3", "loss.*'c3'"), ("c2+gps", "addition.*'gps'.*'gsp'")])
def test_unknown_methods(method, message):
    with pytest.raises(InputError, match=message):
        study.changes_of(method)




@pytest.mark.parametrize("method", HEADS)
def test_methods_of_heads_can_be_built(method):
    dry_build(load_recipe("features", {**study.SHARED["features"], **study.changes_of(method)}))


def test_an_unknown_recipe(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'finetune'"):
        study.finetuning(str(tmp_path), recipe="finetunes")


def row(method, rate, seed, validation, test):
    recipe = load_recipe("finetune", {**study.SHARED["finetune"], **study.changes_of(method), "seed": seed,
                                      "optimizer.learning_rate": rate})  # fmt: skip
    values = {
        "method": method, "learning_rate": rate, "seed": seed, "steps": 9, "best_step": 9, "seconds": 1,
        "untrained_map_at_r": 0.1, "validation_map_at_r": validation, "test_map_at_r": test,
        "test_precision_at_1": 0.5, "recipe_hash": recipe_hash(recipe),
    }  # fmt: skip
    return values


def test_tables_from_results_without_training(tmp_path):
    rows = [row("c2", 1e-4, 0, 0.4, 0.30), row("c2", 3e-4, 0, 0.5, 0.31), row("c2", 3e-4, 1, 0.5, 0.33)]
    rows += [row("c2+gsp", 1e-4, 0, 0.6, 0.33), row("c2+gsp", 1e-4, 1, 0.6, 0.36)]
    # Of another definition of the method: ignored.
    rows += [{**row("c2+gsp", 3e-4, 0, 0.9, 0.9), "recipe_hash": "0" * 12}]
    for each in rows:
        append_rows(tmp_path / "results.csv", study.COLUMNS, [each])
    rows += [row("c2+ccp_160", 1e-4, 0, 0.6, 0.35), row("c2", 3e-4, 7, 0.5, 0.32)]
    for each in rows[-2:]:
        append_rows(tmp_path / "results.csv", study.COLUMNS, [each])
    results = str(tmp_path / "results.csv")
    # All methods and seeds that have results.
    everything = study.finetuning(str(tmp_path / "all"), results=results)
    assert everything == {"c2": [*rows[1:3], rows[7]], "c2+gsp": rows[3:5], "c2+ccp_160": rows[6:7]}
    found = study.finetuning(
        str(tmp_path / "out"), methods=["c2", "c2+gsp", "c1"], seeds=[0, 1, 2], results=results
    )
    assert found == {"c2": rows[1:3], "c2+gsp": rows[3:5]}
    table = (tmp_path / "out" / "finetune.md").read_text()
    assert "0.320 ± 0.014" in table and paired_interval([0.02, 0.03]) in table and "0.900" not in table


def test_the_interval_equals_the_paired_test_of_scipy():
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    expected = f"{np.mean(first - second):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]".replace("-", "−")
    assert paired_interval(first - second) == expected
    assert paired_interval([0.5]) == "+0.500"


@pytest.mark.integration
def test_trains_once_and_chooses_the_learning_rate(tmp_path, monkeypatch):
    trained, train = [], runner.train

    def count_and_train(recipe, *args, **kwargs):
        trained.append((recipe.optimizer.learning_rate, recipe.seed))
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(runner, "train", count_and_train)
    arguments = {"data": "not read", "results": str(tmp_path / "results.csv"), "overrides": TINY}
    arguments |= {"methods": ["c2"], "seeds": [0, 1], "learning_rates": [1e-3, 1e-2]}
    with tiny_backbone.registered():
        found = study.finetuning(str(tmp_path / "first"), **arguments)["c2"]
        assert len(trained) == 3
        # Another folder, the same results: nothing is trained.
        assert study.finetuning(str(tmp_path / "second"), **arguments)["c2"] == found
    assert len(trained) == 3 and trained[2] == (found[0]["learning_rate"], 1)
    assert [each["seed"] for each in found] == [0, 1]


@pytest.mark.parametrize("recipe", ["features", "finetune", "finetune-collage"])
def test_the_results_of_the_repository_belong_to_the_methods_as_they_are(tmp_path, recipe):
    rows = study.read_results(study.RESULTS / f"{recipe}.csv")
    for row in rows.values():
        changes = {**study.SHARED[recipe], **study.changes_of(row["method"]), "seed": row["seed"]}
        changes |= {"optimizer.learning_rate": row["learning_rate"]}
        changes[study._PATHS.get(recipe, "data.options.path")] = "here"
        assert row["recipe_hash"] == recipe_hash(load_recipe(recipe, changes)), row
    assert rows


def test_variants_are_compared_with_ccp(tmp_path):
    tests = {"c2": (0.30, 0.31), "c2+ccp": (0.33, 0.35), "c2+ccp_160": (0.34, 0.32)}
    tests |= {"c2+frozen": (0.1, 0.1), "c2+frozen+gsp": (0.2, 0.3)}
    for method, (first, second) in tests.items():
        for seed, test in enumerate((first, second)):
            append_rows(tmp_path / "results.csv", study.COLUMNS, [row(method, 3e-4, seed, 0.5, test)])
    study.finetuning(str(tmp_path / "out"), results=str(tmp_path / "results.csv"))
    table = (tmp_path / "out" / "finetune.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if "c2" in line]
    assert {cells[1]: cells[6:8] for cells in rows} == {
        "c2": ["", ""],
        "c2+ccp": [paired_interval([0.03, 0.04]), ""],
        "c2+ccp_160": [paired_interval([0.04, 0.01]), paired_interval([0.01, -0.03])],
        "c2+frozen": ["", ""],
        "c2+frozen+gsp": [paired_interval([0.1, 0.2]), ""],
    }
