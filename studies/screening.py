"""Which hyperparameters of generalized sum pooling matter? A screening experiment in half of the runs of a full design.

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

# From a factor's symbol to its key in the recipe.
FACTORS = {
    "m": "model.gsp.prototypes",
    "μ": "model.gsp.ratio",
    "ε": "model.gsp.smoothing",
    "λ": "zero_shot.weight",
}
# The levels of the thesis (Table 5.4), and MAP@R in % of its runs on CUB-200-2011, in the order of `half_fraction(4)`.
THESIS_LEVELS = {"m": (16, 128), "μ": (0.3, 0.7), "ε": (0.5, 20.0), "λ": (0.1, 0.5)}
THESIS = {
    "c2": (40.63, 36.11, 40.41, 39.11, 40.22, 39.61, 40.07, 35.36),
    "proxy_nca_plus_plus": (40.59, 40.51, 40.34, 39.88, 40.35, 39.12, 40.85, 39.92),
}
_CONFIDENCE = 0.95


class Effect(NamedTuple):
    """What a column of the design does to the score.

    Attributes:
        names: The effects that share the column: two sets of factors, the smaller one first.
        value: Mean score at the high level less that at the low level.
        contribution: Its share of the sum of squares within seeds, 0 to 1.
    """

    names: tuple
    value: float
    contribution: float


class Analysis(NamedTuple):
    """Effects of all columns of a design, and how sure they are.

    Attributes:
        effects: One `Effect` for each column.
        standard_error: Of each effect; None with one seed.
        limit: A greater effect, either way, is told from 0 with 95% confidence; None with one seed.
        residual: Share of the sum of squares within seeds that no effect explains.
    """

    effects: list
    standard_error: Optional[float]
    limit: Optional[float]
    residual: float


class Screened(NamedTuple):
    """What the study measured with one loss.

    Attributes:
        scores: MAP@R in %, `(runs of the design, seeds)`.
        baseline: The same of average pooling without the zero-shot loss, `(seeds,)`.
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
    """Trains at eight corners of the space of four hyperparameters, and tells the effect of each on MAP@R.

    The factors are the number of prototypes m, the ratio μ, the smoothing ε, and the weight λ of the zero-shot loss,
    each at a low and a high level. Of the 16 combinations the design has the eight where the signs of the levels
    multiply to +1 (2^(4-1), generator D = ABC, resolution IV): a main effect is mixed up with an interaction of the
    three other factors alone, which is taken for 0; interactions of two factors are mixed up in pairs. Average pooling
    without the zero-shot loss is trained beside them, as the baseline.

    The runs are kept in the folder. A screening that was stopped goes on, and one that is called again with more losses
    or seeds trains only what is new; several calls at a time, each with seeds of its own, share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        prototypes: Low and high level of m.
        ratio: Low and high level of μ.
        smoothing: Low and high level of ε, in units of 1 / cost.
        zero_shot_weight: Low and high level of λ.
        losses: C2 inside the batch, ProxyNCA++ against proxies, or both, each with a design of its own.
        seeds: Each repeats all runs; two or more are needed to say how sure an effect is.
        steps: Training steps; the better of two validations counts.
        recipe: What is equal for all.
        overrides: Changes of the recipe, as in --overrides.data.size 20.
        quick: One loss, one seed, ten steps on scikit-learn's digits, and three factors, without m, in four runs; there
            a main effect is mixed up with the interaction of the two other factors.

    Returns:
        From the loss to `Screened`.

    Raises:
        InputError: If levels are not two that differ, the low one first, or are out of range.
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
    """A 2-level design in half of the runs: all combinations of all factors but one, which is the others' product.

    Its defining relation is I = AB…: the product of all columns is +1. With four factors it is the 2^(4-1) design of
    resolution IV.

    Args:
        factors: Their number, at least 3: of two, one would be the other.

    Returns:
        Levels as -1 and +1, `(2^(factors - 1), factors)`; the first factor changes most slowly.

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
    """The design's runs as changes of a recipe.

    Args:
        design: Of `half_fraction`.
        levels: From a name of `FACTORS` to its low and its high level.

    Returns:
        A dictionary for each run.
    """
    return [{FACTORS[name]: levels[name][int(sign > 0)] for name, sign in zip(levels, signs)} for signs in design]


def alias_sets(factors):
    """The effects that a half fraction cannot tell from each other.

    The defining relation is the product of all factors, and a factor's square is 1; so multiplying an effect by the
    relation leaves the factors that it does not have.

    Args:
        factors: The names.

    Returns:
        Pairs of tuples of names, the smaller first, by their size: main effects, then interactions of two, and so on.

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
    r"""Effects of a half fraction's columns.

    An effect is the difference of the means at its column's two signs. Seeds are blocks: the same seed gives all runs
    the same batches, so that what a seed adds to all of them is no error. With R runs and S seeds, $y_{rs}$ the score,
    $s^2 = \sum_{rs} (y_{rs} - \bar y_{r.} - \bar y_{.s} + \bar y_{..})^2 / ((R - 1)(S - 1))$ is what is left, the
    standard error of each effect is $2 s / \sqrt{RS}$, and an effect's sum of squares is $RS / 4$ times its square.

    Args:
        design: Levels as -1 and +1, `(runs, factors)`, of `half_fraction`.
        scores: `(runs, seeds)`.
        factors: The names.

    Returns:
        `Analysis`.

    Raises:
        ValueError: If the scores do not fit the design.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or len(scores) != len(design) or not scores.size:
        raise ValueError(f"Received: scores of shape {scores.shape}; expected ({len(design)}, seeds).")
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
    """Effects in Table 5.4 of the thesis, which has one run of each: from the names in `Effect` to `Effect`."""
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
            raise InputError(f"Received: levels of {name} {list(pair)}; expected a low and a high level.")
        for level in pair:
            try:
                checks[name](name, level)
            except ValueError as error:
                raise InputError(str(error)) from error


def _corner(changes):
    told = [f"{key.rpartition('.')[2]}={changes[key]:g}" for key in FACTORS.values() if key in changes]
    return " ".join(told) or "baseline"


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
            told = "–"
            if of.analysis.limit is not None:
                told = "yes" if abs(effect.value) > of.analysis.limit else "no"
            rows.append(
                [
                    LOSS_TITLES[loss],
                    _name(effect.names[0]),
                    _name(effect.names[1]),
                    f"{effect.value:+.2f}",
                    "–" if of.analysis.standard_error is None else f"{of.analysis.standard_error:.2f}",
                    told,
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
            "mixed up with",
            "high − low (points of MAP@R)",
            "standard error",
            "told from 0 (95%)",
            "contribution (%)",
            *(["thesis, CUB: high − low", "thesis: contribution (%)"] if at_thesis_levels else []),
        ],
        rows,
        f"Effects on MAP@R in percentage points; levels {_told(levels)}; {setting}, {len(seeds)} seed(s).",
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


def _told(levels):
    return ", ".join(f"{name} {low:g} and {high:g}" for name, (low, high) in levels.items())


def _also(alias):
    """An interaction of three factors is taken for 0; one of two is as likely as the other."""
    return f" or {_name(alias)}" if len(alias) == 2 else ""


if __name__ == "__main__":
    command(screening)
