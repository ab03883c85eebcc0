"""Which hyperparameters of generalized sum pooling matter? A screening experiment with a half-fraction design.

python -m studies.screening --out DIR
"""

import dataclasses
import itertools
import pathlib
from typing import Literal, NamedTuple, Optional

import numpy as np
from scipy import stats

from studies import plots
from studies.pooling_comparison import LOSS_TITLES, LOSSES
from studies.report import Report, command, mean_and_deviation
from tfdml._utils.arguments import check_between, check_positive, check_whole_number
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.runner import result_of

# From the symbol of a factor to its key in the recipe.
FACTORS = {
    "m": "model.gsp.prototypes",
    "μ": "model.gsp.ratio",
    "ε": "model.gsp.smoothing",
    "λ": "zero_shot.weight",
}
# Levels of the thesis (Table 5.4), and MAP@R in % of its runs on CUB-200-2011, in the order of `half_fraction(4)`.
THESIS_LEVELS = {"m": (16, 128), "μ": (0.3, 0.7), "ε": (0.5, 20.0), "λ": (0.1, 0.5)}
THESIS = {
    "c2": (40.63, 36.11, 40.41, 39.11, 40.22, 39.61, 40.07, 35.36),
    "proxy_nca_plus_plus": (40.59, 40.51, 40.34, 39.88, 40.35, 39.12, 40.85, 39.92),
}
_CONFIDENCE = 0.95


class Effect(NamedTuple):
    """Effect of a column of the design on the score.

    Attributes:
        names: tuple. The effects that share the column: two tuples of factors, the smaller one first.
        value: float. Mean score at the high level minus the mean at the low level.
        contribution: float. Its share of the sum of squares within seeds, 0 to 1.
    """

    names: tuple
    value: float
    contribution: float


class Analysis(NamedTuple):
    """Effects of all columns of a design, with their uncertainty.

    Attributes:
        effects: list with an `Effect` per column.
        standard_error: float. Standard error of an effect; None with one seed.
        limit: float. Effects of larger absolute value are significant (95%); None with one seed.
        residual: float. Share of the sum of squares within seeds that no effect explains.
    """

    effects: list
    standard_error: Optional[float]
    limit: Optional[float]
    residual: float


class Screened(NamedTuple):
    """Results of the study with one loss.

    Attributes:
        scores: float array `(runs of the design, seeds)`. MAP@R in %.
        baseline: float array `(seeds,)`. MAP@R in % of average pooling without the zero-shot loss.
        analysis: `Analysis` of the scores.
    """

    scores: np.ndarray
    baseline: np.ndarray
    analysis: Analysis


def screening(
    out: str,
    prototypes: list[int] = THESIS_LEVELS["m"],
    ratio: list[float] = THESIS_LEVELS["μ"],
    smoothing: list[float] = THESIS_LEVELS["ε"],
    zero_shot_weight: list[float] = THESIS_LEVELS["λ"],
    losses: list[Literal["c2", "proxy_nca_plus_plus"]] = ("c2",),
    seeds: list[int] = (0, 1, 2),
    steps: int = 300,
    recipe: str = "tournament",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train at eight corners of the space of four hyperparameters, and estimate the effect of each on MAP@R.

    The factors are the number of prototypes m, the ratio μ, the smoothing ε, and the weight λ of the zero-shot loss,
    each at a low and a high level. Of the 16 combinations the design has the eight where the signs of the levels
    multiply to +1 (2^(4-1), generator D = ABC, resolution IV). A main effect is aliased with the interaction of the
    three other factors, which is assumed to be 0; interactions of two factors are aliased in pairs. Average pooling
    without the zero-shot loss is the baseline.

    The runs are kept in the folder. A stopped screening resumes, and another call with more losses or seeds trains only
    the new runs. Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        prototypes: Low and high level of m.
        ratio: Low and high level of μ.
        smoothing: Low and high level of ε, in units of 1 / cost.
        zero_shot_weight: Low and high level of λ.
        losses: C2 inside the batch, ProxyNCA++ against proxies, or both, each with a separate design.
        seeds: Seeds; each repeats all runs. Standard errors need at least two.
        steps: Number of training steps; the better of two validations counts.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.data.size 20.
        quick: Run one loss, one seed, ten steps on scikit-learn's digits, and three factors, without m, in four runs.
            There a main effect is aliased with the interaction of the two other factors.

    Returns:
        dict from the loss to `Screened`.

    Raises:
        InputError: If a factor does not have two increasing levels, or a level is out of range.
    """
    levels = dict(zip(FACTORS, (prototypes, ratio, smoothing, zero_shot_weight)))
    _check_levels(levels)
    equal = {}
    if quick:
        losses, seeds, steps = list(losses)[:1], list(seeds)[:1], min(steps, 10)
        del levels["m"]
        equal = {"data.name": "digits", "data.size": 16, "batches.classes": 4}
    equal |= {"training.steps_per_validation": max(1, steps // 2), "training.max_validations": 2}
    design = half_fraction(len(levels))
    runs = [{"model.pooling": "gsp", "zero_shot.enabled": True, **changes} for changes in at_levels(design, levels)]
    runs.append({"model.pooling": "gap", "zero_shot.enabled": False})
    screened = {}
    for loss in losses:
        scores = np.empty((len(runs), len(seeds)))
        for row, changes in enumerate(runs):
            corner = _corner(changes)
            of_run = load_recipe(recipe, {**equal, **LOSSES[loss], **changes, **(overrides or {})})
            for column, seed in enumerate(seeds):
                folder = pathlib.Path(out).expanduser() / "runs" / f"{loss}-{corner.replace(' ', '-')}-{seed}"
                test = result_of(dataclasses.replace(of_run, seed=seed), folder).test
                scores[row, column] = 100.0 * test["map_at_r"]
                print(f"{loss:20s} {corner:52s} seed {seed}: test MAP@R {scores[row, column]:.2f}%", flush=True)
        analysis = analyse(design, scores[:-1], tuple(levels))
        screened[loss] = Screened(scores[:-1], scores[-1], analysis)
    setting = f"{steps} steps of the recipe {recipe}" + (" on digits" if quick else "")
    _report(Report(out), levels, screened, seeds, setting)
    return screened


def half_fraction(factors):
    """Make a two-level half-fraction design: all combinations of all factors but one, the product of the others.

    The defining relation is I = AB…: the product of all columns is +1. With four factors it is the 2^(4-1) design of
    resolution IV.

    Args:
        factors: int. Number of factors, at least 3: with two, both columns would be equal.

    Returns:
        int array `(2^(factors - 1), factors)` of levels -1 and +1. The first factor changes most slowly.

    Reference:
        Montgomery, "Design and Analysis of Experiments", chapter 8, section "The one-half fraction of the 2^k design".

    Example:
        >>> half_fraction(3)
        array([[-1, -1,  1],
               [-1,  1, -1],
               [ 1, -1, -1],
               [ 1,  1,  1]])
    """
    free = np.array(list(itertools.product((-1, 1), repeat=check_whole_number("factors", factors, 3) - 1)))
    return np.column_stack([free, free.prod(axis=1)])


def at_levels(design, levels):
    """Convert the runs of a design to changes of a recipe.

    Args:
        design: Result of `half_fraction`.
        levels: dict from a name of `FACTORS` to its low and its high level.

    Returns:
        list with a dict per run.
    """
    return [{FACTORS[name]: levels[name][int(sign > 0)] for name, sign in zip(levels, signs)} for signs in design]


def alias_sets(factors):
    """List the effects that a half fraction cannot distinguish.

    The defining relation is the product of all factors, and the square of a factor is 1. So multiplying an effect by
    the relation leaves the factors that it does not contain.

    Args:
        factors: Names of the factors.

    Returns:
        list of pairs of tuples of names, the smaller first, by size: main effects, then interactions of two, and so on.

    Example:
        >>> alias_sets("ABCD")[0], alias_sets("ABCD")[-1]
        ((('A',), ('B', 'C', 'D')), (('A', 'D'), ('B', 'C')))
    """
    pairs, seen = [], set()
    for size in range(1, len(factors)):
        for effect in itertools.combinations(factors, size):
            alias = tuple(name for name in factors if name not in effect)
            if effect not in seen:
                pairs.append((effect, alias))
                seen.update((effect, alias))
    return pairs


def analyse(design, scores, factors):
    r"""Estimate the effects of the columns of a half fraction.

    An effect is the difference of the means at the two signs of its column. Seeds are blocks: all runs of a seed have
    the same batches, so a contribution of the seed to all of them is not an error. With R runs and S seeds and scores
    $y_{rs}$, the residual variance is
    $s^2 = \sum_{rs} (y_{rs} - \bar y_{r.} - \bar y_{.s} + \bar y_{..})^2 / ((R - 1)(S - 1))$, the
    standard error of each effect is $2 s / \sqrt{RS}$, and its sum of squares is $RS / 4$ times its square.

    Args:
        design: int array `(runs, factors)`. Result of `half_fraction`.
        scores: float array `(runs, seeds)`.
        factors: Names of the factors.

    Returns:
        `Analysis`.

    Raises:
        ValueError: If the shape of the scores does not match the design.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or len(scores) != len(design) or not scores.size:
        raise ValueError(f"Received: scores of shape {scores.shape}. Expected: ({len(design)}, seeds).")
    runs, seeds = scores.shape
    of_runs = scores.mean(axis=1)
    rest = scores - of_runs[:, None] - scores.mean(axis=0) + scores.mean()
    unexplained = np.square(rest).sum()
    values = {}
    for names in alias_sets(factors):
        column = design[:, [factors.index(name) for name in names[0]]].prod(axis=1)
        values[names] = of_runs[column > 0].mean() - of_runs[column < 0].mean()
    squares = {names: scores.size / 4 * value**2 for names, value in values.items()}
    total = sum(squares.values()) + unexplained or 1.0
    effects = [Effect(names, float(value), float(squares[names] / total)) for names, value in values.items()]
    freedom = (runs - 1) * (seeds - 1)
    if not freedom:
        return Analysis(effects, None, None, 0.0)
    error = float(2.0 * np.sqrt(unexplained / freedom / scores.size))
    limit = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, freedom) * error)
    return Analysis(effects, error, limit, float(unexplained / total))


def effects_of_thesis(loss):
    """Effects in Table 5.4 of the thesis, with one run of each: dict from the names of an `Effect` to the `Effect`."""
    scores = np.array(THESIS[loss])[:, None]
    return {effect.names: effect for effect in analyse(half_fraction(4), scores, tuple(FACTORS)).effects}


def _thesis_cells(effect):
    return [f"{effect.value:+.2f}", f"{100 * effect.contribution:.1f}"]


def _check_levels(levels):
    checks = {
        "m": lambda name, level: check_whole_number(name, level, 1),
        "μ": lambda name, level: check_between(name, level, 1e-6, 1.0),
        "ε": check_positive,
        "λ": lambda name, level: check_between(name, level, 0.0, 1.0),
    }
    for name, pair in levels.items():
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise InputError(f"Received: levels of {name} {list(pair)}. Expected: a low and a high level.")
        for level in pair:
            try:
                checks[name](name, level)
            except ValueError as error:
                raise InputError(str(error)) from error


def _corner(changes):
    parts = [f"{key.rpartition('.')[2]}={changes[key]:g}" for key in FACTORS.values() if key in changes]
    return " ".join(parts) or "baseline"


def _name(effect):
    return "×".join(effect)


def _report(report, levels, screened, seeds, setting):
    def mean_of(values):
        return mean_and_deviation(values, digits=2, ddof=1)

    runs = at_levels(half_fraction(len(levels)), levels)
    blank = [""] * (len(levels) - 1)
    report.table(
        "runs",
        [*levels, *(f"MAP@R (%), {LOSS_TITLES[loss]}" for loss in screened)],
        [
            *(
                [*(f"{value:g}" for value in run.values()), *(mean_of(of.scores[row]) for of in screened.values())]
                for row, run in enumerate(runs)
            ),
            ["average pooling, no zero-shot loss", *blank, *(mean_of(of.baseline) for of in screened.values())],
        ],
        f"MAP@R on unseen classes, mean and standard deviation of {len(seeds)} seed(s), {setting}.",
    )
    at_thesis_levels = {name: tuple(pair) for name, pair in levels.items()} == THESIS_LEVELS
    rows = []
    for loss, of in screened.items():
        thesis = effects_of_thesis(loss)
        for effect in of.analysis.effects:
            significant = "–"
            if of.analysis.limit is not None:
                significant = "yes" if abs(effect.value) > of.analysis.limit else "no"
            rows.append(
                [
                    LOSS_TITLES[loss],
                    _name(effect.names[0]),
                    _name(effect.names[1]),
                    f"{effect.value:+.2f}",
                    "–" if of.analysis.standard_error is None else f"{of.analysis.standard_error:.2f}",
                    significant,
                    f"{100 * effect.contribution:.1f}",
                    *(_thesis_cells(thesis[effect.names]) if at_thesis_levels else []),
                ]
            )
        if of.analysis.limit is not None:
            rows.append(
                [LOSS_TITLES[loss], "unexplained", "", "", "", "", f"{100 * of.analysis.residual:.1f}"]
                + (["", ""] if at_thesis_levels else [])
            )
    report.table(
        "effects",
        [
            "loss",
            "effect",
            "aliased with",
            "high − low (points of MAP@R)",
            "standard error",
            "significant (95%)",
            "contribution (%)",
            *(["thesis, CUB: high − low", "thesis: contribution (%)"] if at_thesis_levels else []),
        ],
        rows,
        f"Effects on MAP@R in percentage points; levels {_described(levels)}; {setting}, {len(seeds)} seed(s).",
    )
    panels = [
        plots.EffectPanel(
            LOSS_TITLES[loss],
            [_name(effect.names[0]) + _also(effect.names[1]) for effect in of.analysis.effects],
            [effect.value for effect in of.analysis.effects],
            of.analysis.limit,
        )
        for loss, of in screened.items()
    ]
    report.figure("effects", plots.effect_pareto(panels, "effect on MAP@R (percentage points)"))


def _described(levels):
    return ", ".join(f"{name} {low:g} and {high:g}" for name, (low, high) in levels.items())


def _also(alias):
    """Name the alias of an interaction of two factors; interactions of three are assumed to be 0."""
    return f" or {_name(alias)}" if len(alias) == 2 else ""


if __name__ == "__main__":
    command(screening)
