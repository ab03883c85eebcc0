import re
import subprocess
import sys

import pytest

from tfdml._utils.typed_values import parse_yaml, to_mapping
from tfdml.experiments import (
    InputError,
    TrainingResult,
    commands,
    evaluate_main,
    evaluation,
    extraction,
    load_recipe,
    names,
    train,
    train_main,
)
from tfdml.experiments.recipe import Recipe


def _error_of(capsys, main, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def _dotted(mapping, prefix=""):
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_help_has_every_key_with_the_default_recipes_value(capsys):
    with pytest.raises(SystemExit) as exit_:
        train_main(["--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    # The option for modules is --import.
    for path in set(_dotted(to_mapping(Recipe()))) - {"imports"}:
        text = re.search(rf"--{path} \S+ (.*?) \(default: ", shown)[1]
        assert len(text.split()) >= 2, f"{path} is not explained"
    assert "--data.name TEXT Dataset (--list datasets), or 'folder' with the option 'path'. (default: glyphs)" in shown
    # No Python types; defaults are those of the default recipe, not of the class.
    assert "<class" not in shown and "type:" not in shown and "Optional" not in shown
    default = to_mapping(load_recipe("default"))
    assert default["ccp"]["patience"] == 2 and re.search(r"--ccp.patience N [^()]+ \(default: 2\)", shown)


def test_list_recipes(capsys):
    assert train_main(["--list-recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("default ") and any(line.startswith("gap-ccp ") for line in lines)


def test_list_presets(capsys):
    assert train_main(["--list-presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split(maxsplit=1) == ["thesis/c1", "loss: {name: c1, options: {negative_margin: 0.5}}"] for line in lines
    )


def test_presets_with_changes(capsys):
    arguments = ["gap", "--preset", "thesis/training", "--preset=thesis/proxy-anchor", "--references.per_class", "2"]
    assert train_main([*arguments, "--print-recipe"]) == 0
    recipe = parse_yaml(capsys.readouterr().out, "output")
    assert recipe["loss"]["name"] == "proxy_anchor" and recipe["references"]["per_class"] == 2
    assert recipe["optimizer"]["learning_rate"] == 1e-5


def test_print_recipe_with_changes(capsys):
    arguments = ["gap", "--seed", "3", "--optimizer.learning_rate=1e-5", "--data.split_seed", "null"]
    arguments += [
        "--evaluation.recall_at",
        "[1,5]",
        "--training.jit_compile",
        "true",
        "--data.size",
        "[28, 32]",
    ]
    arguments += ["--loss.options.negative_margin", "0.75", "--description", "007", "--print-recipe"]
    assert train_main(arguments) == 0
    recipe = parse_yaml(capsys.readouterr().out, "output")
    assert recipe["name"] == "gap" and recipe["model"]["pooling"] == "gap" and recipe["seed"] == 3
    assert recipe["optimizer"]["learning_rate"] == 1e-5
    assert recipe["data"]["split_seed"] is None and recipe["data"]["size"] == [28, 32]
    assert recipe["evaluation"]["recall_at"] == [1, 5]
    assert recipe["training"]["jit_compile"] is True
    assert recipe["loss"]["options"] == {"negative_margin": 0.75}
    assert recipe["description"] == "007"


def test_without_a_recipe_it_is_the_default(capsys):
    train_main(["--print-recipe"])
    default = capsys.readouterr().out
    train_main(["--recipe", "default", "--print-recipe"])
    assert capsys.readouterr().out == default
    assert parse_yaml(default, "output")["name"] == "default"


def test_a_file_and_the_command_line_over_it(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: gsp\nseed: 1\ntraining: {patience: 4}\n")
    assert train_main([str(tmp_path / "mine.yaml"), "--seed", "2", "--print-recipe"]) == 0
    recipe = parse_yaml(capsys.readouterr().out, "output")
    assert (recipe["name"], recipe["seed"], recipe["training"]["patience"]) == ("mine", 2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.gsp.ratoi", "0.5"], "Unknown option --model.gsp.ratoi. Did you mean --model.gsp.ratio?"),
        (["--learning_rate=1"], "Unknown option --learning_rate. Did you mean --optimizer.learning_rate?"),
        (["--resme", "x"], "Unknown option --resme. Did you mean --resume?"),
        (["--model.gsp.prototypes", "many"], "error: --model.gsp.prototypes has the wrong type or value. Received: 'm"),
        (["--training.patience", "2.5"], "--training.patience has the wrong type or value. Received: 2.5. Expected: "),
        (["--ccp.enabled", "yess"], "--ccp.enabled has the wrong type or value. Received: 'yess'. Expected: true or f"),
        (["--data.options", "3"], "--data.options has the wrong type or value. Received: 3. Expected: a mapping"),
        (["--data.options", "{a: [}"], "--data.options is not valid YAML"),
        (["--training.patience"], "expected one argument"),
        (["defalt"], "Unknown recipe 'defalt'. Did you mean 'default'?"),
        (["gap", "gsp"], "unrecognized arguments: gsp"),
        (["gap", "--recipe", "gsp"], "Two recipes"),
        (["gap", "--resume", "x"], "--resume takes everything from the run"),
        (["gap", "--preset", "thesis/c2-cup"], "Unknown preset 'thesis/c2-cup'. Did you mean 'thesis/c2-cub'?"),
        (["--resume", "x", "--preset", "thesis/c1"], "--resume takes everything from the run"),
        (["--resume", "x", "--seed", "1"], "--resume takes everything from the run"),
        (["--resume", "no-such-folder"], "There is no run folder no-such-folder."),
        (["--resume", "."], "The folder is not a run"),
        (["--out", "."], "exists already, and nothing is overwritten"),
        (["--data.name", "glyfs"], "Did you mean 'glyphs'?"),
        (["--data.options.min_typfaces", "3"], "Did you mean 'min_typefaces'?"),
        (["digits-quick", "--data.validation_classes", "0.01"], "validation split has no classes"),
        (["digits-quick", "--batches.classes", "9"], "classes"),
        (["digits-quick", "--loss.name", "contrastve"], "Did you mean 'contrastive'?"),
        (["digits-quick", "--loss.options.margin", "3"], "does not take these options"),
        (["digits-quick", "--loss.miner.name", "hart"], "Unknown miner. Received: 'hart'"),
        (["digits-quick", "--model.backbone", "tiny", "--model.gsp.ratio", "1.3"], "Received: ratio=1.3"),
        (["digits-quick", "--model.backbone", "tiny", "--model.embedding_size", "0"], "embedding_size"),
        (["digits-quick", "--augmentation.rotation", "200"], "rotation=200"),
        (["digits-quick", "--loss.name", "addons.TripletHardLoss"], "Expected: references.name='batch'"),
        (["digits-quick", "--data.name", "folder", "--data.options.path", "nowhere"], "folder does not exist"),
        (["digits-quick", "--ccp.projection_weight", "-1"], "projection_weight"),
    ],
)
def test_bad_input_ends_with_2_a_message_and_no_folder(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in _error_of(capsys, train_main, *arguments)
    assert not list(tmp_path.iterdir())


def test_images_in_files_need_a_shape(capsys, tmp_path):
    import tensorflow as tf

    for number in range(20):
        folder = tmp_path / "images" / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        png = tf.io.encode_png(tf.fill((10, 10, 1), tf.constant(number * 10, tf.uint8)))
        (folder / f"{number}.png").write_bytes(png.numpy())
    arguments = ["digits-quick", "--data.name", "folder", "--data.options.path", str(tmp_path / "images")]
    error = _error_of(capsys, train_main, *arguments, "--data.size", "null", "--data.channels", "null")
    assert "Expected: both" in error
    (tmp_path / "images" / "class3" / "broken.png").write_bytes(b"\x89PNG but not really")
    assert "broken.png" in _error_of(capsys, train_main, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No run. Expected: RUN_OR_SAVEDMODEL"),
        (["nowhere"], "There is no run folder nowhere."),
        (["."], "The folder is not a run"),
        ([".", "--splt", "test"], "Unknown option --splt. Did you mean --split?"),
        ([".", "--split", "tests"], "--split has the wrong type or value. Received: 'tests'. Expected: one of"),
    ],
)
def test_bad_input_of_evaluate(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in _error_of(capsys, evaluate_main, *arguments)


def test_evaluate_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        evaluate_main(["--help"])
    assert exit_.value.code == 0
    assert "--data NAME_OR_FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--options.min_typefaces", "20"], {"min_typefaces": 20}),
        (["--options.verify", "false"], {"verify": False}),
        (["--options", "{characters: null}", "--options.path=1"], {"characters": None, "path": "1"}),
        ([], {}),
    ],
)
def test_options_of_datasets_reach_evaluation_and_extraction_as_values(monkeypatch, capsys, arguments, options):
    taken = []

    def evaluate(path, data, options, **others):
        taken.append((path, data, options))
        raise InputError("enough")

    def extract_features(model, images, out, *, data_options, **others):
        taken.append((model, images, data_options or {}))
        raise InputError("enough")

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(extraction, "extract_features", extract_features)
    assert "enough" in _error_of(capsys, evaluate_main, "RUN", "--data", "glyphs", *arguments)
    assert "enough" in _error_of(capsys, extraction.extract_main, "RUN", "--data", "glyphs", "--out", "x", *arguments)
    assert taken == [("RUN", "glyphs", options)] * 2
    for value, expected in zip(taken[0][2].values(), options.values()):
        assert type(value) is type(expected)


@pytest.mark.parametrize("kind", names.KINDS)
def test_lists_of_names_are_those_of_the_registries(capsys, kind):
    own = {"tiny", "tiny_plain"} if kind == "backbones" else set()
    assert sorted({*names.KINDS[kind], *own}) == names.registered(kind)
    assert train_main(["--list", kind]) == 0
    assert capsys.readouterr().out.split() == list(names.KINDS[kind])


def test_lists(capsys):
    assert evaluate_main(["--list", "datasets"]) == 0
    assert "glyphs" in capsys.readouterr().out.splitlines()
    assert train_main(["--list", "presets"]) == 0
    listed = capsys.readouterr().out
    assert train_main(["--list-presets"]) == 0
    assert capsys.readouterr().out == listed
    error = _error_of(capsys, train_main, "--list", "loss")
    assert "Expected: one of recipes, presets, losses, miners, poolings, backbones, relations, datasets." in error


@pytest.mark.parametrize("main", [train_main, evaluate_main])
def test_help_has_each_example_on_a_line_of_its_own(capsys, main):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    examples = lines[lines.index("examples:") + 1 :]
    examples = examples[: examples.index("")]
    program = examples[0].split()[0]
    assert len(examples) >= 7 and all(line.startswith(f"  {program} ") for line in examples)
    assert max(map(len, lines[: lines.index("examples:")])) <= 100 + len(program)


def test_the_summary_of_a_run_names_files_that_exist(tmp_path):
    metrics = {"map_at_r": 0.5, "precision_at_1": 0.75}
    training = {"steps": 30, "seconds": 12.3, "projections": 2}
    result = TrainingResult(tmp_path, metrics, metrics, {"map_at_r": 0.25, "epoch": 3}, training)
    (tmp_path / "figures").mkdir()
    (tmp_path / "test_metrics.json").write_text("{}")
    lines = commands._summary(result).splitlines()
    assert lines[0] == "Trained for 30 steps in 12 s, 2 projections; best validation MAP@R 0.2500 after validation 3."
    assert lines[-1] == f"Files in {tmp_path}: metrics test_metrics.json"
    (tmp_path / "figures" / "embedding_map.png").write_text("")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_text("")
    expected = "metrics test_metrics.json, SavedModel saved_model, figures figures"
    assert commands._summary(result).splitlines()[-1] == f"Files in {tmp_path}: {expected}"


@pytest.mark.integration
def test_the_quick_recipe_ends_clearly_above_the_untrained_network(tmp_path):
    changes = {"evaluation.figures": False, "training.max_validations": 3}
    result = train("digits-quick", tmp_path / "run", overrides=changes, verbose=0)
    assert result.test["map_at_r"] > result.untrained["map_at_r"] + 0.1
    assert result.test["precision_at_1"] > result.untrained["precision_at_1"] + 0.1


# All in one process, because imports of one affect the others.
LIGHT = """
import contextlib, io, sys
sys.argv = ["tfdml-train"]
from tfdml.experiments import evaluate_main, extract_main, train_main
from tfdml.experiments.tables import tables_main
for main, arguments in (
    (train_main, ["--help"]), (train_main, ["--version"]), (train_main, ["--list", "losses"]),
    (train_main, ["--list", "recipes"]), (train_main, ["--list-presets"]), (train_main, ["gsp", "--print-recipe"]),
    (train_main, ["--model.embedding_size", "x"]), (evaluate_main, ["--help"]), (tables_main, ["--help"]),
    (extract_main, ["--help"]), (extract_main, ["--scale", "0-2"]), (extract_main, ["MODEL"]),
):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(out):
            main(arguments)
    assert out.getvalue(), arguments
    heavy = {"tensorflow", "keras", "matplotlib", "sklearn", "scipy"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
import tfdml.data.prepare
from tfdml.data import archives
assert "tensorflow" not in sys.modules
import tfdml
from tfdml import losses
assert "tensorflow" in sys.modules and tfdml.losses is losses and "c2" in tfdml.losses.names()
assert tfdml.export_saved_model and tfdml.models.MetricModel and tfdml.__version__
# Public names are imported when they are used.
from tfdml.data import *
from tfdml.data import datasets
assert LabeledImages is tfdml.data.LabeledImages and cub is datasets.cub
assert {*tfdml.data.__all__} <= {*dir(tfdml.data)} and {*tfdml.__all__} <= {*dir(tfdml)}
assert not hasattr(tfdml.data, "missing") and not hasattr(tfdml, "missing")
"""


@pytest.mark.integration
def test_help_and_lists_do_not_import_tensorflow(request):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=request.config.rootpath, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # No log lines of TensorFlow, except those that no setting of TensorFlow 2.21 silences.
    of_tensorflow = ("WARNING: All log messages", "I0000")
    assert not [line for line in done.stderr.splitlines() if not line.startswith(of_tensorflow)]


@pytest.mark.integration
@pytest.mark.parametrize(
    "command",
    [
        "tfdml.data.prepare", "tfdml.experiments.extract_command", "tfdml.experiments.tables", "train.py", "evaluate.py"
    ],
)  # fmt: skip
def test_help_of_each_command_does_not_import_tensorflow(command, request):
    run = [command] if command.endswith(".py") else ["-m", command]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *run, "--help"],
        cwd=request.config.rootpath, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "usage:" in done.stdout and "tfdml" in done.stderr
    assert not {"tensorflow", "keras"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
