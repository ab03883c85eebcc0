"""Which references serve a loss best? The batch alone, a memory, fixed proxies, or the proxies of CCP.

python -m studies.ccp_comparison --out DIR
"""

import pathlib
from typing import Optional

import keras
import numpy as np

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.runner import result_of

# The cosine of embeddings shorter than 1 does not determine their distance, which the evaluation uses.
_ON_THE_SPHERE = {"model.normalization": "l2"}
LOSSES = {
    "c1": {"loss.name": "c1", **_ON_THE_SPHERE},
    "c2": {"loss.name": "c2"},
    "multi_similarity": {"loss.name": "multi_similarity", **_ON_THE_SPHERE},
    "triplet": {"loss.name": "triplet_all"},
}
_PROXIES = {"references.name": "proxies", "ccp.enabled": True, "ccp.in_batch_weight": 1.0}
REFERENCES = {
    "alone": {"references.name": "batch", "ccp.enabled": False},
    "xbm": {"references.name": "memory", "ccp.enabled": False},
    # One problem that never ends; the first proxies are drawn like those of CCP.
    "fixed": {**_PROXIES, "ccp.reinitialize": False},
    "ccp": _PROXIES,
    "ema": {"references.name": "batch", "ccp.enabled": False, "training.average_momentum": 0.99},
}
TITLES = {
    "alone": "alone",
    "xbm": "with XBM",
    "fixed": "with fixed proxies",
    "ccp": "with CCP",
    "ema": "with averaged weights",
}


def ccp_comparison(
    out: str,
    losses: list[str] = tuple(LOSSES),
    references: list[str] = ("alone", "xbm", "fixed", "ccp"),
    seeds: list[int] = (0, 1, 2),
    recipe: str = "ccp-comparison",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train each loss with each kind of reference on the same batches, and evaluate MAP@R on unseen classes.

    The loss inside the batch is part of every training run, with weight 1. A memory, fixed proxies or the proxies of
    chance constrained programming are added to it.

    The runs are kept in the folder. A stopped study resumes, and another call with more losses, references or seeds
    trains only the new runs. Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        losses: Names of `LOSSES`.
        references: Names of `REFERENCES`.
        seeds: Seeds of the runs: initial weights and batches.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.ccp.patience 3.
        quick: Run C2 alone and with CCP, one seed, few steps.

    Returns:
        float array `(losses, references, seeds)`, the test MAP@R.
    """
    for kind, names, known in (("loss", losses, LOSSES), ("kind of reference", references, REFERENCES)):
        for name in names:
            if name not in known:
                raise InputError(str(unknown_name(kind, name, known)))
    overrides = dict(overrides or {})
    if quick:
        losses, references, seeds = ("c2",), ("alone", "ccp"), list(seeds)[:1]
        overrides = {
            "training.steps_per_validation": 10, "training.max_validations": 4, "ccp.patience": 1, **overrides,
        }  # fmt: skip
    results = {}
    # Seeds in the outer loop, so that an unfinished study compares all on the same seeds.
    for seed in seeds:
        for loss in losses:
            for reference in references:
                changes = {**LOSSES[loss], **REFERENCES[reference], **overrides, "seed": seed}
                folder = pathlib.Path(out).expanduser() / "runs" / f"{loss}-{reference}-{seed}"
                result = result_of(load_recipe(recipe, changes), folder)
                results.setdefault((loss, reference), []).append(result)
                print(f"{loss:16s} {reference:6s} seed {seed}: test MAP@R {result.test['map_at_r']:.4f}", flush=True)
    scores = np.array(
        [[[of.test["map_at_r"] for of in results[loss, reference]] for reference in references] for loss in losses]
    )
    report = Report(out)
    _table(report, results, list(seeds))
    report.figure(
        "ccp_comparison",
        plots.dot_plot(
            [TITLES[reference] for reference in references],
            dict(zip(losses, scores)),
            "MAP@R, unseen classes",
            baseline=TITLES[references[0]],
            sort=False,
        ),
    )
    return scores


def _table(report, results, seeds):
    rows = []
    for (loss, reference), of_seeds in results.items():
        test = {name: [result.test[name] for result in of_seeds] for name in ("map_at_r", "precision_at_1")}
        training = {name: [result.training[name] for result in of_seeds] for name in ("steps", "seconds")}
        problems = [result.training.get("projections", 0) for result in of_seeds]
        rows.append(
            [
                loss,
                TITLES[reference],
                mean_and_deviation(test["map_at_r"], ddof=1),
                mean_and_deviation(test["precision_at_1"], ddof=1),
                f"{np.mean(training['steps']):.0f}",
                f"{np.mean(training['seconds']):.0f}",
                f"{np.mean(problems):.1f}" if reference in ("fixed", "ccp") else "–",
                *(f"{score:.4f}" for score in test["map_at_r"]),
            ]
        )
    report.table(
        "ccp_comparison",
        ["loss", "", "MAP@R", "P@1", "steps", "seconds", "problems", *(f"MAP@R, seed {seed}" for seed in seeds)],
        rows,
        f"Unseen classes; mean ± standard deviation of {len(seeds)} seed(s). Keras {keras.__version__}.",
    )


if __name__ == "__main__":
    command(ccp_comparison)
