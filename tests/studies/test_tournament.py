"""The tournament: its ranks, its contestants, and that finished runs are not run again."""

import numpy as np
import pytest
import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from studies.tournament import CONTESTANTS, ranks_of, tournament
from tfdml.experiments import InputError, load_recipe, runner

QUICK = {key: value for key, value in tiny_backbone.CHANGES.items() if key.partition(".")[0] in ("model", "training")}
QUICK |= {"data.name": "digits", "data.size": 12, "batches.classes": 4, "training.max_validations": 1}


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_ranks_equal_scipy(scores):
    scores = np.array(scores, float)
    np.testing.assert_array_equal(ranks_of(scores), rankdata(-scores, axis=0))


@pytest.mark.parametrize("name", CONTESTANTS)
def test_contestants_differ_in_what_belongs_to_the_loss_alone(name):
    equal, recipe = load_recipe("tournament"), load_recipe("tournament", CONTESTANTS[name])
    for part in ("data", "batches", "augmentation", "training", "evaluation"):
        assert getattr(recipe, part) == getattr(equal, part)
    assert recipe.model.backbone == equal.model.backbone
    assert recipe.optimizer.learning_rate == equal.optimizer.learning_rate
    assert recipe.references.has_proxies == (recipe.optimizer.proxy_learning_rate_multiplier > 1 or recipe.ccp.enabled)


@pytest.mark.integration
def test_runs_ranks_and_goes_on(tmp_path, monkeypatch):
    names = ["contrastive", "margin", "proxy_anchor"]
    trained, train = [], runner.train

    def count_and_train(recipe, *args, **kwargs):
        trained.append(recipe)
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(runner, "train", count_and_train)
    with tiny_backbone.registered():
        arguments = dict(embedding_sizes=[4], seeds=[0], overrides=QUICK)
        tournament(str(tmp_path), names[:2], **arguments)
        ranks = tournament(str(tmp_path), names, **arguments)
        with pytest.raises(InputError, match="another recipe"):
            tournament(str(tmp_path), names[:1], **{**arguments, "overrides": {**QUICK, "batches.classes": 3}})
    assert [recipe.loss.name for recipe in trained] == names
    assert sorted(ranks[:, 0]) == [1, 2, 3] or len(set(ranks[:, 0])) < 3
    assert (tmp_path / "ranking.png").exists()
    table = (tmp_path / "ranking.md").read_text().splitlines()
    assert table[2].split("|")[1].strip() == "loss"
    best = table[4].split("|")[1].strip()
    assert best == names[int(np.argmin(ranks[:, 0]))]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 4


def test_unknown_contestant(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'triplet'"):
        tournament(str(tmp_path), ["triplett"])
