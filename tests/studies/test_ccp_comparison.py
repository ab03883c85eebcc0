"""The comparison of references: differences between its runs, and its table."""

import numpy as np
import pytest
import tiny_backbone

from studies import ccp_comparison as study
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.runner import TrainingResult


@pytest.mark.parametrize("loss", study.LOSSES)
@pytest.mark.parametrize("reference", study.REFERENCES)
def test_runs_of_a_loss_differ_in_what_it_is_compared_with_alone(loss, reference):
    changes = {**study.LOSSES[loss], **study.REFERENCES[reference]}
    equal, recipe = load_recipe("ccp-comparison", study.LOSSES[loss]), load_recipe("ccp-comparison", changes)
    for part in ("data", "batches", "augmentation", "model", "loss", "optimizer", "evaluation"):
        assert getattr(recipe, part) == getattr(equal, part)
    assert recipe.training.max_validations == equal.training.max_validations
    # All include the loss inside the batch.
    weight = recipe.references.in_batch_weight if not recipe.ccp.enabled else recipe.ccp.in_batch_weight
    assert weight == 1 or (weight is None and not recipe.references.has_proxies)
    assert recipe.ccp.enabled == (reference in ("fixed", "ccp"))
    assert recipe.references.has_memory == (reference == "xbm")


def test_table_and_image(tmp_path, monkeypatch):
    asked = []

    def result_of(recipe, folder):
        asked.append((folder.name, recipe))
        value = 0.1 * len(asked)
        test = {"map_at_r": value, "precision_at_1": 0.5}
        training = {"steps": 1500, "seconds": 90.0, "projections": 3} if recipe.ccp.enabled else {
            "steps": 1500, "seconds": 60.0
        }  # fmt: skip
        return TrainingResult(folder, test, {}, {}, training)

    monkeypatch.setattr(study, "result_of", result_of)
    scores = study.ccp_comparison(str(tmp_path), ["c2", "triplet"], ["alone", "ccp"], [0, 5])
    methods = ["c2-alone", "c2-ccp", "triplet-alone", "triplet-ccp"]
    assert [name for name, _ in asked] == [f"{method}-{seed}" for seed in (0, 5) for method in methods]
    assert [recipe.seed for _, recipe in asked] == [0] * 4 + [5] * 4
    np.testing.assert_allclose(scores, [[[0.1, 0.5], [0.2, 0.6]], [[0.3, 0.7], [0.4, 0.8]]])
    rows = (tmp_path / "ccp_comparison.csv").read_text().splitlines()
    assert rows[0].startswith("loss,,MAP@R,P@1,steps,seconds,problems,")
    assert rows[2] == "c2,with CCP,0.400 ± 0.283,0.500 ± 0.000,1500,90,3.0,0.2000,0.6000"
    assert rows[3].startswith("triplet,alone,0.500 ± 0.283,0.500 ± 0.000,1500,60,–,")
    assert (tmp_path / "ccp_comparison.png").stat().st_size > 0


@pytest.mark.integration
def test_quick_trains(tmp_path):
    tiny = {key: value for key, value in tiny_backbone.CHANGES.items() if key.partition(".")[0] == "model"}
    changes = {**tiny, "data.name": "digits", "data.size": 12, "batches.classes": 4, "model.normalization": "clip"}
    with tiny_backbone.registered():
        scores = study.ccp_comparison(str(tmp_path), seeds=[3], overrides=changes, quick=True)
    assert scores.shape == (1, 2, 1) and (scores > 0.1).all()


def test_unknown_names(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'triplet'"):
        study.ccp_comparison(str(tmp_path), ["triplett"])
    with pytest.raises(InputError, match="Did you mean 'fixed'"):
        study.ccp_comparison(str(tmp_path), references=["fixd"])
