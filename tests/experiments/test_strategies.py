"""Runs on two devices and by two workers, from the command line."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
import tiny_backbone
from processes import finish, free_ports, start

from tfdml.experiments import InputError, RecipeError, load_recipe, strategies, train, train_main
from tfdml.experiments.recipe_files import recipe_hash
from tfdml.experiments.strategies import check_recipe, worker_of_environment
from tfdml.models import Workers

RECIPE = {
    "model.backbone": "tiny_plain",
    "data.name": "digits", "data.options": "{}", "data.size": "[12,12]", "batches.classes": 2,
    "batches.samples_per_class": 4, "model.embedding_size": 8, "model.gsp.prototypes": 4, "references.per_class": 2,
    "ccp.pool_size": 4, "training.steps_per_validation": 3, "training.geometry": "false",
    "evaluation.figures": "false", "optimizer.learning_rate": 1e-4,
}  # fmt: skip


def arguments(out, **changes):
    options = {**RECIPE, "training.max_validations": 2, **changes}
    return ["default", "--out", out, *(str(part) for key, value in options.items() for part in (f"--{key}", value))]


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_about_same(folder, expected):
    rows, expected_rows = history(folder), history(expected)
    assert len(rows) == len(expected_rows) and rows[0].keys() == expected_rows[0].keys()
    for row, expected_row in zip(rows, expected_rows):
        assert float(row["anchors_without_positive"]) == pytest.approx(float(expected_row["anchors_without_positive"]))
        # tests/models/test_replicas.py compares ten steps with a tolerance of 1e-4.
        np.testing.assert_allclose(float(row["loss"]), float(expected_row["loss"]), rtol=0.02)
        np.testing.assert_allclose(float(row["val_map_at_r"]), float(expected_row["val_map_at_r"]), atol=0.03)
    assert (folder / "saved_model" / "saved_model.pb").exists() and (folder / "test_metrics.json").exists()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "run"
    with tiny_backbone.registered():
        assert train_main([*map(str, arguments(folder)), "--verbose", "0"]) == 0
    return folder


def two_workers_run(folder, *command):
    port = free_ports()
    processes = [
        start("train_on.py", *command, "--strategy", "multi_worker", worker=(index, port)) for index in range(2)
    ]
    for process in processes:
        code, output = finish(process)
        assert code == 0, output
    assert not list(folder.glob("workertemp_*")) and not list(folder.glob(".*"))


@pytest.mark.integration
def test_a_run_of_two_workers_is_written_by_the_first_and_goes_on_on_two_devices(single, tmp_path):
    folder = tmp_path / "run"
    two_workers_run(folder, *arguments(folder, **{"training.max_validations": 1}))
    assert "strategy: multi_worker" in (folder / "recipe.yaml").read_text()
    command = ["--resume", folder, "--training.max_validations", "2", "--strategy", "mirrored"]
    code, output = finish(start("train_on.py", *command))
    assert code == 0, output
    assert_about_same(folder, single)


@pytest.mark.slow
def test_a_run_on_two_devices_goes_on_by_two_workers(single, tmp_path):
    folder = tmp_path / "run"
    code, output = finish(
        start("train_on.py", *arguments(folder, **{"training.max_validations": 1}), "--strategy", "mirrored")
    )
    assert code == 0, output
    assert "strategy: mirrored" in (folder / "recipe.yaml").read_text()
    two_workers_run(folder, "--resume", folder, "--training.max_validations", "2")
    assert_about_same(folder, single)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_goes_on_after_the_death_of_a_worker(victim, tmp_path):
    folder, port = tmp_path / "run", free_ports()
    more = {"training.max_validations": 400, "training.patience": 400}
    processes = [
        start("train_on.py", *arguments(folder, **more), "--strategy", "multi_worker", worker=(index, port))
        for index in range(2)
    ]
    try:
        wait_for(lambda: (folder / "state.npz").exists(), processes)
        os.kill(processes[victim].pid, signal.SIGKILL)
        code, output = finish(processes[1 - victim], timeout=120)
    finally:
        for process in processes:
            process.kill()
    assert code == 1, output
    assert f"Training stopped: Worker {1 - victim} of 2 has lost the others" in output and "--resume" in output
    # The log of a worker that was not killed is kept.
    assert victim == 1 or "has lost the others" in (folder / "workertemp_1" / "train.log").read_text()
    done = len(history(folder))
    # Resume on one device, for one more validation.
    recipe = (folder / "recipe.yaml").read_text().replace("max_validations: 400", f"max_validations: {done + 1}")
    (folder / "recipe.yaml").write_text(recipe)
    code, output = finish(start("train_on.py", "--resume", folder, "--strategy", "single"))
    assert code == 0, output
    assert len(history(folder)) == done + 1
    assert not list(folder.glob("workertemp_*"))


def wait_for(condition, processes, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert all(process.poll() is None for process in processes), finish(processes[0])[1]
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    "config",
    [None, "{}", "nonsense", json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}})],
)
def test_workers_need_a_cluster(config, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(InputError, match="TF_CONFIG.*Received|Received: TF_CONFIG"):
        worker_of_environment()
    with pytest.raises(SystemExit) as ended:
        train_main(["--strategy", "multi_worker"])
    assert ended.value.code == 2 and "TF_CONFIG" in capsys.readouterr().err


def test_workers_must_name_the_folder(monkeypatch):
    config = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match="Received: no out .* Expected: one folder"):
        train("default", overrides={"training.strategy": "multi_worker"})


class StubWorkers:
    """One of two workers, with a flag for whether the other one sees the folder."""

    count = 2

    def __init__(self, index, other_sees=True):
        self.index, self.is_chief, self.other_sees = index, index == 0, other_sees

    def broadcast(self, array):
        return array

    def gather(self, array):
        return np.array([int(self.other_sees), *array][:: 1 if self.index else -1])


def test_workers_start_from_the_shared_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda limit: 7)
    monkeypatch.setattr(strategies, "_SECONDS_TO_APPEAR", 0)
    (tmp_path / "state.npz").write_text("state")
    (tmp_path / "workertemp_1").mkdir()
    (tmp_path / "workertemp_1" / "old").touch()
    strategies.share_folder(tmp_path, (), StubWorkers(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.npz", "workertemp_1"]
    for workers, unseen in ((StubWorkers(0, other_sees=False), "1"), (StubWorkers(1), "1")):
        with pytest.raises(InputError, match=rf"for the workers \[{unseen}\]. Expected: one folder"):
            strategies.share_folder(tmp_path, (), workers)
    (tmp_path / ".shared-00000007").touch()
    strategies.share_folder(tmp_path, ["state.npz", "history.csv"], StubWorkers(1))
    own = strategies.worker_folder(tmp_path, StubWorkers(1))
    assert [path.name for path in own.iterdir()] == ["state.npz"] and own == tmp_path / "workertemp_1"
    strategies.leave_folder(tmp_path, StubWorkers(0))
    assert own.exists()
    strategies.leave_folder(tmp_path, StubWorkers(1))
    assert not own.exists() and (tmp_path / "state.npz").read_text() == "state"


def test_recipes_that_replicas_cannot_train():
    workers = Workers(None, index=0, count=1, replicas=3)
    with pytest.raises(RecipeError, match="Expected: a multiple of 3"):
        check_recipe(load_recipe("default"), workers)
    with pytest.raises(RecipeError, match="Received: training.jit_compile=true with 3 replicas"):
        check_recipe(load_recipe("default", {"training.jit_compile": True}), workers)
    with pytest.raises(RecipeError, match="Received: training.strategy='multi_worker' with protocol.name='fair'"):
        load_recipe("gap", {"training.strategy": "multi_worker", "protocol.name": "fair"})


def test_devices_are_no_part_of_what_a_recipe_is():
    assert recipe_hash(load_recipe("gap", {"training.strategy": "mirrored"})) == recipe_hash(load_recipe("gap"))
