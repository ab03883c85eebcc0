"""From a frozen network to a trained head: extraction, recipe, run, evaluation."""

import csv
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import yaml

from tfdml.data import features, load, split_classes
from tfdml.experiments import (
    InputError,
    RunFolder,
    RunFolderError,
    evaluate,
    evaluate_main,
    load_recipe,
    resume,
    train,
    train_main,
)
from tfdml.experiments.extraction import extract_features
from tfdml.experiments.runner import result_of
from tfdml.export import export_saved_model, load_saved_model
from tfdml.metrics import retrieval_metrics
from tfdml.models import embed


def test_a_run_leaves_its_files(head_run):
    folder = head_run.folder
    for name in ("best.weights.h5", "embedder.keras", "history.csv", "saved_model", "state.npz"):
        assert (folder / name).exists()
    recipe = RunFolder.open(folder).load_recipe()
    assert recipe.model.head.input_size == 24 and recipe.data.size is None and recipe.data.channels is None
    assert head_run.embedder.get_layer("hidden_1").units == 16


@pytest.mark.integration
def test_figures_and_a_folder_of_any_name(head_changes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    changes = {**head_changes, "training.max_validations": 1, "evaluation.figures": True}
    done = train(load_recipe("features", changes), "~/run [v2]*?{a}", verbose=0)
    figures = sorted(path.name for path in (tmp_path / "run [v2]*?{a}" / "figures").iterdir())
    assert figures == ["embedding_map.png", "training_curve.png"]
    assert resume("~/run [v2]*?{a}", max_validations=2, verbose=0).training["epochs"] == 2
    path = changes["data.options.path"]
    ours, theirs = (evaluate(f"~/run [v2]*?{{a}}{end}", path, figures=False) for end in ("", "/saved_model"))
    assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-5)
    assert ours.folder.parent == done.folder / "evaluations"
    changes["model.first_weights"] = "~/run [v2]*?{a}/best.weights.h5"
    train(load_recipe("features", changes), "b", verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "evaluations", "run [v2]*?{a}"]


def test_the_result_of_a_recipe_is_taken_from_its_folder(head_run, head_changes):
    """The recipe in the folder is complete: it also has the size of the features."""
    path = pathlib.Path(head_changes["data.options.path"])
    recipe = load_recipe("features", {**head_changes, "data.options.path": path})
    assert result_of(recipe, head_run.folder).test == head_run.test
    for key, value in (("model.head.input_size", 23), ("seed", 1)):
        with pytest.raises(RunFolderError, match="a run of another recipe"):
            result_of(load_recipe("features", {**head_changes, key: value}), head_run.folder)


def test_the_metrics_are_those_of_the_head_on_unseen_classes(head_run, stored_features):
    test = split_classes(features(stored_features), 0.2, 0.3, seed=0).test
    expected = retrieval_metrics(embed(head_run.embedder, test.read(slice(None))), test.labels)
    assert head_run.test["map_at_r"] == pytest.approx(float(expected["map_at_r"]), abs=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize(
    "more",
    [
        {
            "loss.name": "c1", "references.name": "batch", "loss.miner.name": "semi_hard",
            "training.average_momentum": 0.9, "model.head.batch_normalization": True,
        },  # fmt: skip
        {
            "loss.name": "soft_triple", "references.name": "proxies", "references.per_class": 2,
            "optimizer.proxy_learning_rate_multiplier": 10.0, "training.precision": "mixed_bfloat16",
        },
    ],
    ids=lambda more: more["loss.name"],
)
def test_losses_and_references(head_changes, tmp_path, more):
    changes = {**head_changes, **more, "training.max_validations": 1}
    result = train(load_recipe("features", changes), tmp_path / "run", verbose=0)
    assert 0 < result.test["map_at_r"] <= 1


class _Stop(Exception):
    pass


class _StopAfter(keras.callbacks.Callback):
    """Stops training in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 10:
            raise _Stop


@pytest.mark.integration
def test_a_resumed_run_ends_like_the_uninterrupted_one(head_changes, head_run, tmp_path):
    recipe = load_recipe("features", head_changes)
    with pytest.raises(_Stop):
        train(recipe, tmp_path / "run", extra_callbacks=[_StopAfter()], verbose=0)
    result = resume(tmp_path / "run", verbose=0)
    assert result.test == head_run.test
    for ours, theirs in zip(result.embedder.get_weights(), head_run.embedder.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    histories = []
    for folder in (result.folder, head_run.folder):
        with open(folder / "history.csv", newline="") as file:
            histories.append(list(csv.reader(file)))
    assert histories[0] == histories[1] and len(histories[0]) == 4


@pytest.mark.integration
def test_a_resumed_run_with_ccp_ends_like_the_uninterrupted_one(head_changes, tmp_path):
    changes = {
        **head_changes, "references.name": "proxies_and_memory", "references.per_class": 2, "ccp.enabled": True,
        "ccp.patience": 1, "ccp.pool_size": 4, "training.geometry": True, "training.max_validations": 4,
        "model.head.batch_normalization": True,
    }  # fmt: skip
    recipe = load_recipe("features", changes)
    whole = train(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(_Stop):
        train(recipe, tmp_path / "run", extra_callbacks=[_StopAfter()], verbose=0)
    result = resume(tmp_path / "run", verbose=0)
    assert (result.test, result.validation) == (whole.test, whole.validation)
    assert (tmp_path / "run" / "history.csv").read_text() == (tmp_path / "whole" / "history.csv").read_text()
    assert whole.training["projections"] > 1 and (tmp_path / "run" / "projections.csv").exists()


def test_evaluation_of_a_run(head_run, stored_features, tmp_path):
    again = evaluate(head_run.folder, out=tmp_path / "again", figures=False)
    assert again.metrics["map_at_r"] == pytest.approx(head_run.test["map_at_r"], abs=1e-6)
    # A folder of features is recognized by its file; weights exist before the run is finished.
    shutil.copytree(head_run.folder, tmp_path / "run")
    (tmp_path / "run" / "embedder.keras").unlink()
    whole = evaluate(tmp_path / "run", str(stored_features), out=tmp_path / "whole", figures=False)
    assert (whole.data, whole.split, whole.images) == ("digits", "all", 1797)


def test_evaluation_of_the_saved_model(head_run, stored_features, tmp_path, capsys):
    path = head_run.folder / "saved_model"
    saved = load_saved_model(path)
    values = features(stored_features).read(slice(0, 20))
    np.testing.assert_allclose(saved.embed(values), embed(head_run.embedder, values), atol=1e-5)
    arguments = ["--data", "features", "--options.path", str(stored_features), "--split", "test", "--split_seed", "0"]
    assert evaluate_main([str(path), *arguments, "--no-figures", "--out", str(tmp_path / "out")]) == 0
    assert "digits, test classes" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["map_at_r"] == pytest.approx(head_run.test["map_at_r"], abs=1e-4)


def test_what_does_not_fit_a_head(head_run, stored_features, tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((4, 7), "float32"))
    np.save(tmp_path / "labels.npy", np.array([0, 0, 1, 1]))
    for path in (head_run.folder, head_run.folder / "saved_model"):
        with pytest.raises(InputError, match="these data. Received: LabeledImages.*Expected: features of 24 numbers"):
            evaluate(path, "digits", out=tmp_path / "out")
        with pytest.raises(InputError, match=r"Received: LabeledFeatures.*\(of 7\).*Expected: features of 24 numbers"):
            evaluate(path, str(tmp_path), out=tmp_path / "out")
    inputs = keras.Input((8, 8, 1))
    export_saved_model(keras.Model(inputs, keras.layers.Flatten()(inputs)), tmp_path / "of images")
    with pytest.raises(InputError, match="Received: LabeledFeatures.*Expected: images"):
        evaluate(tmp_path / "of images", str(stored_features), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="This network is a head for features"):
        extract_features(head_run.folder, load("digits"), tmp_path / "out")


def test_the_command(head_changes, tmp_path, capsys):
    arguments = [part for key, value in head_changes.items() for part in (f"--{key}", str(value))]
    assert train_main(["features", *arguments, "--model.head.hidden", "[16, 8]", "--print-recipe"]) == 0
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert recipe["model"]["head"]["hidden"] == [16, 8] and recipe["data"]["options"] == {
        "path": head_changes["data.options.path"]
    }
    with pytest.raises(SystemExit):
        train_main(["features", "--out", str(tmp_path / "none")])
    assert "Dataset 'features' needs the option 'path'" in capsys.readouterr().err
    wrong = ["--model.head.activation", "rellu", "--model.head.hidden", "[8]"]
    with pytest.raises(SystemExit):
        train_main(["features", *arguments, *wrong, "--out", str(tmp_path / "none")])
    assert "rellu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train_main(["features", *arguments, "--model.head.input_size", "7", "--out", str(tmp_path / "none")])
    assert "model.head.input_size=7 with features of 24 numbers" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
