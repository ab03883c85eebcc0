"""A user's own modules in recipes and commands, imported only with consent."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from tfdml import losses
from tfdml._utils.modules import UserModules
from tfdml.experiments import RunFolder, builders, evaluate, evaluate_main, load_recipe, plugins, train_main
from tfdml.experiments.errors import InputError
from tfdml.experiments.evaluation import load_dataset
from tfdml.experiments.recipe_files import dump_recipe, recipe_hash
from tfdml.experiments.tables import tables_main

LOSS = """
import pathlib
import tensorflow as tf
from tfdml import losses

pathlib.Path(__file__).with_suffix(".ran").touch()


@losses.register("{name}")
def spread(y_true, y_pred):
    return tf.reduce_sum(tf.square(y_pred), axis=1)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch, registries):
    """Remove imported modules after the test."""
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(plugins, "_MODULES", UserModules())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("plugin_", "own_")):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path):
    """Function that writes a module."""

    def write(name, text=LOSS):
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace("{name}", name.replace(".", "_")))
        return path

    return write


def has_run(module):
    return module.with_suffix(".ran").exists()


def forget(name, path):
    """Undo the import of a module that registers a loss, as if this process were a new one."""
    path.with_suffix(".ran").unlink()
    del losses.names.__self__._factories[name]
    plugins._MODULES.names.clear()
    plugins._MODULES.files.clear()
    del sys.modules[name]


def refused(capsys, main, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_lists_and_recipes(module, capsys):
    path = module("plugin_spread")
    assert train_main(["--list", "losses", "--import", str(path)]) == 0
    assert capsys.readouterr().out.split() == sorted([*losses.names()]) and "plugin_spread" in losses.names()
    changes = ["--loss.name", "plugin_spread", "--references.name", "batch"]
    assert train_main(["gap", "--import", str(path), *changes, "--print-recipe"]) == 0
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert recipe["imports"] == [str(path)] and recipe["loss"]["name"] == "plugin_spread"


def test_a_module_by_its_name(module, monkeypatch, tmp_path, caplog):
    module("plugin_by_name")
    monkeypatch.chdir(tmp_path)
    assert plugins.import_modules(["plugin_by_name"]) == ["plugin_by_name"] and "plugin_by_name" in losses.names()
    assert plugins.import_modules(["plugin_by_name"]) == ["plugin_by_name"]
    assert not caplog.records
    # A module that a script has imported itself satisfies a recipe that names its file.
    plugins._MODULES.names.clear()
    plugins.require([str(tmp_path / "elsewhere" / "plugin_by_name.py")])


def test_a_file_with_the_name_of_another_module(module):
    plugins.import_modules([str(module("json", LOSS.replace('"{name}"', '"plugin_json"')))])
    assert sys.modules["json"] is json and "plugin_json" in losses.names()
    plugins.import_modules([str(module("plugin.with-dots"))])
    assert "plugin_with_dots" in sys.modules


def test_a_recipe_runs_nothing_by_itself(module, tmp_path):
    path = module("plugin_recipe")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "base: gap\nimports: [plugin_recipe.py]\nloss: {name: plugin_recipe}\nreferences: {name: batch}\n"
    )
    message = r"needs code .*imports=\['.*plugin_recipe.py'\]\. Expected: --import plugin_recipe.py, .*--trust"
    with pytest.raises(InputError, match=message):
        load_recipe(recipe)
    assert not has_run(path)
    with plugins.trusting(True):
        loaded = load_recipe(recipe)
    assert has_run(path) and loaded.imports == (str(path),)
    # Now it is imported.
    assert isinstance(builders.make_loss(load_recipe(recipe)), losses.FunctionLoss)
    # The hash depends on the name of the file, not on its folder.
    moved, other = (load_recipe("gap", {"imports": [name]}) for name in ("/elsewhere/plugin_recipe.py", str(path)))
    assert recipe_hash(moved) == recipe_hash(other) != recipe_hash(load_recipe("gap"))


def test_imports_of_base_and_recipe(module, tmp_path):
    for name in ("plugin_one", "plugin_two"):
        plugins.import_modules([str(module(name))])
        (tmp_path / f"{name}.yaml").write_text(f"imports: [{name}.py]\n")
    (tmp_path / "plugin_two.yaml").write_text("base: plugin_one.yaml\nimports: [plugin_two.py]\n")
    names = [module.rpartition("/")[2] for module in load_recipe(tmp_path / "plugin_two.yaml").imports]
    assert names == ["plugin_one.py", "plugin_two.py"]
    with pytest.raises(InputError, match="imports has the wrong type or value.*Expected: a list of names"):
        load_recipe("gap", {"imports": [3]})


def test_the_recipe_of_a_run(module, image_run, tmp_path, capsys):
    """A run of someone else executes no code without consent: evaluation, resuming, tables."""
    path = module("plugin_run")
    plugins.import_modules([str(path)])
    whole = RunFolder.open(image_run.folder).load_recipe()
    changes = {"imports": [str(path)], "loss.name": "plugin_run"}
    recipe = load_recipe(image_run.folder / "recipe.yaml", changes)
    run = RunFolder.create(recipe, tmp_path / "run")
    run.embedder.write_bytes((image_run.folder / "embedder.keras").read_bytes())
    forget("plugin_run", path)
    for call in (RunFolder.open(run.path).load_recipe, lambda: evaluate(run.path, figures=False)):
        with pytest.raises(InputError, match="The recipe needs code that is not imported yet"):
            call()
    assert "--import plugin_run.py" in refused(capsys, train_main, "--resume", run.path)
    assert tables_main([str(tmp_path)]) == 1
    assert "--import plugin_run.py" in capsys.readouterr().out and not has_run(path)
    # The file may have moved.
    (tmp_path / "moved").mkdir()
    path = path.rename(tmp_path / "moved" / path.name)
    plugins.import_modules([str(path)])
    assert RunFolder.open(run.path).load_recipe().loss.name == "plugin_run" and has_run(path)
    assert evaluate(run.path, figures=False).images > 0
    assert whole.imports == ()


def test_runs_of_before_there_were_imports(image_run, tmp_path):
    run = RunFolder.create(RunFolder.open(image_run.folder).load_recipe(), tmp_path / "run")
    text = run.recipe.read_text()
    assert "imports: []\n" in text
    run.recipe.write_text(text.replace("imports: []\n", ""))
    assert dump_recipe(RunFolder.open(run.path).load_recipe()) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from tfdml import losses\n\nx = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*wrong.py, line 3\)"),
        ("def f(:\n", r"SyntaxError: .* \(.*plugin_wrong.py, line 1\)\. Received: --import .*plugin_wrong.py"),
        ("import no_such_module_x\n", r"ModuleNotFoundError: No module named .*plugin_wrong.py, line 1\)"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(.*plugin_wrong.py, line 1\)"),
        ("from tfdml import losses\n\nlosses.register('c2', print)\n", r"name of a loss is taken.*py, line 3"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError: .*plugin_wrong.py, line 2\)"),
    ],
)
def test_modules_that_fail(module, capsys, text, message, monkeypatch, tmp_path):
    path = module("plugin_wrong", text)
    with pytest.raises(InputError, match=message):
        plugins.import_modules([str(path)])
    assert "plugin_wrong.py, line" in refused(capsys, train_main, "--list", "losses", "--import", path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"plugin_wrong.py, line \d\)\. Received: --import plugin_wrong\."):
        plugins.import_modules(["plugin_wrong"])


def test_modules_that_are_not_there(capsys, tmp_path):
    assert "There is no such file. Received: --import my.py" in refused(capsys, train_main, "--import", "my.py")
    for name, missing in (("no_such_module_x", "no_such_module_x"), ("tfdml.nothing.x", "tfdml.nothing")):
        with pytest.raises(InputError, match=rf"There is no module '{missing}'\. Received: --import {name}\. Expected"):
            plugins.import_modules([name])
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(InputError, match="Expected: the path of a .py file"):
        plugins.import_modules([str(tmp_path / "text.txt")])


def test_a_module_that_registers_nothing(module, caplog):
    path = module("plugin_empty", "x = 1\n")
    with caplog.at_level("WARNING"):
        plugins.import_modules([str(path)])
    assert f"The module registers nothing. Received: --import {path}" in caplog.text


def test_a_loss_without_references_in_a_recipe(module):
    plugins.import_modules([str(module("plugin_alone"))])
    changes = {"loss.name": "plugin_alone", "ccp.enabled": False}
    assert builders.make_loss(load_recipe("gap", {**changes, "references.name": "batch"})).name == "spread"
    with pytest.raises(InputError, match=r"only with itself\. Received: loss.name='plugin_alone' with references"):
        builders.make_loss(load_recipe("gap", {**changes, "references.name": "memory"}))
    with pytest.raises(InputError, match=r"Unknown loss\. Received: 'mse'"):
        builders.make_loss(load_recipe("gap", {**changes, "loss.name": "mse", "references.name": "batch"}))


@pytest.fixture
def table(tmp_path):
    lines = ["path,label"]
    for number in range(24):
        Image.fromarray(np.full((12, 12), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'abcdef'[number % 6]}")
    (tmp_path / "my.csv").write_text("\n".join(lines))
    return tmp_path / "my.csv"


def test_csv_files_in_recipes(table):
    recipe = load_recipe("default", {"data.name": "csv", "data.options.path": str(table)})
    images = builders.load_data(recipe)
    assert images.train.num_classes + images.validation.num_classes + images.test.num_classes == 6
    assert images.preprocessing.image_shape == (32, 32, 1)
    assert load_dataset(str(table), {}).class_names == tuple("abcdef")
    with pytest.raises(ValueError, match="lacks a column. Received: 'kind'"):
        load_dataset(str(table), {"label_column": "kind"})


@pytest.mark.integration
def test_commands(module, table, request, tmp_path, capsys):
    """Training, resuming and tables, each as in a new process, and evaluation in one."""
    path = module("own_loss")

    def run(main, *arguments):
        assert main([str(argument) for argument in arguments]) == 0
        assert has_run(path)
        forget("own_loss", path)
        return capsys.readouterr().out

    changes = [
        "digits-quick", "--model.embedding_size", 8, "--model.pooling", "gap", "--training.max_validations", 1,
        "--training.steps_per_validation", 2, "--ccp.enabled", "false", "--references.name", "batch",
        "--evaluation.figures", "false", "--loss.name", "own_loss",
    ]  # fmt: skip
    assert "Unknown loss" in refused(capsys, train_main, *changes, "--out", tmp_path / "run")
    run(train_main, *changes, "--import", path, "--out", tmp_path / "run")
    for main, *arguments in ((evaluate_main, tmp_path / "run"), (train_main, "--resume", tmp_path / "run")):
        assert "--trust" in refused(capsys, main, *arguments) and not has_run(path)
    run(train_main, "--resume", tmp_path / "run", "--trust")
    assert "MAP@R" in run(tables_main, tmp_path / "run", "--import", path)
    done = subprocess.run(
        [sys.executable, "evaluate.py", tmp_path / "run", "--data", table, "--import", path],
        cwd=request.config.rootpath, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "24 images of 6 classes" in done.stdout + done.stderr, done.stderr
