"""A queue of recipes goes on where it was, and past what fails."""

import pytest

from tfdml.experiments import NonFiniteLossError, RecipeError, RunFolder, RunFolderError, queue, train_main
from tfdml.experiments.queue import match_recipes, run_queue


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
            raise NonFiniteLossError("The loss was no finite number at step 3.")
        if recipe.name == "xbm":
            raise RunFolderError("holds a run of another recipe")
        return recipe.seed

    monkeypatch.setattr(queue, "result_of", carry_out)
    monkeypatch.setattr(queue, "protocol_result_of", carry_out)
    results, errors = run_queue(["gsp", "xbm", "ga[p]", "table-3.1/cub/c1"], tmp_path, {"seed": 5}, verbose=0)
    assert results == {"gap": 5, "table-3.1/cub/c1": 5}
    assert list(errors) == ["gsp", "xbm"] and "at step 3" in str(errors["gsp"])
    assert asked == [
        ("gsp", "single", tmp_path / "gsp", 0),
        ("xbm", "single", tmp_path / "xbm", 0),
        ("gap", "single", tmp_path / "gap", 0),
        ("table-3.1/cub/c1", "fair", tmp_path / "table-3.1/cub/c1", 0),
    ]
    with pytest.raises(RecipeError, match="seed=-1"):
        run_queue(["gap", "gsp"], tmp_path, {"seed": -1})
    assert len(asked) == 4


def test_a_queue_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        train_main(["--queue", "gap"])
    assert "--out, which it needs" in capsys.readouterr().err


@pytest.fixture
def changes(tiny_changes):
    return {**tiny_changes, "data.name": "digits", "training.max_validations": 1, "evaluation.pictures": False}


@pytest.mark.integration
def test_what_has_finished_is_not_repeated(changes, tmp_path):
    changes["batches.classes"] = 2
    results, errors = run_queue(["digits-quick"], tmp_path, changes, verbose=0)
    assert list(results) == ["digits-quick"] and not errors
    state = (tmp_path / "digits-quick" / "state.npz").stat().st_mtime_ns
    more, errors = run_queue(["digits-quick", "gap"], tmp_path, changes, verbose=0)
    assert list(more) == ["digits-quick", "gap"] and not errors
    assert more["digits-quick"].test == results["digits-quick"].test
    assert (tmp_path / "digits-quick" / "state.npz").stat().st_mtime_ns == state
    other, errors = run_queue(["digits-quick"], tmp_path, {**changes, "seed": 7}, verbose=0)
    assert not other and "another recipe" in str(errors["digits-quick"])


@pytest.mark.integration
def test_a_protocol_in_a_queue_and_one_that_fails(changes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # So many classes are there to train with the loss in the batch of the one, but not in the folds of the other.
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
