"""Which losses and additions pay on Emoji: fine-tuning, the same among clutter, and heads on frozen features?

python -m studies.finetuning --out DIR --data EMOJI
python -m studies.finetuning --out DIR --data EMOJI --recipe finetune-collage
python -m studies.finetuning --out DIR --data FEATURES --recipe features
"""

import pathlib
from typing import Optional

import numpy as np

from studies.report import Report, append_rows, command, mean_and_deviation, paired_interval, read_rows
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.recipe_files import recipe_hash
from tfdml.experiments.runner import result_of

RESULTS = pathlib.Path(__file__).parent / "results"
_CLASSES = {"data.validation_classes": 0.1, "data.test_classes": "published"}
# What all methods share besides the recipe. Fine-tuning is shorter than in the recipe, so that there can be more runs.
SHARED = {
    "finetune": {"training.max_validations": 9, "training.patience": 9, "evaluation.figures": False},
    "finetune-collage": {"evaluation.figures": False},
    "features": {**_CLASSES, "evaluation.figures": False},
}
LEARNING_RATES = {
    "finetune": (3e-5, 1e-4, 3e-4), "finetune-collage": (1e-4, 3e-4, 1e-3), "features": (1e-4, 3e-4, 1e-3, 3e-3)
}  # fmt: skip
# Where the folder of the data stands in a recipe.
_PATHS = {"finetune-collage": "data.options.target_options.path"}
_PROXIES = {"references.name": "proxies", "references.per_class": 1, "optimizer.proxy_learning_rate_multiplier": 100.0}
LOSSES = {
    "c1": {"loss.name": "c1", "loss.options": {}},
    "c2": {"loss.name": "c2", "loss.options": {"positive_margin": 0.2652, "negative_margin": 0.5409}},
    "triplet": {"loss.name": "triplet_all", "loss.options": {"margin": 0.0961}},
    "multi_similarity": {"loss.name": "multi_similarity", "loss.options": {}},
    "proxy_anchor": {"loss.name": "proxy_anchor", "loss.options": {}, **_PROXIES},
    "soft_triple": {"loss.name": "soft_triple", "loss.options": {}, **_PROXIES, "references.per_class": 4},
}
_FIXED_PROXIES = {"references.name": "proxies", "references.per_class": 4}
_CCP = {**_FIXED_PROXIES, "ccp.enabled": True, "ccp.max_steps": 40, "model.normalization": "clip"}
_PATIENCE = {**_CCP, "ccp.max_steps": None}
ADDITIONS = {
    "gsp": {"model.pooling": "gsp"},
    # As on the collages of the thesis, and as the author's code starts the prototypes.
    "gsp_collage": {"model.pooling": "gsp", "model.gsp.ratio": 0.2, "model.gsp.smoothing": 10.0},
    "gsp_pooled": {"model.pooling": "gsp", "model.gsp.start": "pooled"},
    "frozen": {"model.frozen_layers": ["backbone"]},
    "targets": {"data.options.distilled": True, "data.size": 48},
    "zero_shot": {"zero_shot.enabled": True},
    "xml": {"cross_batch.enabled": True},
    "xbm": {"references.name": "memory", "references.memory_size": 2048, "references.memory_warmup": 100},
    "clip": {"model.normalization": "clip"},
    "proxies": _FIXED_PROXIES,
    "ccp": _CCP,
    "ccp_patience": _PATIENCE,
    "ccp_10": {**_CCP, "ccp.max_steps": 10},
    "ccp_160": {**_CCP, "ccp.max_steps": 160},
    "ccp_growing": {**_CCP, "ccp.max_steps_growth": 1.2},
    "ccp_memory": {**_CCP, "ccp.refresh": "memory"},
    "ccp_near": {**_CCP, "ccp.given": "near"},
    "ccp_none": {**_CCP, "ccp.given": "none"},
    "ccp_8": {**_CCP, "references.per_class": 8},
    "ccp_random": {**_CCP, "ccp.pool_size": 1},
    "ccp_in_batch": {**_CCP, "ccp.in_batch_weight": 0.1},
    "ccp_in_batch_1": {**_CCP, "ccp.in_batch_weight": 1.0},
    "ccp_free": {**_CCP, "ccp.projection_weight": 0.0},
    "ccp_pulled": {**_CCP, "ccp.projection_weight": 2e-3},
    "ccp_xbm": {**_CCP, "references.name": "proxies_and_memory", "references.memory_size": 2048,
                "references.memory_warmup": 100},
    # What the author's code does differently, one by one and together.
    "ccp_last": {**_PATIENCE, "ccp.restore": "last"},
    "ccp_head": {**_CCP, "ccp.k_center_on": "head"},
    "ccp_head_in_batch": {**_CCP, "ccp.k_center_on": "head", "ccp.in_batch_weight": 0.1},
    "ccp_origin": {**_CCP, "ccp.first_proxies": "origin"},
    "ccp_7": {**_CCP, "references.per_class": 7},
    "ccp_l2": {**_CCP, "model.normalization": "l2"},
    "ccp_augmented": {**_CCP, "ccp.augment_pool": True},
    "ccp_author": {**_PATIENCE, "ccp.restore": "last", "ccp.k_center_on": "head", "ccp.first_proxies": "origin",
                   "ccp.in_batch_weight": 0.1, "references.per_class": 7},
}  # fmt: skip
# What needs images, and not their features.
_OF_NETWORKS = {"gsp", "gsp_collage", "gsp_pooled", "zero_shot", "xml", "frozen", "targets"}
# The first ones matter most.
METHODS = (
    "c2",
    "c2+gsp",
    "c2+ccp",
    "multi_similarity",
    "multi_similarity+ccp",
    "c2+xbm",
    "c2+gsp+zero_shot",
    "c2+ccp+gsp",
    "multi_similarity+gsp",
    "c2+xml",
    "c2+proxies",
    "c1",
    "c1+ccp",
    "triplet",
    "proxy_anchor",
    "multi_similarity+xbm",
    "multi_similarity+gsp+zero_shot",
    "triplet+ccp",
    "c1+gsp",
    "c1+xbm",
    "triplet+gsp",
    "soft_triple",
    "proxy_anchor+gsp",
)
# What matters in CCP: the length of problems, the pool, the proxies that count, the pull, the loss in the batch.
CCP_METHODS = tuple(f"c2+{name}" for name in ADDITIONS if name.startswith("ccp"))
COLUMNS = (
    "method", "learning_rate", "seed", "steps", "best_step", "seconds", "untrained_map_at_r", "validation_map_at_r",
    "test_map_at_r", "test_precision_at_1", "recipe_hash",
)  # fmt: skip


def finetuning(
    out: str,
    data: Optional[str] = None,
    recipe: str = "finetune",
    methods: Optional[list[str]] = None,
    seeds: Optional[list[int]] = None,
    learning_rates: Optional[list[float]] = None,
    results: Optional[str] = None,
    overrides: Optional[dict] = None,
):
    """Train by each method, and compare MAP@R on unseen emoji.

    A method is a loss with additions, such as `c2+gsp`; poolings do not apply to frozen features. Its learning rate is
    the best one on the validation classes with the first seed. The methods share the data, the batches and the initial
    network of a seed, so they are compared by their differences in each seed.

    Each finished run is a row of the results file, from which the tables are made, and is not repeated. Rows of other
    definitions of a method, which have another hash, are ignored. A stopped study resumes.

    Args:
        out: Folder for the tables and the runs.
        data: Folder that `tfdml-prepare emoji` prepared, or that of its features. Without it nothing is trained: the
            tables show the results that are there.
        recipe: `finetune`, `finetune-collage` or `features`.
        methods: Methods, in the order of their runs. By default a selection; without data all that have results.
        seeds: Seeds of the runs with the best learning rate; the first one is also that of the search. By default 0, 1
            and 2; without data all that have results.
        learning_rates: Learning rates to choose from; by default three or four that suit the recipe.
        results: CSV file of the results; by default that of the repository.
        overrides: Changes of the recipe, as in --overrides.training.max_validations 2.

    Returns:
        dict from the method to the results of its seeds with the best learning rate, dicts by `COLUMNS`.
    """
    if recipe not in SHARED:
        raise InputError(str(unknown_name("recipe", recipe, SHARED)))
    results = pathlib.Path(results or RESULTS / f"{recipe}.csv").expanduser()
    finished = [] if data is not None else list(read_results(results).values())
    if methods is None:
        methods = dict.fromkeys([*METHODS, *(row["method"] for row in finished)])
    if seeds is None:
        seeds = sorted({0, 1, 2, *(row["seed"] for row in finished)})
    if recipe == "features":
        methods = [method for method in methods if not _OF_NETWORKS & set(method.split("+"))]
    study = _Study(recipe, pathlib.Path(out).expanduser(), data, results, overrides)
    found = {}
    for method in methods:
        search = study.runs(method, seeds[:1], learning_rates or LEARNING_RATES[recipe])
        if not search:
            continue
        best = max(search, key=lambda row: row["validation_map_at_r"])["learning_rate"]
        found[method] = study.runs(method, seeds, [best])
    _report(Report(out), recipe, found)
    return found


def changes_of(method):
    """Return the changes of the recipe that make a method, by dotted keys.

    Example:
        >>> changes_of("c1+gsp")
        {'loss.name': 'c1', 'loss.options': {}, 'model.pooling': 'gsp'}
    """
    loss, *additions = method.split("+")
    for name, kind, known in [(loss, "loss", LOSSES), *((name, "addition", ADDITIONS) for name in additions)]:
        if name not in known:
            raise InputError(str(unknown_name(kind, name, known)))
    changes = dict(LOSSES[loss])
    for name in additions:
        changes.update(ADDITIONS[name])
    return changes


class _Study:
    """Trains runs that are not in the results file, and reads those that are."""

    def __init__(self, name, folder, data, results, overrides):
        self.name, self.folder, self.data, self.results = name, folder, data, results
        self.overrides = {**SHARED[name], **(overrides or {})}

    def runs(self, method, seeds, learning_rates):
        """Return the rows of the runs of a method, those that are there if nothing can be trained."""
        rows = [self.run(method, seed, rate) for seed in seeds for rate in learning_rates]
        return [row for row in rows if row is not None]

    def run(self, method, seed, learning_rate):
        """Return the row of one run, or None if it is neither there nor can be trained."""
        changes = {**changes_of(method), "seed": seed, "optimizer.learning_rate": learning_rate}
        if "data.options" not in self.overrides:
            changes[_PATHS.get(self.name, "data.options.path")] = self.data or "data"
        recipe = load_recipe(self.name, {**changes, **self.overrides})
        row = read_results(self.results).get(recipe_hash(recipe))
        if row is not None or self.data is None:
            return row
        result = result_of(recipe, self.folder / "runs" / f"{method}-{learning_rate:g}-{seed}")
        row = {
            "method": method,
            "learning_rate": learning_rate,
            "seed": seed,
            "steps": result.training["steps"],
            "best_step": result.validation["epoch"] * recipe.training.steps_per_validation,
            "seconds": round(result.training["seconds"]),
            "untrained_map_at_r": round(result.untrained["map_at_r"], 5),
            "validation_map_at_r": round(result.validation[recipe.training.monitor], 5),
            "test_map_at_r": round(result.test["map_at_r"], 5),
            "test_precision_at_1": round(result.test["precision_at_1"], 5),
            "recipe_hash": recipe_hash(recipe),
        }
        append_rows(self.results, COLUMNS, [row])
        print(f"{method:32s} {learning_rate:g} seed {seed}: test MAP@R {row['test_map_at_r']:.4f}", flush=True)
        return row


def read_results(path):
    """Read a results file.

    Args:
        path: path of a CSV file. If there is none, there are no results.

    Returns:
        dict from the hash of a recipe to the row of its run, a dict by `COLUMNS`.
    """
    return {
        row["recipe_hash"]: {key: _typed(key, value) for key, value in row.items()} for row in read_rows(path)
    }


def _typed(column, text):
    if column in ("method", "recipe_hash"):
        return text
    return int(text) if column in ("seed", "steps", "best_step", "seconds") else float(text)


def _report(report, recipe, found):
    rows = []
    for method, runs in found.items():
        loss, *additions = method.split("+")
        alone = f"{loss}+frozen" if "frozen" in additions else loss
        baseline, ccp = found.get(alone, []), found.get(f"{loss}+ccp", [])
        rows.append(
            [
                method,
                f"{runs[0]['learning_rate']:g}" if runs else "",
                mean_and_deviation(_values(runs, "validation_map_at_r"), ddof=1),
                mean_and_deviation(_values(runs, "test_map_at_r"), ddof=1),
                mean_and_deviation(_values(runs, "test_precision_at_1"), ddof=1),
                "" if runs is baseline else difference(runs, baseline),
                difference(runs, ccp) if additions and additions[0].startswith("ccp_") else "",
                len(runs),
            ]
        )
    report.table(
        recipe,
        [
            "method",
            "learning rate",
            "validation MAP@R",
            "test MAP@R",
            "test P@1",
            "difference from the loss alone",
            "difference from CCP",
            "seeds",
        ],
        rows,
        "Unseen emoji: mean ± standard deviation over the seeds, and the mean paired difference in MAP@R with its 95 % "
        "t interval.",
    )


def difference(runs, baseline, metric="test_map_at_r"):
    """Format the mean difference of two methods over their common seeds, with its interval; `""` if there are none."""
    of_seed = {row["seed"]: row[metric] for row in baseline}
    differences = [row[metric] - of_seed[row["seed"]] for row in runs if row["seed"] in of_seed]
    return paired_interval(np.array(differences)) if differences else ""


def _values(runs, key):
    return np.array([row[key] for row in runs])


if __name__ == "__main__":
    command(finetuning)
