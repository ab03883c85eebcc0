"""A queue of recipes continues after an interruption, and after failed recipes."""

import pytest

from tfdml.experiments import (
    NonFiniteLossError,
    RecipeError,
    RunFolder,
    RunFolderError,
    TrainingResult,
    queue,
    train_main,
)
from tfdml.experiments.queue import load_queue, match_recipes, run_all


def test_patterns():
    assert match_recipes(["gap", "g?p", "gsp"]) == ["gap", "gsp"]
    of_cub = match_recipes(["table-5.1/cub/*"])
    assert "table-5.1/cub/c2-gsp" in of_cub and all(name.startswith("table-5.1/cub/") for name in of_cub)
    with pytest.raises(RecipeError, match="No recipe matches.*Did you mean 'gap'"):
        match_recipes(["gapp"])


def test_the_queue_goes_on_past_what_fails(monkeypatch, tmp_path):
    asked = []

    def carry_out(recipe, folder, verbose):
        asked.append((recipe.name, recipe.protocol.name, folder, verbose))
        if recipe.name == "gsp":
            raise NonFiniteLossError("The loss is not finite at step 3.")
        if recipe.name == "xbm":
            raise RunFolderError("holds a run of another recipe")
        return recipe.seed

    monkeypatch.setattr(queue, "result_of", carry_out)
    monkeypatch.setattr(queue, "protocol_result_of", carry_out)
    results, errors = run_all(
        load_queue(["gsp", "xbm", "ga[p]", "table-3.1/cub/c1"], {"seed": 5}), tmp_path, verbose=0
    )
    assert results == {"gap": 5, "table-3.1/cub/c1": 5}
    assert list(errors) == ["gsp", "xbm"] and "at step 3" in str(errors["gsp"])
    assert asked == [
        ("gsp", "single", tmp_path / "gsp", 0),
        ("xbm", "single", tmp_path / "xbm", 0),
        ("gap", "single", tmp_path / "gap", 0),
        ("table-3.1/cub/c1", "fair", tmp_path / "table-3.1/cub/c1", 0),
    ]
    with pytest.raises(RecipeError, match="seed=-1"):
        load_queue(["gap", "gsp"], {"seed": -1})
    assert len(asked) == 4


def test_files_in_a_queue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"one.yaml": "base: gap\nseed: 1", "two.yml": "base: gsp\nname: other"}.items():
        (tmp_path / name).write_text(text)
    recipes = load_queue(["*.yaml", str(tmp_path / "two.yml"), "one.yaml", "gap"], {"training.patience": 4})
    assert {name: recipe.seed for name, recipe in recipes.items()} == {"one": 1, "other": 0, "gap": 0}
    assert {recipe.training.patience for recipe in recipes.values()} == {4}
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "one.yaml").write_text("base: gsp")
    assert set(load_queue(["deeper/*.yaml"])) == {"one"}
    with pytest.raises(RecipeError, match="Two recipes have the same name.*both 'one'"):
        load_queue(["**/*.yaml"])
    with pytest.raises(RecipeError, match="There is no recipe file. Received: 'no\\*.yaml'"):
        load_queue(["gap", "no*.yaml"])
    # The name of an existing file is not a pattern.
    (tmp_path / "a[1].yaml").write_text("base: gap")
    assert list(load_queue(["a[1].yaml"])) == ["a[1]"]


def seeds(monkeypatch, *arguments):
    """Return seed and folder of each run of `--seeds`."""
    asked = []

    def carry_out(recipe, folder, verbose):
        asked.append((recipe.seed, str(folder)))
        if recipe.seed == 9:
            raise NonFiniteLossError("The loss is not finite at step 3.")
        value = 0.5 + 0.1 * recipe.seed
        test = {"map_at_r": value, "precision_at_1": 0.75, "classes": 3}
        training = {"steps": 2, "seconds": 1.0}
        return TrainingResult(folder, test, test, {"map_at_r": 0.5, "epoch": 1}, training)

    monkeypatch.setattr(queue, "result_of", carry_out)
    return train_main(["gap", "--seeds", *arguments]), asked


def test_a_recipe_with_several_seeds(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    code, asked = seeds(monkeypatch, "0,1,2", "--out", "mine")
    assert code == 0 and asked == [(0, "mine/seed0"), (1, "mine/seed1"), (2, "mine/seed2")]
    shown = capsys.readouterr().out
    assert "map_at_r                   0.6000 ± 0.1000" in shown and "precision_at_1             0.7500 ± 0.0" in shown
    assert "classes" not in shown.split("mean of 3 seeds")[1] and shown.endswith("3 of 3 runs finished in mine.\n")
    code, asked = seeds(monkeypatch, "3")
    assert code == 0 and asked[0][1].startswith("runs/gap-") and "0.8000\n" in capsys.readouterr().out
    assert seeds(monkeypatch, "9,1", "--out", "mine")[0] == 1
    assert "1 of 2 runs finished" in capsys.readouterr().out
    for arguments, message in (
        (["0,x"], "Received: --seeds 0,x. Expected: as in --seeds 0,1,2."),
        (["1,1"], "A seed is given twice"),
        (["99999999999999999999"], "Seeds are not whole numbers"),
        (["0,1", "--protocol.name", "fair"], "Pass --protocol.repeats to repeat a protocol."),
        (["0,1", "--resume", "x"], "--resume takes everything from the run"),
        (["0,1", "--queue", "gap", "--out", "x"], "--queue names all recipes itself"),
    ):
        with pytest.raises(SystemExit) as ended:
            seeds(monkeypatch, *arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_queue_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        train_main(["--queue", "gap"])
    assert "--queue needs --out" in capsys.readouterr().err


@pytest.fixture
def changes(tiny_changes):
    cheapest = {"model.pooling": "gap", "references.name": "batch", "ccp.enabled": False, "evaluation.figures": False}
    return {**tiny_changes, **cheapest, "data.name": "digits", "training.max_validations": 1}


@pytest.mark.integration
def test_what_has_finished_is_not_repeated(changes, tmp_path):
    changes["batches.classes"] = 2
    results, errors = run_all(load_queue(["digits-quick"], changes), tmp_path, verbose=0)
    assert list(results) == ["digits-quick"] and not errors
    state = (tmp_path / "digits-quick" / "state.npz").stat().st_mtime_ns
    more, errors = run_all(load_queue(["digits-quick", "gap"], changes), tmp_path, verbose=0)
    assert list(more) == ["digits-quick", "gap"] and not errors
    assert more["digits-quick"].test == results["digits-quick"].test
    assert (tmp_path / "digits-quick" / "state.npz").stat().st_mtime_ns == state
    other, errors = run_all(load_queue(["digits-quick"], {**changes, "seed": 7}), tmp_path, verbose=0)
    assert not other and "another recipe" in str(errors["digits-quick"])


@pytest.mark.integration
def test_a_protocol_in_a_queue_and_one_that_fails(changes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # There are enough training classes for the first recipe, but not in the folds of the second.
    changes = {**changes, "batches.classes": 2, "data.test_classes": "published", "protocol.name": "fixed_validation"}
    changes["protocol.folds"] = 5
    texts = {key: "null" if value is None else str(value) for key, value in changes.items()}
    arguments = [part for key, text in texts.items() for part in (f"--{key}", text)]
    command = ["--queue", "gap", "gap-ccp", "--out", "all", "--verbose", "0", *arguments]
    assert train_main(command) == 0
    assert "2 of 2 recipes finished in all." in capsys.readouterr().out
    assert RunFolder(tmp_path / "all" / "gap-ccp" / "runs" / "repeat0-fold4").is_finished
    assert train_main([*command, "--batches.classes", "9"]) == 1
    shown = capsys.readouterr()
    assert "0 of 2 recipes finished" in shown.out and "another recipe" in shown.err + shown.out
