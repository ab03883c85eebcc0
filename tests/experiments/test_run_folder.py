import errno
import hashlib
import json
import os

import numpy as np
import pytest
import yaml

from tfdml._utils.environment import environment
from tfdml._utils.plain_files import write_json, write_text
from tfdml.experiments import RunFolder, RunFolderError, dump_recipe, load_recipe
from tfdml.experiments.protocols import ProtocolFolder
from tfdml.experiments.run_folder import new_dated_folder, read_embeddings, read_json


def test_create_writes_recipe_and_environment(tmp_path):
    recipe = load_recipe("gap", {"seed": 7})
    folder = RunFolder.create(recipe, tmp_path / "deep" / "run")
    assert folder.load_recipe() == recipe
    written = read_json(folder.environment)
    digest = written.pop("recipe_digest")
    assert written == environment(seed=7) and len(digest) == 16
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
    with pytest.raises(RunFolderError, match="run exists already, and nothing is overwritten"):
        RunFolder.create(load_recipe(), path)
    if kind == "folder":
        assert [file.name for file in path.iterdir()] == ["recipe.yaml"]
        assert (path / "recipe.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be created: Not a directory"):
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
    with pytest.raises(RunFolderError, match="The folder is not a run"):
        RunFolder.open(tmp_path)
    folder = RunFolder.create(load_recipe(), tmp_path / "run")
    assert RunFolder.open(folder.path).path == folder.path
    folder.recipe.write_text("seed: x")
    with pytest.raises(RunFolderError, match="recipe lacks keys.* without name, "):
        RunFolder.open(folder.path).load_recipe()
    folder.recipe.write_text(dump_recipe(load_recipe()).replace("seed: 0", "seed: x"))
    with pytest.raises(RunFolderError, match="recipe is damaged: seed has the wrong type.*Received: 'x'"):
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


@pytest.mark.parametrize("kind", [RunFolder, ProtocolFolder])
def test_a_recipe_that_was_cut_off_is_refused(tmp_path, kind):
    folder = kind.create(load_recipe("gap", {"protocol.name": "fair"}), tmp_path / "run")
    text = folder.recipe.read_text()
    lines = text.splitlines(keepends=True)
    for end in (len(lines) - 1, len(lines) // 2, lines.index("data:\n")):
        folder.recipe.write_text("".join(lines[:end]))
        with pytest.raises(RunFolderError, match=r"lacks keys. Received: .*recipe.yaml without .*--print-recipe"):
            folder.load_recipe() if kind is RunFolder else ProtocolFolder.open(folder.path)
    folder.recipe.write_text(text[:-3])
    with pytest.raises(RunFolderError, match="recipe is damaged|lacks keys"):
        folder.load_recipe() if kind is RunFolder else ProtocolFolder.open(folder.path)


def test_a_recipe_that_was_changed_is_refused(tmp_path):
    recipe = load_recipe("features", {"data.options.path": "here"})
    folder = RunFolder.create(recipe, tmp_path / "run")
    text = folder.recipe.read_text()
    folder.recipe.write_text(text.replace("learning_rate: 0.0", "learning_rate: 0.1"))
    with pytest.raises(RunFolderError, match="changed after the run began. .*--training.max_validations N prolongs"):
        folder.load_recipe()
    # The length and the location of the data may change.
    length = f"max_validations: {recipe.training.max_validations}"
    folder.recipe.write_text(text.replace(length, "max_validations: 7").replace("path: here", "path: there"))
    assert folder.load_recipe().training.max_validations == 7
    # Runs of earlier versions, and runs with a damaged file, have no digest.
    folder.environment.write_text("{")
    assert folder.load_recipe().data.options == {"path": "there"}


def test_a_run_of_a_version_with_fewer_keys(tmp_path):
    recipe = load_recipe("gap", {"optimizer.learning_rate": 3e-4})
    folder = RunFolder.create(recipe, tmp_path / "run")
    written = yaml.safe_load(folder.recipe.read_text())
    for section in ("mixing", "cross_batch"):
        del written[section]
    del written["ccp"]["max_steps"]
    folder.recipe.write_text(yaml.safe_dump(written))
    # What that version computed: without the length, the devices, the location of files and plug-ins.
    decisive = {**written, "training": dict(written["training"]), "model": dict(written["model"])}
    for section, key in (("training", "max_validations"), ("training", "strategy"), ("model", "first_weights")):
        del decisive[section][key]
    del decisive["imports"]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    write_json(folder.environment, {**read_json(folder.environment), "recipe_digest": digest})
    assert folder.load_recipe() == recipe
    written["optimizer"]["learning_rate"] = 1e-4
    folder.recipe.write_text(yaml.safe_dump(written))
    with pytest.raises(RunFolderError, match="changed after the run began"):
        folder.load_recipe()


def test_two_processes_do_not_write_to_one_run(tmp_path):
    for kind in (RunFolder, ProtocolFolder):
        folder = kind.create(load_recipe("gap", {"protocol.name": "fair"}), tmp_path / kind.__name__)
        with folder.lock():
            with pytest.raises(RunFolderError, match=f"Another process is writing to .*process {os.getpid()} on"):
                with kind(folder.path).lock():
                    pass
        with folder.lock():
            pass


def test_a_run_does_not_write_through_links(tmp_path):
    folder = RunFolder.create(load_recipe("gap"), tmp_path / "run")
    folder.figures.mkdir()
    (tmp_path / "mine").write_text("mine")
    figure = folder.figures / "training_curve.png"
    for path in (folder.log, folder.state, folder.best_weights, figure, folder.tensorboard):
        path.symlink_to(tmp_path / "mine")
        with pytest.raises(RunFolderError, match=f"symbolic link.*Received: {path}"), folder.lock():
            pass
        path.unlink()
    with folder.lock():
        assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    folder = RunFolder.create(load_recipe("gap"), tmp_path / "run")

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tfdml._utils.files.os.open", refuse)
    with pytest.raises(RunFolderError, match=f"Read-only file system. Received: {folder.path}"), folder.lock():
        pass
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(RunFolderError, match="Read-only file system. Pass another one as out"):
        new_dated_folder(tmp_path / "runs", "x")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, None])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "test_metrics.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFolderError, match=f"A file of the run cannot be read.*Received: {path}"):
        read_json(path)
    with pytest.raises(RunFolderError, match=f"embeddings {path} cannot be read"):
        read_embeddings(path)
