import json

import numpy as np
import pytest

from tfdml.experiments import RunFolder, RunFolderError, load_recipe
from tfdml.experiments.run_folder import environment, new_dated_folder, read_json, write_json, write_text


def test_create_writes_recipe_and_environment(tmp_path):
    recipe = load_recipe("gap", {"seed": 7})
    folder = RunFolder.create(recipe, tmp_path / "deep" / "run")
    assert folder.load_recipe() == recipe
    written = read_json(folder.environment)
    assert written == environment(seed=7)
    assert {"tensorflow", "keras", "numpy", "scikit-learn", "matplotlib"} <= set(written["packages"])
    assert written["seed"] == 7 and written["tfdml"] and written["python"]
    assert not folder.is_finished


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dead link"])
def test_nothing_is_written_over(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
    elif kind == "dead link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    if kind == "folder":
        (path / "recipe.yaml").write_text("mine")
    with pytest.raises(RunFolderError, match="run exists already, and nothing is written over"):
        RunFolder.create(load_recipe(), path)
    if kind == "folder":
        assert [file.name for file in path.iterdir()] == ["recipe.yaml"]
        assert (path / "recipe.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made: Not a directory"):
        RunFolder.create(load_recipe(), tmp_path / "file" / "run")


def test_default_folders_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder.create(load_recipe("gap")).path for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(path.parent.name == "runs" and path.name.startswith("gap-2") for path in folders)
    assert new_dated_folder(tmp_path, "x") != new_dated_folder(tmp_path, "x")


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="There is no run folder .*nothing"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match="is no run"):
        RunFolder.open(tmp_path)
    folder = RunFolder.create(load_recipe(), tmp_path / "run")
    assert RunFolder.open(folder.path).path == folder.path
    folder.recipe.write_text("seed: x")
    with pytest.raises(RunFolderError, match='recipe is damaged: .*"seed".*Got value: x'):
        RunFolder.open(folder.path).load_recipe()


def test_files_appear_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": np.float32(0.5), "b": float("nan"), "c": (np.int64(3),), "d": {"é": None}})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 0.5, "b": None, "c": [3], "d": {"é": None}}

    def full_disk(file_descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "half of")
    assert read_json(path)["a"] == 0.5
