from tfdml.experiments import RunFolder, builders, load_recipe
from tfdml.experiments.run_callbacks import RunCallbacks


def make_callbacks(folder, changes):
    recipe = load_recipe("digits-quick", changes)
    return RunCallbacks(recipe, RunFolder(folder), builders.load_data(recipe), untrained_value=0.1)


def test_every_state_is_saved_in_the_order_of_earlier_files(tmp_path, tiny_changes):
    changes = {"model.gsp.start": "warmup", "optimizer.plateau_patience": 2, "optimizer.decay_epochs": None}
    made = make_callbacks(tmp_path, {**tiny_changes, **changes})
    with_state = [name for name, callback in made.items() if hasattr(callback, "get_state")]
    names = {id(callback): name for name, callback in made.items()}
    saved = [names[id(callback)] for callback in made.with_state()]
    assert saved == ["early_stopping", "history", "plateau", "projections", "prototype_warmup"]
    assert sorted(with_state) == sorted(saved)


def test_the_order_in_which_callbacks_are_called(tmp_path, tiny_changes):
    changes = {"references.name": "batch", "ccp.enabled": False, "training.average_momentum": 0.9}
    made = make_callbacks(tmp_path, {**tiny_changes, "ccp.in_batch_weight": None, **changes})
    assert list(made) == [
        "averaged_weights", "non_finite", "collapse", "early_stopping", "best_weights", "history", "tensorboard",
        "time_limit", "backup",
    ]  # fmt: skip
    assert not made.are_over and made.validations_done == 0
