"""Does the effect of CCP on the training classes carry over to unseen ones? Their geometry after each problem.

python -m studies.ccp_transfer --out DIR
"""

import pathlib
from typing import NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml import data, metrics
from tfdml._utils.files import whole_file
from tfdml._utils.plain_files import read_csv
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.builders import load_data, restore_embedder
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import result_of
from tfdml.models import embed
from tfdml.models.snapshot import ordered_weights
from tfdml.plots import style

SETTING = {
    "data.size": 24,
    "training.steps_per_validation": 50,
    "training.max_validations": 20,
    # All runs have the same length.
    "training.patience": 10**6,
    "ccp.patience": 2,
    "evaluation.figures": False,
}
# One problem that never ends: the first one of CCP, with the number of steps of all of them.
KINDS = {"fixed": {"ccp.reinitialize": False}, "ccp": {}}
_WEIGHTS = "problems"
_FIRST, _BEST, _FIXED = "problem 1", "CCP, best of all", "fixed proxies"
_MOST_PANELS = 6
# Enough classes to split, and few enough to render in seconds.
_QUICK_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghmnqrt"


class Geometry(NamedTuple):
    """Geometry of the samples of unseen classes in an embedding space.

    Attributes:
        map_at_r, precision_at_1: float, 0 to 1.
        covering_radius: float. See `metrics.mean_covering_radius`.
        interclass_distance: float. Mean l2 distance between samples of different classes.
        class_spread: float. Mean l2 distance of a sample to its class mean.
        relative_radius: float. The covering radius divided by the distance between classes, which removes the scale.
    """

    map_at_r: float
    precision_at_1: float
    covering_radius: float
    interclass_distance: float
    class_spread: float
    relative_radius: float


_COLUMNS = ["MAP@R", "P@1", "covering radius", "inter-class distance", "class spread", "radius / distance"]


class Solution(NamedTuple):
    """The best weights of a problem.

    Attributes:
        step: int. Training step at which they were reached.
        validation: float. MAP@R on the validation classes, which selects them.
        embeddings: float array `(n, d)`. Embeddings of the samples of unseen classes.
        geometry: Their `Geometry`.
    """

    step: int
    validation: float
    embeddings: np.ndarray
    geometry: Geometry


class ProblemWeights(keras.callbacks.Callback):
    """Write the best weights of the embedder in each problem of a `CCPModel` as `1.npz`, `2.npz`, …

    The next problem is pulled towards the weights of a solved one. The weights of the last problem are the best so far.
    Put this callback after `AlternatingProjections`. It has no state: the best weights are part of the model, so
    those of the current problem are written again when an interrupted run resumes.

    Args:
        folder: str or path. Created at the first write.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = pathlib.Path(folder).expanduser()
        self._written = None

    def on_train_begin(self, logs=None):
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        self._write()

    def _write(self):
        model = self.model
        problem, best = int(model.projection) + 1, float(tf.convert_to_tensor(model.best_value))
        if not np.isfinite(best) or (problem, best) == self._written:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{problem}.npz"
        weights = [np.asarray(copy) for _, copy in model.best.pairs(ordered_weights(model.embedder))]
        with whole_file(path) as file:
            np.savez(file, *weights)
        self._written = problem, best


def ccp_transfer(
    out: str,
    seeds: list[int] = (0, 1, 2),
    recipe: str = "gap-ccp",
    overrides: Optional[dict] = None,
    shown_classes: int = 20,
    quick: bool = False,
):
    """Train with alternating and with fixed proxies, and measure the geometry of unseen classes after each problem.

    The first proxy problem alone is compared with the later ones. More steps alone improve an embedding, so the first
    problem is also continued with fixed proxies for the same number of steps. For each problem and for the fixed
    proxies the best weights by MAP@R on the validation classes count.

    The runs are kept in the folder. A stopped study resumes, and another call with more seeds trains only the new runs.
    Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        seeds: Seeds of the runs: initial weights, batches and pools.
        recipe: Recipe with CCP.
        overrides: Changes of the recipe, as in --overrides.ccp.in_batch_weight 0.
        shown_classes: Number of unseen classes in the figure of the first seed.
        quick: Run few characters, one seed, few steps.

    Returns:
        list with a dict per seed: a `Geometry` for `"problem 1"`, `"problem 2"`, … (the last one may not have ended),
        `"CCP, best of all"` (one of these) and `"fixed proxies"`.

    Raises:
        ValueError: If a run in the folder has another recipe, or was not trained by this study.
    """
    if shown_classes < 2:
        raise InputError(f"Received: shown_classes={shown_classes}. Expected: at least 2.")
    overrides = {**SETTING, **(overrides or {})}
    if quick:
        seeds = list(seeds)[:1]
        overrides = {
            **overrides, "data.options.characters": _QUICK_CHARACTERS, "training.steps_per_validation": 5,
            "training.max_validations": 14, "ccp.patience": 1,
        }  # fmt: skip
    solutions = []
    for seed in seeds:
        runs = {}
        for kind, changes in KINDS.items():
            runs[kind] = pathlib.Path(out).expanduser() / "runs" / f"{kind}-{seed}"
            callback = ProblemWeights(runs[kind] / _WEIGHTS)
            changed = load_recipe(recipe, {**overrides, **changes, "seed": seed})
            result = result_of(changed, runs[kind], extra_callbacks=[callback])
            print(f"{kind:6s} seed {seed}: test MAP@R {result.test['map_at_r']:.4f}", flush=True)
        datasets = load_data(changed)
        solutions.append(_solutions(runs, datasets))
    report = Report(out)
    _tables(report, solutions, list(seeds))
    report.figure("embeddings", _figure(solutions[0], datasets.test, shown_classes))
    return [{name: solution.geometry for name, solution in of_seed.items()} for of_seed in solutions]


def geometry(embeddings, labels):
    """Compute the `Geometry` of embeddings `(n, d)` with labels `(n,)`."""
    retrieval = metrics.retrieval_metrics(embeddings, labels)
    radius = metrics.mean_covering_radius(embeddings, labels)
    distance = metrics.interclass_distance(embeddings, labels)
    return Geometry(
        retrieval["map_at_r"],
        retrieval["precision_at_1"],
        radius,
        distance,
        metrics.class_spread(embeddings, labels),
        radius / distance,
    )


def _solutions(runs, datasets):
    """dict from names to the `Solution` of each problem of CCP, the best of them, and the fixed proxies."""
    problems = _solved(runs["ccp"], datasets)
    best = max(problems, key=lambda solution: solution.validation)
    (fixed,) = _solved(runs["fixed"], datasets)
    return {
        **{f"problem {number + 1}": solution for number, solution in enumerate(problems)},
        _BEST: best,
        _FIXED: fixed,
    }


def _solved(path, datasets):
    """The `Solution` of each problem of a run."""
    folder = RunFolder.open(path)
    run = folder.load_recipe()
    embedder = restore_embedder(run, folder.best_weights)
    found = []
    for number, (step, validation) in enumerate(best_validations(folder.history, run.warmup_validations)):
        file = path / _WEIGHTS / f"{number + 1}.npz"
        if not file.exists():
            raise InputError(
                f"{path} has no weights of problem {number + 1}: this study did not train it. Choose another --out, "
                "or remove the folder to train again."
            )
        with np.load(file, allow_pickle=False) as arrays:
            for weight, name in zip(ordered_weights(embedder), arrays.files):
                weight.assign(arrays[name])
        embeddings, labels = embed(embedder, data.evaluation_batches(datasets.test, 256, datasets.preprocessing))
        found.append(Solution(step, validation, embeddings, geometry(embeddings, labels)))
    return found


def best_validations(history, passed_over=0):
    """Find the step and the value of the first best MAP@R of each problem in the `history.csv` of a run.

    Args:
        history: Path of the file.
        passed_over: int. Number of validations at the beginning that do not count, such as those of a warm-up.
    """
    best = {}
    for row in read_csv(history)[passed_over:]:
        problem, step, value = int(row["projection"]), int(row["step"]), float(row["val_map_at_r"])
        if problem not in best or value > best[problem][1]:
            best[problem] = step, value
    return list(best.values())


def _tables(report, solutions, seeds):
    problems = max(len(of_seed) for of_seed in solutions) - 2
    names = [*(f"problem {number + 1}" for number in range(problems)), _BEST, _FIXED]
    rows = []
    for name in names:
        found = [of_seed[name] for of_seed in solutions if name in of_seed]
        rows.append(
            [
                name,
                len(found),
                mean_and_deviation([solution.step for solution in found], digits=0, ddof=1),
                *(mean_and_deviation(values, ddof=1) for values in zip(*(solution.geometry for solution in found))),
            ]
        )
    report.table(
        "ccp_transfer",
        ["best weights of", "seeds", "at step", *_COLUMNS],
        rows,
        f"Unseen classes; mean ± standard deviation of the seeds that reached the problem. Keras {keras.__version__}.",
    )
    changes = []
    for after, before in ((_BEST, _FIRST), (_FIXED, _FIRST), (_BEST, _FIXED)):
        pairs = [(of_seed[after].geometry, of_seed[before].geometry) for of_seed in solutions]
        differences = np.array([np.subtract(*pair) for pair in pairs])
        changes.append(
            [f"{after}, minus {before}", *(mean_and_deviation(values, ddof=1) for values in differences.T)]
        )
    report.table(
        "changes",
        ["", *_COLUMNS],
        changes,
        f"Differences within a seed: mean ± standard deviation of {len(seeds)} seed(s).",
    )
    report.table(
        "seeds",
        ["seed", "best weights of", "at step", "validation MAP@R", *_COLUMNS],
        [
            [seed, name, solution.step, f"{solution.validation:.4f}", *(f"{value:.4f}" for value in solution.geometry)]
            for seed, of_seed in zip(seeds, solutions)
            for name, solution in of_seed.items()
        ],
        "Values of each seed, from which the other tables are computed.",
    )


def _figure(solutions, test, shown_classes):
    """Draw some unseen classes after at most five problems, and with fixed proxies."""
    problems = [name for name in solutions if name not in (_BEST, _FIXED)]
    chosen = np.unique(np.linspace(0, len(problems) - 1, min(len(problems), _MOST_PANELS - 1)).astype(int))
    classes = np.linspace(0, test.num_classes - 1, min(shown_classes, test.num_classes)).astype(int)
    members = np.isin(test.labels, classes)
    panels = {}
    for name in [*(problems[index] for index in chosen), _FIXED]:
        found = solutions[name].geometry
        heading = (
            f"{name}, {solutions[name].step} steps\nMAP@R {found.map_at_r:.3f}\n"
            f"radius {found.covering_radius:.3f}, distance {found.interclass_distance:.3f}"
        )
        panels[heading] = solutions[name].embeddings[members]
    columns = 2 if len(panels) == 4 else 3
    return plots.embedding_panels(
        panels,
        test.labels[members],
        test.class_names,
        columns=columns,
        # The mean size of a class, so that most neighbors are of the same class.
        perplexity=members.sum() / len(classes),
        width=style.TEXT_WIDTH * columns / 3,
    )


if __name__ == "__main__":
    command(ccp_transfer)
