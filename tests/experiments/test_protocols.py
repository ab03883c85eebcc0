"""Protocols: their planned runs, and the summary of their results."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from tfdml import data
from tfdml._utils.plain_files import write_json
from tfdml.experiments import (
    InputError,
    RunFolder,
    RunFolderError,
    evaluate,
    evaluate_main,
    load_recipe,
    plan,
    protocols,
    resume_protocol,
    run_protocol,
    train_main,
)
from tfdml.experiments.builders import load_data, split
from tfdml.experiments.run_folder import read_embeddings, read_json, write_embeddings
from tfdml.metrics import retrieval_metrics

SHORT = {
    "training.max_validations": 1,
    "training.steps_per_validation": 2,
    "evaluation.figures": False,
    "data.test_classes": "published",
    "batches.classes": 2,
}


def make_recipe(head_changes, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe("features", {**head_changes, **SHORT, **changes})


@pytest.fixture(scope="module")
def fair(tmp_path_factory, head_changes):
    """A finished fair protocol with two repeats of two folds, and its recipe."""
    recipe = make_recipe(head_changes, protocol__name="fair", protocol__folds=2, protocol__repeats=2)
    return run_protocol(recipe, tmp_path_factory.mktemp("protocols") / "fair", verbose=0), recipe


@pytest.fixture
def summed_up(tmp_path):
    """Folder of a fair protocol with two repeats of two folds whose runs have results, and its recipe."""
    recipe = load_recipe("gap", {"protocol.name": "fair", "protocol.folds": 2, "protocol.repeats": 2})
    folder, rng = protocols.ProtocolFolder.create(recipe, tmp_path / "fair"), np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 6)
    for run in plan(recipe):
        of_run = RunFolder(folder.runs / run.name)
        of_run.path.mkdir(parents=True)
        embeddings = rng.normal(size=(30, 3)).astype("float32") + np.eye(5, 3, dtype="float32")[labels]
        write_embeddings(of_run.test_embeddings, embeddings, labels)
        write_json(of_run.test_metrics, {"test": retrieval_metrics(embeddings, labels)})
    return folder, recipe


@pytest.mark.parametrize(
    ("name", "repeats", "count", "train", "validation", "test"),
    [
        ("fair", 3, 12, 75, 25, 100),
        ("conventional", 2, 2, 100, 100, 100),
        ("cross_validation", 1, 10, 90, 10, 100),
        ("fixed_validation", 2, 2, 90, 10, 100),
    ],
)
def test_the_runs_of_a_protocol(name, repeats, count, train, validation, test):
    names = tuple(map(str, range(200)))
    images = data.LabeledImages(np.zeros((400, 2, 2, 1), np.uint8), np.arange(400) % 200, names)
    changes = {"data.test_classes": "published", "data.split_seed": None}
    runs = plan(load_recipe("gap", {"protocol": {"name": name, "repeats": repeats}, **changes}))
    assert len(runs) == count == len({run.name for run in runs}) == len({run.recipe.seed for run in runs})
    held_out = []
    for run in runs:
        assert run.recipe.protocol.name == "single" and run.recipe.evaluation.keep_embeddings
        splits = split(dataclasses.replace(run.recipe.data, split_seed=None), images)
        assert [part.num_classes for part in splits] == [train, validation, test]
        splits = split(run.recipe.data, images)
        assert set(splits.test.class_names) == {str(label) for label in range(100, 200)}
        held_out.append(splits.validation.class_names)
    if name in ("fair", "cross_validation"):
        of_one_repeat = held_out[: count // repeats]
        assert sorted(map(int, itertools.chain(*of_one_repeat))) == list(range(100))
    if name == "fair":
        assert held_out[1] == tuple(str(label) for label in range(25, 50))
    if name == "cross_validation":
        assert held_out[0] != tuple(str(label) for label in range(10)), "in random order"
    if name == "fixed_validation":
        assert held_out[0] == tuple(str(label) for label in range(90, 100))


def test_a_single_run_has_no_plan():
    with pytest.raises(ValueError, match="single"):
        plan(load_recipe("gap"))


@pytest.mark.integration
def test_the_fair_protocol_leaves_its_files(fair):
    result, recipe = fair
    assert result.summary == read_json(result.folder / "summary.json")
    assert sorted(path.name for path in (result.folder / "runs").iterdir()) == [run.name for run in plan(recipe)]
    facts = {key: result.summary[key] for key in ("protocol", "data", "folds", "repeats", "evaluations")}
    assert facts == {"protocol": "fair", "data": "features", "folds": 2, "repeats": 2, "evaluations": 4}
    assert not result.summary["monitors_test_classes"] and len(result.summary["recipe_hash"]) == 12


def test_means_and_deviations_are_over_all_ways_to_take_a_run_of_each_fold(summed_up):
    folder, recipe = summed_up
    summary = protocols.summarize(recipe, folder)
    facts = {key: summary[key] for key in ("protocol", "folds", "repeats", "evaluations", "monitors_test_classes")}
    assert facts == {"protocol": "fair", "folds": 2, "repeats": 2, "evaluations": 4, "monitors_test_classes": False}
    separate, ensemble = [], []
    for first, second in itertools.product(("repeat0-fold0", "repeat1-fold0"), ("repeat0-fold1", "repeat1-fold1")):
        files = [np.load(folder.runs / name / "test_embeddings.npz") for name in (first, second)]
        of_each = [retrieval_metrics(file["embeddings"], file["labels"])["map_at_r"] for file in files]
        separate.append(np.mean(of_each))
        together = np.hstack([file["embeddings"] for file in files])
        ensemble.append(retrieval_metrics(together, files[0]["labels"])["map_at_r"])
    for kind, values in (("separate", separate), ("ensemble", ensemble)):
        found = summary["metrics"][kind]["map_at_r"]
        expected = {"mean": np.mean(values), "deviation": np.std(values), "best": np.max(values)}
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.integration
def test_a_finished_protocol_is_not_repeated(fair):
    times = {path: path.stat().st_mtime_ns for path in fair[0].folder.rglob("*") if path.is_file()}
    again = resume_protocol(fair[0].folder)
    assert again.summary == fair[0].summary
    assert times == {path: path.stat().st_mtime_ns for path in fair[0].folder.rglob("*") if path.is_file()}


@pytest.mark.integration
def test_an_interrupted_protocol_goes_on_to_the_same_end(fair, tmp_path):
    shutil.copytree(fair[0].folder, tmp_path / "fair")
    (tmp_path / "fair" / "summary.json").unlink()
    # Killed in the third run, right after its folder was created.
    for name in ("repeat1-fold0", "repeat1-fold1"):
        shutil.rmtree(tmp_path / "fair" / "runs" / name)
    (tmp_path / "fair" / "runs" / "repeat1-fold0").mkdir()
    finished = tmp_path / "fair" / "runs" / "repeat0-fold1" / "test_metrics.json"
    before = finished.stat().st_mtime_ns
    result = resume_protocol(tmp_path / "fair", verbose=0)
    assert finished.stat().st_mtime_ns == before
    assert result.summary == fair[0].summary


def test_nothing_is_written_over_or_without_data(summed_up, head_changes, tmp_path):
    with pytest.raises(RunFolderError, match="exists already"):
        run_protocol(summed_up[1], summed_up[0].path)
    recipe = make_recipe(head_changes, protocol__name="fair", data__options={"path": str(tmp_path / "none")})
    with pytest.raises(InputError, match="none"):
        run_protocol(recipe, tmp_path / "protocol")
    assert not (tmp_path / "protocol").exists()
    with pytest.raises(RunFolderError, match="not a protocol"):
        resume_protocol(tmp_path)


@pytest.mark.integration
def test_the_conventional_protocol_judges_by_the_test_classes(head_changes, tmp_path):
    recipe = make_recipe(head_changes, protocol__name="conventional", training__monitor="precision_at_1")
    result = run_protocol(recipe, tmp_path / "conventional", verbose=0)
    run = read_json(tmp_path / "conventional" / "runs" / "repeat0" / "test_metrics.json")
    assert run["validation"]["precision_at_1"] == pytest.approx(run["test"]["precision_at_1"])
    assert result.summary["monitors_test_classes"] and set(result.summary["metrics"]) == {"separate"}
    assert result.summary["metrics"]["separate"]["recall_at_2"]["deviation"] is None
    of_run = RunFolder(tmp_path / "conventional" / "runs" / "repeat0").load_recipe()
    parts = load_data(of_run)
    assert parts.validation.class_names == parts.test.class_names and not set(parts.train.class_names) & set(
        parts.test.class_names
    )


@pytest.mark.integration
def test_the_commands_run_resume_and_judge_as_one(tiny_arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Of the cheapest kind of run.
    short = {**SHORT, "model.pooling": "gap", "references.name": "batch", "ccp.enabled": False}
    short = [part for key, value in short.items() for part in (f"--{key}", str(value).lower())]
    arguments = [*tiny_arguments, *short, "--protocol.name", "fair", "--protocol.folds", "2", "--out", "fair"]
    assert train_main([*arguments, "--verbose", "0"]) == 0
    shown = capsys.readouterr().out
    assert "Protocol fair: 1 evaluation\n" in shown and "ensemble" in shown
    assert train_main(["--resume", "fair"]) == 0
    assert "Protocol fair" in capsys.readouterr().out
    summary = json.loads((tmp_path / "fair" / "summary.json").read_text())
    runs = [f"fair/runs/repeat0-fold{fold}" for fold in range(2)]
    assert evaluate_main([*runs, "--ensemble", "--no-figures", "--out", "evaluated"]) == 0
    shown = capsys.readouterr().out
    assert "2 networks as one" in shown and f"{summary['metrics']['ensemble']['map_at_r']['mean']:.4f}" in shown
    assert json.loads((tmp_path / "evaluated" / "metrics.json").read_text())["ensemble"] == runs
    assert evaluate_main([*runs, "--no-figures"]) == 0
    assert capsys.readouterr().out.count("Files: ") == 2
    saved = evaluate([f"{run}/saved_model" for run in runs], "digits", split="all")
    assert (saved.folder / "figures" / "nearest_neighbors.png").exists()


@pytest.mark.integration
def test_an_ensemble_of_saved_models(fair, stored_features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [fair[0].folder / "runs" / f"repeat0-fold{fold}" for fold in range(2)]
    ours = evaluate(runs, str(stored_features), split="all", figures=False)
    theirs = evaluate([run / "saved_model" for run in runs], str(stored_features), split="all", figures=False)
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-6)


@pytest.mark.integration
def test_an_ensemble_needs_the_same_classes(fair, head_run, tmp_path, capsys):
    runs = [fair[0].folder / "runs" / f"repeat0-fold{fold}" for fold in range(2)]
    with pytest.raises(InputError, match="same validation classes.*data.fold=1"):
        evaluate(runs, split="validation", out=tmp_path / "a")
    with pytest.raises(InputError, match="same test classes.*data.test_classes"):
        evaluate([*runs, head_run.folder], out=tmp_path / "a")
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([], out=tmp_path / "a")
    with pytest.raises(SystemExit):
        evaluate_main([*map(str, runs), "--out", str(tmp_path / "a")])
    assert "One folder for several" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_runs_with_other_test_images_are_no_ensemble(summed_up):
    folder, recipe = summed_up
    path = folder.runs / "repeat1-fold1" / "test_embeddings.npz"
    embeddings, labels, _ = read_embeddings(path)
    write_embeddings(path, embeddings, labels[::-1])
    with pytest.raises(RunFolderError, match="same test images.*repeat1-fold1"):
        protocols.summarize(recipe, folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFolderError, match="cannot be read"):
        protocols.summarize(recipe, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.fold": 0, "data.validation_classes": "test"}, "one of the two"),
        ({"data.fold": 4}, "0 <= fold < folds=4"),
        ({"data.folds": 1}, "at least 2"),
        ({"data.fold": 0, "protocol.name": "fair"}, "sets the fold of each run"),
        ({"protocol.repeats": 2}, "protocol.repeats=2"),
        ({"protocol.repeats": 0}, "at least 1"),
        ({"protocol.folds": 3}, "Expected: null"),
        ({"protocol.name": "conventional", "protocol.folds": 3}, "Expected: null"),
        ({"protocol.name": "unfair"}, "unfair"),
        ({"data.test_classes": "half"}, "half"),
        ({"optimizer.plateau_patience": 0}, "at least 1, or null"),
        ({"optimizer.plateau_factor": 1.0}, "0 < plateau_factor < 1"),
        ({"optimizer.plateau_patience": 3, "optimizer.decay_epochs": 2}, "by a schedule or on a plateau"),
        ({"training.monitor": "accuracy"}, "accuracy"),
        ({"name": "a/../b"}, "text that can name a folder"),
    ],
)
def test_contradictory_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("gap", changes)
