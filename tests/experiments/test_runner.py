import csv
import errno
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_backbone

from tfdml._utils import files
from tfdml._utils.plain_files import write_json
from tfdml.experiments import (
    InputError,
    NonFiniteLossError,
    RunFolder,
    RunFolderError,
    load_recipe,
    resume,
    train,
    train_main,
)
from tfdml.experiments.run_folder import read_json

_FILES = [
    "best.weights.h5",
    "embedder.keras",
    "environment.json",
    "history.csv",
    "recipe.yaml",
    "saved_model/saved_model.pb",
    "state.npz",
    "test_metrics.json",
    "train.log",
    "untrained_metrics.json",
]
_OF_IMAGES = [
    "projections.csv",
    "figures/training_curve.png",
    "figures/embedding_map.png",
    "figures/nearest_neighbors.png",
    "figures/pooling_maps.png",
]


def _history(path):
    with open(path / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def _weights(path):
    return keras.models.load_model(path / "embedder.keras", compile=False).get_weights()


def _without_time(path):
    metrics = read_json(path / "test_metrics.json")
    del metrics["training"]["seconds"]
    return metrics


def _assert_same_end(path, other):
    assert (path / "history.csv").read_text() == (other / "history.csv").read_text()
    for ours, theirs in zip(_weights(path), _weights(other)):
        np.testing.assert_array_equal(ours, theirs)
    assert _without_time(path) == _without_time(other)


@pytest.mark.integration
def test_a_run_on_images_leaves_its_files(finished_run):
    path = finished_run.folder
    assert all((path / name).stat().st_size > 0 for name in [*_FILES, *_OF_IMAGES])
    recipe = RunFolder.open(path).load_recipe()
    assert recipe.model.backbone == "tiny" and recipe.data.channels == 1
    assert {"loss", "val_map_at_r", "projection", "covering_radius"} <= set(_history(path)[0])


def test_a_run_leaves_its_files(head_run):
    path = head_run.folder
    assert all((path / name).stat().st_size > 0 for name in _FILES)
    assert list((path / "tensorboard").iterdir())
    assert not [file for file in path.rglob("*") if "partial" in file.name]


def test_the_history_has_a_row_for_each_validation(head_run):
    rows = _history(head_run.folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [(str(n), str(4 * n)) for n in range(1, 4)]
    assert {"loss", "val_map_at_r"} <= set(rows[0])
    best = max(rows, key=lambda row: float(row["val_map_at_r"]))
    assert head_run.validation == {
        "map_at_r": float(best["val_map_at_r"]),
        "epoch": int(best["epoch"]),
    }


def test_the_result_is_that_of_the_best_weights(head_run):
    path = head_run.folder
    assert read_json(path / "test_metrics.json")["test"] == head_run.test
    assert {"map_at_r", "precision_at_1", "recall_at_8", "queries"} <= set(head_run.test)
    assert head_run.untrained == read_json(path / "untrained_metrics.json")
    embedder = keras.models.clone_model(head_run.embedder)
    embedder.load_weights(path / "best.weights.h5")
    for kept, final in zip(embedder.get_weights(), _weights(path)):
        np.testing.assert_array_equal(kept, final)


def test_tensorboard_can_read_the_log(head_run):
    (file,) = (head_run.folder / "tensorboard").iterdir()
    values = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            values[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for row in _history(head_run.folder):
        np.testing.assert_allclose(
            values["val_map_at_r", int(row["step"])], float(row["val_map_at_r"]), rtol=1e-6
        )


def test_an_existing_folder_is_left_alone(tmp_path, head_changes):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        train("features", tmp_path, overrides=head_changes)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


_KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import keras, tiny_backbone
from tfdml.experiments import train

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        # By now there is state to restore: new proxies, and weights of a solved problem.
        if int(self.model.projection) >= 1 and batch == 2:
            os.kill(os.getpid(), signal.SIGKILL)

with tiny_backbone.registered():
    train("digits-quick", sys.argv[1], overrides=tiny_backbone.CHANGES, extra_callbacks=[Kill()], verbose=0)
"""


@pytest.mark.integration
def test_a_killed_run_ends_like_the_uninterrupted_one(tmp_path, finished_run, request, capsys):
    path = tmp_path / "killed"
    code = _KILLED.format(here=str(pathlib.Path(__file__).parents[1] / "helpers"))
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    killed = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    assert killed.returncode < 0
    done = len(_history(path))
    assert 1 < done < 5 and not (path / "test_metrics.json").exists()
    # As if it was killed between writing the history and the backup.
    with open(path / "history.csv", "a") as file:
        file.write(f"{done + 1},0,0.5\n")
    assert train_main(["--resume", str(path), "--verbose", "0"]) == 0
    assert f"Resuming after {done} validations." in capsys.readouterr().out
    _assert_same_end(path, finished_run.folder)


@pytest.mark.integration
def test_a_run_killed_before_its_first_validation_begins_anew(tmp_path, head_run):
    """Also a second run of the same recipe in this process, which must not differ."""
    path = tmp_path / "begun"
    RunFolder.create(RunFolder.open(head_run.folder).load_recipe(), path)
    handlers = list(logging.getLogger("tfdml").handlers)
    _assert_same_end(resume(path, verbose=0).folder, head_run.folder)
    assert logging.getLogger("tfdml").handlers == handlers


def test_a_run_killed_after_training_gets_its_results(tmp_path, head_run):
    path = tmp_path / "trained"
    shutil.copytree(head_run.folder, path)
    for name in ("test_metrics.json", "embedder.keras", "best.weights.h5"):
        (path / name).unlink()
    shutil.rmtree(path / "saved_model")
    state = (path / "state.npz").read_bytes()
    result = resume(path, verbose=0)
    assert all((path / name).exists() for name in _FILES)
    assert result.test == head_run.test
    _assert_same_end(path, head_run.folder)
    assert (path / "state.npz").read_bytes() == state


@pytest.mark.integration
def test_early_stopping_is_remembered(tmp_path, head_changes):
    """A kill right after the last backup must not add a validation."""
    changes = {
        **head_changes, "training.patience": 1, "training.max_validations": 30,
        "optimizer.learning_rate": 0.5,
    }  # fmt: skip
    result = train("features", tmp_path / "run", overrides=changes, verbose=0)
    assert result.training["epochs"] == result.validation["epoch"] + 1 < 30
    (tmp_path / "run" / "test_metrics.json").unlink()
    again = resume(tmp_path / "run", verbose=0)
    assert (again.training, again.test) == (result.training, result.test)


def test_resuming_a_finished_run_tells_its_result(head_run, capsys):
    before = {file: file.stat().st_mtime_ns for file in head_run.folder.rglob("*")}
    assert train_main(["--resume", str(head_run.folder)]) == 0
    shown = capsys.readouterr().out
    assert "This run is finished" in shown and f"{head_run.test['map_at_r']:.4f}" in shown
    assert {file: file.stat().st_mtime_ns for file in head_run.folder.rglob("*")} == before
    assert resume(head_run.folder).test == head_run.test


def test_a_backup_of_another_recipe_is_refused(tmp_path, head_run):
    path = tmp_path / "mixed"
    shutil.copytree(head_run.folder, path)
    (path / "test_metrics.json").unlink()
    recipe = (path / "recipe.yaml").read_text()
    (path / "recipe.yaml").write_text(recipe.replace("embedding_size: 8", "embedding_size: 9"))
    with pytest.raises(RunFolderError, match="changed after the run began"):
        resume(path, verbose=0)
    # Like a run of an earlier version.
    environment = read_json(path / "environment.json")
    del environment["recipe_digest"]
    write_json(path / "environment.json", environment)
    with pytest.raises(InputError, match="backup of another model"):
        resume(path, verbose=0)


def test_a_damaged_state_is_named(tmp_path, head_run):
    path = tmp_path / "damaged"
    shutil.copytree(head_run.folder, path)
    (path / "test_metrics.json").unlink()
    with np.load(path / "state.npz") as arrays:
        arrays = dict(arrays)
    content = json.loads(str(arrays["content"]))
    for damage in (b"", b"garbage", "[]", json.dumps({**content, "callbacks": [{}] * len(content["callbacks"])})):
        if isinstance(damage, bytes):
            (path / "state.npz").write_bytes(damage)
        else:
            np.savez(path / "state.npz", **{**arrays, "content": np.array(damage)})
        with pytest.raises(RunFolderError, match="state of the training cannot be read: .*state.npz.*from the start"):
            resume(path, verbose=0)


def test_damaged_results_are_made_again(tmp_path, head_run):
    path = tmp_path / "damaged"
    shutil.copytree(head_run.folder, path)
    names = ("best.weights.h5", "embedder.keras", "saved_model/saved_model.pb", "test_metrics.json", "environment.json")
    for name in names:
        (path / name).write_bytes((path / name).read_bytes()[:40] if name == "embedder.keras" else b"")
    (path / "untrained_metrics.json").write_text("null")
    (path / ".saved_model.0a.unfinished").mkdir()
    assert resume(path, verbose=0).test == head_run.test
    _assert_same_end(path, head_run.folder)
    log = (path / "train.log").read_text()
    assert "Test MAP@R" in log and not (path / ".saved_model.0a.unfinished").exists()
    assert RunFolder(path).damaged_results() == [] and read_json(path / "environment.json")["recipe_digest"]
    embedder = keras.models.clone_model(head_run.embedder)
    embedder.load_weights(path / "best.weights.h5")
    for ours, theirs in zip(embedder.get_weights(), _weights(path)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.integration
def test_a_full_disk_stops_a_run_in_one_line(tmp_path, head_arguments, head_run, monkeypatch, capsys):
    path, sync = tmp_path / "run", files._sync

    def fill(partial):
        if partial.name.endswith("state.npz") and (path / "state.npz").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
        sync(partial)

    monkeypatch.setattr("tfdml._utils.files._sync", fill)
    with pytest.raises(SystemExit) as ended:
        train_main([*head_arguments, "--out", str(path), "--verbose", "0"])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and "Traceback" not in shown.out + shown.err
    assert shown.err.count("\n") == 1 and f"No space left on device: {path}" in shown.err
    assert f"continue with --resume {path}" in shown.err and not list(path.glob(".partial*"))
    monkeypatch.undo()
    assert resume(path, verbose=0).test == head_run.test
    _assert_same_end(path, head_run.folder)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path, head_run):
    path = tmp_path / "run"
    shutil.copytree(head_run.folder, path)
    (path / "test_metrics.json").unlink()
    with RunFolder(path).lock(), pytest.raises(RunFolderError, match="Another process is writing to"):
        resume(path, verbose=0)


def test_the_other_line_of_keras_and_other_cpus(tmp_path, head_run):
    path = tmp_path / "run"
    shutil.copytree(head_run.folder, path)
    (path / "test_metrics.json").unlink()
    environment = read_json(path / "environment.json")
    other = "2.15.0" if keras.__version__.startswith("3") else "3.9.0"
    write_json(path / "environment.json", {**environment, "packages": {**environment["packages"], "keras": other}})
    with pytest.raises(RunFolderError, match=f"began with Keras {other}.*Received: {path}. Expected: Keras {other[0]}"):
        resume(path, verbose=0)
    write_json(path / "environment.json", {**environment, "cpus": environment["cpus"] + 6})
    resume(path, verbose=0)
    assert f"other cpus ({environment['cpus'] + 6}, now {environment['cpus']})" in (path / "train.log").read_text()


@pytest.mark.integration
def test_a_prolonged_run_ends_like_one_that_began_so(tmp_path, head_changes, head_run, head_arguments, capsys):
    path = tmp_path / "prolonged"
    shutil.copytree(head_run.folder, path)
    with pytest.raises(SystemExit):
        train_main(["--resume", str(path), "--training.max_validations", "5", "--seed", "1"])
    assert "no recipe, --out, presets or changes except --training.max_validations" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match="training.max_validations=2. Expected: at least 3"):
        resume(path, max_validations=2)
    _assert_same_end(path, head_run.folder)
    assert train_main(["--resume", str(path), "--training.max_validations", "5", "--verbose", "0"]) == 0
    train("features", tmp_path / "long", overrides={**head_changes, "training.max_validations": 5}, verbose=0)
    _assert_same_end(path, tmp_path / "long")
    for name in ("recipe.yaml", "projections.csv", "untrained_metrics.json"):
        ours, theirs = path / name, tmp_path / "long" / name
        assert ours.exists() == theirs.exists() and (not ours.exists() or ours.read_text() == theirs.read_text())


class _Spoil(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.embedder.set_weights([np.zeros_like(weight) for weight in self.model.embedder.get_weights()])


@pytest.mark.integration
def test_a_training_that_does_not_help_keeps_the_untrained_weights(tmp_path, head_changes, capsys):
    changes = {**head_changes, "data.validation_classes": 0.3}
    path = tmp_path / "run"
    result = train("features", path, overrides=changes, extra_callbacks=[_Spoil()], verbose=0)
    assert result.test == result.untrained
    untrained = read_json(path / "untrained_validation.json")["map_at_r"]
    assert result.validation == {"map_at_r": untrained, "epoch": 0}
    rows = _history(path)
    assert len(rows) == 3 and max(float(row["val_map_at_r"]) for row in rows) < untrained
    log = (path / "train.log").read_text()
    assert "TRAINING DID NOT HELP: no validation was better than the untrained network" in log
    for name in ("best.weights.h5", "test_metrics.json"):
        (path / name).unlink()
    again = resume(path, verbose=0)
    assert (again.test, again.validation) == (result.test, result.validation)
    embedder = keras.models.clone_model(again.embedder)
    embedder.load_weights(path / "best.weights.h5")
    for kept, final in zip(embedder.get_weights(), _weights(path)):
        np.testing.assert_array_equal(kept, final)


class _Explode(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.optimizer.learning_rate.assign(1e30)


@pytest.mark.integration
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_best_weights(tmp_path, head_changes):
    path = tmp_path / "run"
    changes = {**head_changes, "optimizer.global_clipnorm": None}
    with pytest.raises(
        NonFiniteLossError, match=r"at step (9|10|11|12)\. The best weights .* are in"
    ) as error:
        train("features", path, overrides=changes, extra_callbacks=[_Explode()], verbose=0)
    rows = _history(path)
    best = max(range(2), key=lambda row: float(rows[row]["val_map_at_r"]))
    assert f"after validation {best + 1})" in str(error.value)
    assert read_json(path / "failure.json")["message"] == str(error.value)
    assert str(error.value) in (path / "train.log").read_text()
    embedder = keras.models.clone_model(_embedder_like(path))
    embedder.load_weights(path / "best.weights.h5")
    assert all(np.isfinite(weight).all() for weight in embedder.get_weights())
    assert not (path / "test_metrics.json").exists()
    with pytest.raises(RunFolderError, match="cannot be resumed: The loss is not finite at step"):
        resume(path)


def _embedder_like(path):
    from tfdml.experiments import builders

    recipe = RunFolder.open(path).load_recipe()
    return builders.restore_embedder(recipe, path / "best.weights.h5")


def test_the_command_tells_of_a_loss_that_is_no_number(head_arguments, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise NonFiniteLossError("The loss is not finite at step 1.")

    monkeypatch.setattr("tfdml.experiments.runner.train", fail)
    assert train_main([*head_arguments, "--verbose", "0"]) == 1
    assert capsys.readouterr().err == "Training stopped: The loss is not finite at step 1.\n"


@pytest.mark.integration
def test_a_loss_that_is_no_number_before_the_first_validation(tmp_path, head_changes):
    changes = {**head_changes, "optimizer.learning_rate": 1e30}
    with pytest.raises(NonFiniteLossError, match="at step [1-4].*no best weights"):
        train("features", tmp_path / "run", overrides=changes, verbose=0)


def test_an_interruption_by_the_user(tmp_path, head_arguments, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfdml.models.MetricModel.fit", interrupt)
    assert train_main([*head_arguments, "--out", str(tmp_path / "run"), "--verbose", "0"]) == 130
    shown = capsys.readouterr()
    assert shown.err == f"\nInterrupted. Continue with --resume {tmp_path / 'run'}\n" and "Traceback" not in shown.out
    assert "KeyboardInterrupt" in (tmp_path / "run" / "train.log").read_text()


@pytest.fixture
def no_saved_model(monkeypatch):
    """Runs export nothing, which takes a third of their time; other runs here do, and tests/export."""
    monkeypatch.setattr("tfdml.experiments.runner.export_saved_model", lambda *arguments, **options: None)


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {"ccp.enabled": False, "references.name": "batch", "model.pooling": "gap", "optimizer.name": "sgd"},
        {"ccp.enabled": False, "optimizer.name": "adamw", "model.gsp.start": "random", "loss.name": "c1"},
        {"training.precision": "mixed_float16", "augmentation.rotation": 10.0, "model.normalization": "none"},
        {
            "references.name": "proxies_and_memory", "references.memory_size": 20, "references.memory_warmup": 1,
            "optimizer.proxy_learning_rate_multiplier": 10.0, "optimizer.l2_weight_decay": 1e-4,
            "optimizer.warmup_epochs": 0.02, "optimizer.decay_epochs": 0.03, "loss.miner.name": "hard",
            "zero_shot.enabled": True,
        },
        {"model.pooling": "netvlad", "model.pooling_options": {"prototypes": 3, "channels": 2}},
        {"model.pooling": "gap", "zero_shot.enabled": True, "ccp.enabled": False},
    ],
    ids=[
        "gap in the batch, sgd", "proxies without ccp, adamw", "mixed precision, augmentation", "all details",
        "an embedding of the pooling's size", "attributes of the average",
    ],
)
def test_other_recipes(tmp_path, tiny_changes, changes, no_saved_model):
    changes = {**tiny_changes, "training.max_minutes": 1e-6, "evaluation.figures": False, **changes}
    recipe = load_recipe("digits-quick", changes)
    policy = keras.mixed_precision.global_policy().name
    result = train(recipe, tmp_path / "run", verbose=0)
    assert keras.mixed_precision.global_policy().name == policy
    assert 0 < result.test["map_at_r"] <= 1
    assert ("projections" in result.training) == recipe.ccp.enabled
    # The time is up after the first of five validations.
    assert result.training["epochs"] == 1
    assert not (tmp_path / "run" / "figures").exists()


@pytest.mark.integration
def test_prototypes_after_a_warm_up(tmp_path, tiny_changes, no_saved_model):
    changes = {
        **tiny_changes, "model.gsp.start": "warmup", "model.gsp.warmup_validations": 2, "training.max_validations": 4,
        "evaluation.figures": False,
    }  # fmt: skip
    result = train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
    assert result.validation["epoch"] > 2
    assert result.embedder.get_layer("pooling").ratio == load_recipe("digits-quick").model.gsp.ratio
    assert "Prototypes initialized after 2 epochs" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.integration
def test_prototypes_among_pooled_features(tmp_path, tiny_changes, no_saved_model):
    changes = {
        **tiny_changes, "model.gsp.start": "pooled", "training.max_validations": 2, "evaluation.figures": False,
        "model.gsp.warmup_samples": 2 * load_recipe("digits-quick", tiny_changes).batches.size - 1,
    }  # fmt: skip
    result = train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
    assert result.embedder.get_layer("pooling").ratio == load_recipe("digits-quick").model.gsp.ratio
    assert "Prototypes initialized after 2 steps" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.integration
def test_a_loss_of_tensorflow_addons(tmp_path, tiny_changes, no_saved_model):
    changes = {
        **tiny_changes,
        "ccp.enabled": False,
        "references.name": "batch",
        "loss.name": "addons.TripletHardLoss",
    }
    changes |= {"training.max_validations": 1, "evaluation.figures": False, "loss.options": {"margin": 0.5}}
    if keras.__version__.startswith("3"):
        with pytest.raises(
            InputError, match=r"TensorFlow Addons cannot be imported.*pip install 'tfdml\[addons\]'"
        ):
            train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
        return
    result = train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
    assert result.test["map_at_r"] > 0
    for name, options, message in (
        ("addons.TripletHardLos", {}, "Did you mean 'addons.TripletHardLoss'?"),
        ("addons.TripletHardLoss", {"size": 1}, "does not take these options"),
    ):
        wrong = {**changes, "loss.name": name, "loss.options": options}
        with pytest.raises(InputError) as error:
            train("digits-quick", tmp_path / "wrong", overrides=wrong)
        assert message in str(error.value)


def test_overrides_go_with_a_name(tmp_path):
    for options in ({"overrides": {"seed": 1}}, {"presets": ["thesis/c1"]}):
        with pytest.raises(ValueError, match="Overrides and presets need a recipe's name"):
            train(load_recipe("digits-quick"), tmp_path / "run", **options)


_EVERYTHING = {
    "references.name": "proxies_and_memory",
    "references.memory_size": 24,
    "references.memory_warmup": 6,
    "ccp.projection_weight": 0.01,
    "ccp.projection_decay": 0.5,
    "ccp.outer_patience": 3,
    "zero_shot.enabled": True,
    "optimizer.learning_rate": 0.05,
    "optimizer.proxy_learning_rate_multiplier": 3.0,
    "training.steps_per_validation": 3,
    "training.max_validations": 12,
    "evaluation.figures": False,
}

_KILLED_ANYWHERE = """
import json, os, signal, sys
sys.path.insert(0, {here!r})
import keras, tiny_backbone
from tfdml import callbacks
from tfdml.experiments import train

path, place, changes = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
passed = 0

def pass_place():
    global passed
    passed += 1
    if passed > place:
        os.kill(os.getpid(), signal.SIGKILL)

# Places: every training step, every batch of a pool, before and after every file that is replaced.
class Steps(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass_place()

replace = os.replace
def replace_and_pass(*arguments):
    pass_place()
    replace(*arguments)
    pass_place()
os.replace = replace_and_pass

choose = callbacks.AlternatingProjections._choose
def choose_and_pass(*arguments, **options):
    pass_place()
    chosen = choose(*arguments, **options)
    pass_place()
    return chosen
callbacks.AlternatingProjections._choose = choose_and_pass

with tiny_backbone.registered():
    train("digits-quick", path, overrides=changes, extra_callbacks=[Steps()], verbose=0)
"""


@pytest.fixture(scope="session")
def everything_run(tmp_path_factory):
    """A run with CCP, a memory, GSP and the zero-shot loss; its changes."""
    changes = {**tiny_backbone.CHANGES, **_EVERYTHING}
    with tiny_backbone.registered():
        folder = tmp_path_factory.mktemp("everything") / "run"
        return train("digits-quick", folder, overrides=changes, verbose=0), changes


def _projections(path):
    with open(path / "projections.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "selection_seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_anywhere_it_ends_the_same(tmp_path, everything_run, request, seed):
    whole, changes = everything_run
    assert len(_projections(whole.folder)) >= 1
    # There are about ninety places. The first few are before a run can be resumed.
    place = int(np.random.default_rng(seed).integers(8, 80))
    code = _KILLED_ANYWHERE.format(here=str(pathlib.Path(__file__).parents[1] / "helpers"))
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    path = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(path), str(place), json.dumps(changes)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert not (path / "test_metrics.json").exists()
    resume(path, verbose=0)
    _assert_same_end(path, whole.folder)
    assert _projections(path) == _projections(whole.folder)


@pytest.mark.slow
def test_outer_patience_ends_the_training_and_is_remembered(tmp_path, tiny_changes):
    changes = {**tiny_changes, "ccp.outer_patience": 1, "training.max_validations": 40, "evaluation.figures": False}
    result = train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
    assert result.training["epochs"] < 40
    problems = _projections(tmp_path / "run")
    best = [float(problem["best"]) for problem in problems]
    # The last problem is the first that did not improve on all before it.
    assert best[-1] <= max(best[:-1]) and all(b > max(best[:i], default=0) for i, b in enumerate(best[:-1]))
    assert sum(int(problem["steps"]) for problem in problems) == result.training["steps"]
    assert result.validation["map_at_r"] == pytest.approx(max(best), rel=1e-6)
    (tmp_path / "run" / "test_metrics.json").unlink()
    again = resume(tmp_path / "run", verbose=0)
    assert (again.training, again.test) == (result.training, result.test)


@pytest.mark.integration
def test_first_weights_are_those_of_another_run(tmp_path, finished_run, tiny_changes, no_saved_model):
    changes = {**tiny_changes, "training.max_validations": 1, "evaluation.figures": False}
    weights = str(finished_run.folder / "best.weights.h5")
    again = train("digits-quick", tmp_path / "run", overrides={**changes, "model.first_weights": weights}, verbose=0)
    assert again.untrained == finished_run.test
    with pytest.raises(InputError, match="no file of weights. Received: model.first_weights='nowhere.h5'"):
        train("digits-quick", tmp_path / "none", overrides={**changes, "model.first_weights": "nowhere.h5"})
    other = {**changes, "model.first_weights": weights, "model.embedding_size": 9}
    with pytest.raises(InputError, match="not weights of this network"):
        train("digits-quick", tmp_path / "other", overrides=other)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.integration
def test_averaged_weights_are_kept(tmp_path, tiny_changes, no_saved_model):
    changes = {
        **tiny_changes, "references.name": "batch", "ccp.enabled": False, "ccp.in_batch_weight": None,
        "training.average_momentum": 0.9, "evaluation.figures": False,
    }  # fmt: skip
    whole = train("digits-quick", tmp_path / "whole", overrides=changes, verbose=0)
    rows = _history(tmp_path / "whole")
    assert whole.validation["map_at_r"] == max(float(row["val_map_at_r"]) for row in rows)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("digits-quick", tmp_path / "stopped", overrides=changes, extra_callbacks=[Stop()], verbose=0)
    resume(tmp_path / "stopped", verbose=0)
    _assert_same_end(tmp_path / "stopped", tmp_path / "whole")
