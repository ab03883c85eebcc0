"""The design and its effects compared with least squares and products of words, and the study with stubbed runs."""

import itertools
import types

import numpy as np
import pytest
from scipy import stats

from studies import screening as study
from studies.screening import (
    FACTORS,
    THESIS,
    THESIS_LEVELS,
    alias_sets,
    analyse,
    at_levels,
    effects_of_thesis,
    half_fraction,
    screening,
)
from tfdml.experiments import InputError

NAMES = tuple(FACTORS)


def words_of(columns):
    """All products of columns: dict from a set of columns to the product."""
    return {
        frozenset(chosen): columns[:, list(chosen)].prod(axis=1)
        for size in range(1, columns.shape[1] + 1)
        for chosen in itertools.combinations(range(columns.shape[1]), size)
    }


@pytest.mark.parametrize("factors", [3, 4, 5])
def test_columns_are_orthogonal_and_balanced(factors):
    design = half_fraction(factors)
    runs = 2 ** (factors - 1)
    assert design.shape == (runs, factors) and len(np.unique(design, axis=0)) == runs
    np.testing.assert_array_equal(design.T @ design, runs * np.eye(factors))
    np.testing.assert_array_equal(design.sum(axis=0), 0)


def test_the_thesis_design_by_hand():
    levels = {"m": ("low", "high"), "μ": ("low", "high"), "ε": ("low", "high"), "λ": ("low", "high")}
    found = [tuple(run.values()) for run in at_levels(half_fraction(4), levels)]
    low, high = "low", "high"
    assert found == [
        (low, low, low, low),
        (low, low, high, high),
        (low, high, low, high),
        (low, high, high, low),
        (high, low, low, high),
        (high, low, high, low),
        (high, high, low, low),
        (high, high, high, high),
    ]


def test_resolution_is_four():
    """The only word that is constant over the runs has four letters."""
    constant = [word for word, column in words_of(half_fraction(4)).items() if len(set(column)) == 1]
    assert constant == [frozenset(range(4))]


@pytest.mark.parametrize("factors", [3, 4, 5])
def test_aliases_are_equal_columns(factors):
    columns = words_of(half_fraction(factors))
    equal = {
        frozenset((a, b))
        for a, b in itertools.combinations(columns, 2)
        if np.array_equal(columns[a], columns[b])
    }
    named = alias_sets(tuple(range(factors)))
    assert {frozenset((frozenset(a), frozenset(b))) for a, b in named} == equal
    assert len(named) == 2 ** (factors - 1) - 1 and all(len(a) <= len(b) for a, b in named)


@pytest.fixture(scope="module")
def scores():
    generator = np.random.default_rng(0)
    return generator.normal(size=(8, 3)) + 5.0 * generator.normal(size=3)


def test_effects_are_those_of_least_squares(scores):
    """Least squares with all columns, and one term per seed in place of the mean."""
    design, seeds = half_fraction(4), scores.shape[1]
    columns = np.column_stack([design[:, [NAMES.index(n) for n in a]].prod(axis=1) for a, _ in alias_sets(NAMES)])
    model = np.column_stack([np.repeat(columns, seeds, axis=0), np.tile(np.eye(seeds), (8, 1))])
    solution, (left,), rank, _ = np.linalg.lstsq(model, scores.ravel(), rcond=None)
    freedom = len(model) - rank
    errors = np.sqrt(left / freedom * np.diag(np.linalg.inv(model.T @ model)))

    found = analyse(design, scores, NAMES)
    np.testing.assert_allclose([effect.value for effect in found.effects], 2 * solution[:7])
    np.testing.assert_allclose(found.standard_error, 2 * errors[:7])
    assert freedom == 14
    p_value = 2 * stats.t.sf(found.limit / found.standard_error, freedom)
    assert p_value == pytest.approx(0.05)
    # A column explains what the fit loses without it.
    within = np.square(scores - scores.mean(axis=0)).sum()
    for index, effect in enumerate(found.effects):
        without = np.delete(model, index, axis=1)
        lost = np.linalg.lstsq(without, scores.ravel(), rcond=None)[1][0] - left
        assert effect.contribution == pytest.approx(lost / within)
    assert found.residual == pytest.approx(left / within)
    assert sum(effect.contribution for effect in found.effects) + found.residual == pytest.approx(1.0)


def test_planted_effects():
    design = half_fraction(4)
    planted = 30.0 + 2.0 * design[:, 2] - 0.5 * design[:, 2] * design[:, 3]
    found = analyse(design, planted[:, None], NAMES)
    values = {effect.names[0]: effect.value for effect in found.effects}
    assert values.pop(("ε",)) == pytest.approx(4.0)
    # ε×λ is aliased with m×μ.
    assert values.pop(("m", "μ")) == pytest.approx(-1.0)
    np.testing.assert_allclose(list(values.values()), 0.0, atol=1e-12)
    assert (found.standard_error, found.limit, found.residual) == (None, None, 0.0)
    assert dict((e.names[1], e.contribution) for e in found.effects)["ε", "λ"] == pytest.approx(1 / 17)


def test_effects_of_the_thesis():
    """By hand from the table of the thesis, with the rows in its order."""
    printed = [
        ((16, 0.3, 0.5, 0.1), 40.63, 40.59),
        ((16, 0.7, 0.5, 0.5), 40.41, 40.34),
        ((128, 0.3, 0.5, 0.5), 40.22, 40.35),
        ((128, 0.7, 0.5, 0.1), 40.07, 40.85),
        ((16, 0.3, 20.0, 0.5), 36.11, 40.51),
        ((16, 0.7, 20.0, 0.1), 39.11, 39.88),
        ((128, 0.3, 20.0, 0.1), 39.61, 39.12),
        ((128, 0.7, 20.0, 0.5), 35.36, 39.92),
    ]
    runs = [tuple(run.values()) for run in at_levels(half_fraction(4), THESIS_LEVELS)]
    assert dict(zip(runs, zip(*THESIS.values()))) == {levels: (c2, pnca) for levels, c2, pnca in printed}
    found = [effect.value for effect in effects_of_thesis("c2").values()]
    np.testing.assert_allclose(found[:5], [-0.25, -0.405, -2.785, -1.83, -1.795])


def test_constant_scores():
    found = analyse(half_fraction(4), np.full((8, 2), 3.0), NAMES)
    assert all(effect.value == 0.0 and effect.contribution == 0.0 for effect in found.effects)
    assert found.standard_error == found.limit == found.residual == 0.0


@pytest.mark.parametrize("shape", [(7, 2), (8,), (8, 0)])
def test_scores_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"Expected: \(8, seeds\)"):
        analyse(half_fraction(4), np.zeros(shape), NAMES)


@pytest.fixture
def trained(monkeypatch):
    """Stub the runs with 0.3, 0.05 less at ε = 20, and slightly more per seed; returns their recipes."""
    recipes = {}

    def result_of(recipe, folder):
        recipes[folder.name] = recipe
        score = 0.3 - 0.05 * (recipe.model.gsp.smoothing == 20.0) + 0.01 * recipe.seed
        return types.SimpleNamespace(test={"map_at_r": score + 0.001 * (recipe.seed == 1) * recipe.zero_shot.weight})

    monkeypatch.setattr(study, "result_of", result_of)
    return recipes


def test_runs_and_report(tmp_path, trained):
    screened = screening(str(tmp_path), seeds=[0, 1], steps=30)
    assert list(screened) == ["c2"] and len(trained) == 2 * 9
    assert screened["c2"].scores.shape == (8, 2) and screened["c2"].baseline.shape == (2,)
    for name, recipe in trained.items():
        assert recipe.training.steps_per_validation == 15 and recipe.training.max_validations == 2
        baseline = name.startswith("c2-baseline-")
        assert recipe.loss.name == "c2" and str(recipe.seed) == name[-1]
        assert (recipe.model.pooling, recipe.zero_shot.enabled) == (("gap", False) if baseline else ("gsp", True))
    corners = {
        (r.model.gsp.prototypes, r.model.gsp.ratio, r.model.gsp.smoothing, r.zero_shot.weight)
        for r in trained.values()
        if r.zero_shot.enabled
    }
    assert corners == {tuple(run.values()) for run in at_levels(half_fraction(4), THESIS_LEVELS)}
    of_smoothing = screened["c2"].analysis.effects[2]
    assert of_smoothing.names[0] == ("ε",) and of_smoothing.value == pytest.approx(-5.0)

    runs = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(runs) == 1 + 8 + 1 and runs[-1].startswith('"average pooling')
    effects = (tmp_path / "effects.csv").read_text().splitlines()
    assert len(effects) == 1 + 8 and effects[-1].startswith("C2,unexplained,")
    assert effects[3].startswith("C2,ε,m×μ×λ,-5.00,0.0") and ",yes," in effects[3]
    assert effects[5].split(",")[1:3] == ["m×μ", "ε×λ"] and effects[3].split(",")[-2] == "-2.78"
    assert (tmp_path / "effects.png").stat().st_size > 1000


def test_quick_and_other_levels(tmp_path, trained):
    losses = ["proxy_nca_plus_plus", "c2"]
    screened = screening(str(tmp_path), ratio=[0.2, 0.5], losses=losses, overrides={"data.size": 20}, quick=True)
    assert list(screened) == losses[:1] and len(trained) == 5 and screened[losses[0]].analysis.limit is None
    assert all(recipe.references.has_proxies and recipe.seed == 0 for recipe in trained.values())
    assert {recipe.model.gsp.ratio for recipe in trained.values() if recipe.zero_shot.enabled} == {0.2, 0.5}
    assert all((recipe.data.name, recipe.data.size) == ("digits", 20) for recipe in trained.values())
    # With other levels than those of the thesis, there is nothing to compare with.
    assert "thesis" not in (tmp_path / "effects.md").read_text()
    assert [effect.names for effect in screened[losses[0]].analysis.effects][0] == (("μ",), ("ε", "λ"))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"ratio": [0.7, 0.3]}, r"levels of μ \[0.7, 0.3\]. Expected: a low and a high level"),
        ({"prototypes": [8]}, r"levels of m \[8\]"),
        ({"prototypes": [0, 8]}, "m=0. Expected: an integer >= 1"),
        ({"ratio": [0.5, 1.5]}, "μ=1.5"),
        ({"smoothing": [0.0, 1.0]}, "ε=0.0. Expected: ε > 0"),
        ({"zero_shot_weight": [0.1, 2.0]}, "λ=2.0"),
    ],
)
def test_bad_levels(tmp_path, trained, levels, message):
    with pytest.raises(InputError, match=message):
        screening(str(tmp_path / "out"), **levels)
    assert not trained and not (tmp_path / "out").exists()
