"""What does CCP depend on? The pull λ, the proxies, the pool, the alternation, and the batch.

python -m studies.ccp_ablation --out DIR
"""

import pathlib
import warnings
from typing import NamedTuple, Optional

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml._utils.naming import unknown_name
from tfdml._utils.plain_files import read_csv
from tfdml.experiments import InputError, RunFolder, load_recipe
from tfdml.experiments.runner import result_of

PARTS = ("lambda_proxies", "pool", "alternating", "steps", "batch")
IMAGES_OF_A_CLASS = 4
MOST_PROXIES = 16
# The searched λ is a power of ten. Its last decade represents 0, which is drawn in the middle of it.
SMALLEST_EXPONENT, ZERO_DECADE = -6, -7
_ZERO = (SMALLEST_EXPONENT + ZERO_DECADE) / 2
# First trials of the search. They include both ends of λ, and three of the runs belong to other parts, too.
FIRST_TRIALS = ((2e-4, 8), (0.0, 8), (1.0, 8), (2e-4, 1), (2e-4, 2), (2e-4, 4))
_VALIDATION, _TEST = "MAP@R, validation classes", "MAP@R, unseen classes"


class Setting(NamedTuple):
    """Setting of a training run. The defaults are those of the thesis.

    Attributes:
        method: `"ccp"`; `"fixed"`, one problem that never ends; or `"batch"`, the loss in the batch without proxies.
        proxies: int. Proxies per class.
        pool: int. Images per class that the proxies are chosen from.
        weight: float. λ.
        batch: int. Images in a batch, four per class.
    """

    method: str = "ccp"
    proxies: int = 8
    pool: int = 12
    weight: float = 2e-4
    batch: int = 32

    @property
    def name(self):
        """Name of the run folder, without the seed."""
        if self.method == "batch":
            return f"batch-{self.batch}"
        return f"{self.method}-p{self.proxies}-b{self.pool}-l{self.weight:g}-n{self.batch}"

    @property
    def changes(self):
        """Changes of the recipe for this setting."""
        changes = {
            "batches.classes": self.batch // IMAGES_OF_A_CLASS,
            "batches.samples_per_class": IMAGES_OF_A_CLASS,
        }
        if self.method == "batch":
            without = {"references.name": "batch", "ccp.enabled": False}
            # Without proxies there is nothing outside the network to train at another rate.
            return {**changes, **without, "optimizer.proxy_learning_rate_multiplier": 1.0}
        changes |= {
            "references.per_class": self.proxies,
            "ccp.pool_size": self.pool,
            "ccp.projection_weight": self.weight,
        }
        return {**changes, "ccp.reinitialize": False} if self.method == "fixed" else changes


class Scores(NamedTuple):
    """Results of a setting, one entry per seed.

    Attributes:
        validation: float array `(seeds,)`. Best MAP@R on the validation classes.
        test: float array `(seeds,)`. MAP@R of these weights on the test classes.
        problems: int array `(seeds,)`. Number of problems begun.
    """

    validation: np.ndarray
    test: np.ndarray
    problems: np.ndarray


class Trial(NamedTuple):
    """Trial of the search: its λ, its proxies per class, and the maximized value."""

    weight: float
    proxies: int
    value: float


class Trainings:
    """Runs of the study in a folder. Each run is trained once, even if several parts need it.

    Args:
        folder: Folder of the runs.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe. The changes of a setting take precedence.
    """

    def __init__(self, folder, recipe, overrides):
        self._folder = pathlib.Path(folder).expanduser()
        self._recipe = recipe
        self._overrides = overrides
        self._results = {}

    def folder(self, setting, seed):
        """Folder of a run."""
        return self._folder / f"{setting.name}-{seed}"

    def recipe(self, setting, seed):
        """Recipe of a run."""
        return load_recipe(self._recipe, {**self._overrides, **setting.changes, "seed": seed})

    def result(self, setting, seed):
        """Result of a run, which is trained if it does not exist."""
        folder = self.folder(setting, seed)
        if folder not in self._results:
            result = result_of(self.recipe(setting, seed), folder)
            print(f"{folder.name:32s} test MAP@R {result.test['map_at_r']:.4f}", flush=True)
            self._results[folder] = result
        return self._results[folder]

    def scores(self, settings, seeds):
        """dict from each setting to its `Scores`."""
        # Seeds in the outer loop, so that an unfinished study compares all on the same seeds.
        for seed in seeds:
            for setting in settings:
                self.result(setting, seed)
        return {setting: self._scores([self.result(setting, seed) for seed in seeds]) for setting in settings}

    @staticmethod
    def _scores(results):
        return Scores(
            np.array([result.validation["map_at_r"] for result in results]),
            np.array([result.test["map_at_r"] for result in results]),
            np.array([result.training.get("projections", 0) for result in results]),
        )


def ccp_ablation(
    out: str,
    parts: list[str] = PARTS,
    proxies: list[int] = (1, 2, 4, 8),
    pool_sizes: list[int] = (8, 12, 16),
    batch_sizes: list[int] = (16, 32, 64, 128),
    trials: int = 24,
    seeds: list[int] = (0, 1, 2),
    recipe: str = "ccp-ablation",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train C2 under CCP with other values of its hyperparameters, and evaluate MAP@R on unseen classes.

    - `lambda_proxies`: λ in 0 and 1e-6 to 1, and 1 to 16 proxies per class, by Bayesian optimization of the MAP@R on
      validation classes with Optuna (the extra `search`) and the first seed; and a regression by a Gaussian process.
    - `pool`: numbers of proxies × pool sizes. A pool as large as the number of proxies leaves no choice.
    - `alternating`: CCP, with and without the pull, against proxies that stay fixed and against no proxies.
    - `steps`: the lengths of the problems in the runs of `pool` and `alternating`.
    - `batch`: C2 inside the batch against C2 under CCP for several batch sizes, after the same number of steps and
      after the same number of images.

    The runs are kept in the folder and shared by the parts. A stopped study resumes, and another call with more parts,
    values or seeds trains only the new runs. A search is reproduced from its seed, so its finished trials cost nothing.
    Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figures and the runs.
        parts: Names of `PARTS`.
        proxies: Proxies per class in `pool`.
        pool_sizes: Pool sizes in `pool`, in addition to a pool as large as the number of proxies. Smaller ones are
            skipped.
        batch_sizes: Batch sizes in `batch`: multiples of four, since a class has four images in a batch.
        trials: Number of trials of the search.
        seeds: Seeds of the runs: initial weights and batches.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.ccp.patience 3.
        quick: Run one or two values of each, one seed, few steps.

    Returns:
        dict from each part to its result: a list of `Trial` for the search, the steps of each problem that ended for
        `steps`, otherwise a dict from `Setting` to `Scores`.
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(str(unknown_name("part", part, PARTS)))
    overrides = dict(overrides or {})
    if quick:
        # Six runs, most of them shared by several parts. In some of them a problem ends.
        proxies, pool_sizes, batch_sizes, seeds, trials = [8], [12], [32], list(seeds)[:1], min(trials, 3)
        overrides = {
            "data.options.characters": "ABCDEFGHJKLMNPQRSTUVXYZabdefghmnqrt", "optimizer.learning_rate": 0.01,
            "training.steps_per_validation": 3, "training.max_validations": 6, **overrides,
        }  # fmt: skip
    _check("proxies", proxies, 1, MOST_PROXIES)
    _check("pool_sizes", pool_sizes, 1)
    _check("batch_sizes", batch_sizes, 2 * IMAGES_OF_A_CLASS, multiple_of=IMAGES_OF_A_CLASS)
    _check("trials", [trials], 1)
    _check("seeds", seeds, 0)
    if "lambda_proxies" in parts:
        _optuna()
    trainings, report = Trainings(pathlib.Path(out).expanduser() / "runs", recipe, overrides), Report(out)
    grid = [
        Setting(proxies=number, pool=pool)
        for number in proxies
        for pool in sorted({number, *(pool for pool in pool_sizes if pool > number)})
    ]
    measured = {}
    if "alternating" in parts:
        measured["alternating"] = _alternating(report, trainings, seeds)
    if "pool" in parts:
        measured["pool"] = _pool(report, trainings, grid, seeds)
    if "steps" in parts:
        measured["steps"] = _steps(report, trainings, [Setting(), *grid], seeds)
    if "batch" in parts:
        measured["batch"] = _batch(report, trainings, batch_sizes, seeds)
    if "lambda_proxies" in parts:
        measured["lambda_proxies"] = _lambda_proxies(report, trainings, trials, seeds[0])
    return measured


def search(objective, trials, seed):
    """Maximize a function of λ and the proxies with Optuna's tree-structured Parzen estimator (Bayesian optimization).

    The search starts with `FIRST_TRIALS`. The same objective and seed reproduce the trials of an interrupted search.

    Args:
        objective: function of λ, 0 or 1e-6 to 1 with two digits, and the number of proxies, 1 to 16.
        trials: int. Number of trials.
        seed: int. Seed of the sampler.

    Returns:
        list of `Trial` in order.

    Raises:
        InputError: If Optuna is not installed.

    Reference:
        Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
    """
    optuna = _optuna()
    done = []

    def evaluate(trial):
        exponent = trial.suggest_float("exponent", ZERO_DECADE, 0.0)
        weight = float(f"{10.0**exponent:.1e}") if exponent >= SMALLEST_EXPONENT else 0.0
        number = trial.suggest_int("proxies", 1, MOST_PROXIES, log=True)
        done.append(Trial(weight, number, float(objective(weight, number))))
        return done[-1].value

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=len(FIRST_TRIALS))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for weight, number in FIRST_TRIALS:
            study.enqueue_trial({"exponent": place_of(weight), "proxies": number})
        study.optimize(evaluate, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(before)
    return done


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f"The part lambda_proxies needs Optuna, which cannot be imported ({error}). "
            "Install it with: pip install 'tfdml[search]'."
        ) from error
    return optuna


def place_of(weight):
    """Position of λ on the axis of the search: its decimal logarithm; -6.5 for 0.

    Example:
        >>> place_of(0.01), place_of(0.0)
        (-2.0, -6.5)
    """
    return float(np.log10(weight)) if weight > 0 else _ZERO


def regression(places, values, seed=0):
    r"""Fit a Gaussian process to the trials of a search.

    The kernel is $\sigma_f^2 \exp(-\lVert u - u' \rVert^2 / 2)$, where each axis is divided by a length scale, plus
    noise $\sigma_n^2$. All four parameters maximize the marginal likelihood. A length scale is at least three tenths of
    its axis, so that the surface does not interpolate single trials.

    Args:
        places: float array `(trials, 2)`. `place_of(λ)` and the binary logarithm of the proxies.
        values: float array `(trials,)`.
        seed: int. Seed of the initial values from which the likelihood is maximized. Default: 0.

    Returns:
        A function from places `(n, 2)` to means and standard deviations `(n,)` of the surface without noise, and the
        standard deviation of the noise.
    """
    low, high = np.array([ZERO_DECADE, 0.0]), np.array([0.0, np.log2(MOST_PROXIES)])
    kernel = ConstantKernel() * RBF([0.5, 0.5], (0.3, 10.0)) + WhiteKernel(0.1, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=5, random_state=seed)
    with warnings.catch_warnings():
        # A length scale at its upper limit means that the value does not depend on this axis. It is not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit((np.asarray(places, float) - low) / (high - low), np.asarray(values, float))
    noise = process.kernel_.k2.noise_level * np.std(values) ** 2

    def predict(asked):
        mean, deviation = process.predict((np.asarray(asked, float) - low) / (high - low), return_std=True)
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 0.0))

    return predict, float(np.sqrt(noise))


def steps_of_problems(folder):
    """Training steps of each finished problem of a run, in order.

    Args:
        folder: Folder of the run.
    """
    path = RunFolder.open(folder).projections
    return [int(row["steps"]) for row in read_csv(path)] if path.exists() else []


def best_within(folder, steps):
    """Best MAP@R on the validation classes within the first training steps of a run; NaN without a validation.

    Args:
        folder: Folder of the run.
        steps: int. Number of steps.
    """
    rows = read_csv(RunFolder.open(folder).history)
    values = [float(row["val_map_at_r"]) for row in rows if int(row["step"]) <= steps]
    return max(values, default=float("nan"))


def seed_deviation(scores):
    """Standard deviation of a score between seeds, pooled over all settings; NaN with one seed.

    Args:
        scores: iterable of float arrays `(seeds,)`, one per setting.
    """
    scores = np.asarray(list(scores))
    return float(np.sqrt(scores.var(axis=1, ddof=1).mean())) if scores.shape[1] > 1 else float("nan")


def _check(name, values, least, most=None, multiple_of=1):
    for value in values:
        if value < least or (most is not None and value > most) or value % multiple_of:
            expected = f"at least {least}" if most is None else f"{least} to {most}"
            expected += f" and a multiple of {multiple_of}" if multiple_of > 1 else ""
            raise InputError(f"Received: {name}={list(values)}. Expected: {expected}.")
    if not values:
        raise InputError(f"Received: no {name}. Expected: at least one.")


def _lambda_proxies(report, trainings, count, seed):
    settings = []

    def objective(weight, number):
        settings.append(Setting(proxies=number, pool=max(number, Setting().pool), weight=weight))
        return trainings.result(settings[-1], seed).validation["map_at_r"]

    trials = search(objective, count, seed)
    places = np.array([[place_of(trial.weight), np.log2(trial.proxies)] for trial in trials])
    values = np.array([trial.value for trial in trials])
    predict, noise = regression(places, values)
    means, deviations = predict(places)
    rows = []
    for number, (trial, setting) in enumerate(zip(trials, settings)):
        result = trainings.result(setting, seed)
        rows.append(
            [
                number,
                f"{trial.weight:g}",
                trial.proxies,
                f"{trial.value:.4f}",
                f"{result.test['map_at_r']:.4f}",
                result.training["projections"],
                f"{means[number]:.3f} ± {deviations[number]:.3f}",
            ]
        )
    best = trials[values.argmax()]
    x, y = np.linspace(ZERO_DECADE, 0.0, 141), np.linspace(0.0, np.log2(MOST_PROXIES), 81)
    surface = predict(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))[0].reshape(len(y), len(x))
    row, column = np.unravel_index(surface.argmax(), surface.shape)
    top = f"{10.0 ** x[column]:.1g}" if x[column] >= SMALLEST_EXPONENT else "0"
    report.table(
        "lambda_proxies",
        ["trial", "λ", "proxies", _VALIDATION, _TEST, "problems", "Gaussian process"],
        rows,
        f"Best trial: λ = {best.weight:g}, {best.proxies} proxies, {best.value:.4f}. Maximum of the regression: "
        f"λ = {top}, {2 ** y[row]:.0f} proxies, {surface.max():.4f}; its minimum: {surface.min():.4f}; "
        f"standard deviation of its noise: {noise:.4f}. Seed {seed}. Keras {keras.__version__}.",
    )
    report.figure(
        "lambda_proxies",
        plots.response_surface(
            x,
            y,
            surface,
            places,
            values,
            "pull λ",
            "proxies per class",
            "MAP@R, validation classes",
            x_ticks={_ZERO: "0", **{float(k): f"$10^{{{k}}}$" for k in range(SMALLEST_EXPONENT + 1, 1, 2)}},
            x_break=SMALLEST_EXPONENT,
            y_ticks={float(np.log2(k)): str(k) for k in (1, 2, 4, 8, 16)},
        ),
    )
    return trials


def _pool(report, trainings, grid, seeds):
    scores = trainings.scores(grid, seeds)
    _table(report, "pool", ["proxies", "pool"], {(of.proxies, of.pool): scores[of] for of in grid}, seeds)
    names = [f"{of.proxies} prox{'y' if of.proxies == 1 else 'ies'} of {of.pool}" for of in grid]
    report.figure("pool", _dots(names, scores.values()))
    return scores


def _alternating(report, trainings, seeds):
    settings = {
        "C2 in the batch": Setting("batch"),
        "fixed proxies": Setting("fixed"),
        "alternating, λ = 0": Setting(weight=0.0),
        "alternating": Setting(),
    }
    scores = trainings.scores(settings.values(), seeds)
    rows = {(title,): scores[setting] for title, setting in settings.items()}
    _table(report, "alternating", [""], rows, seeds)
    report.figure("alternating", _dots(list(settings), [scores[setting] for setting in settings.values()]))
    return scores


def _steps(report, trainings, settings, seeds):
    settings = list(dict.fromkeys(settings))
    trainings.scores(settings, seeds)
    recipe = trainings.recipe(settings[0], seeds[0])
    between = recipe.training.steps_per_validation
    shortest = between * (1 + recipe.ccp.patience)
    runs = [steps_of_problems(trainings.folder(setting, seed)) for setting in settings for seed in seeds]
    groups = {
        "first problem": [steps for run in runs for steps in run[:1]],
        "later problems": [steps for run in runs for steps in run[1:]],
    }
    everything = [steps for steps_of_group in groups.values() for steps in steps_of_group]
    report.table(
        "steps",
        ["", "problems", "shortest", "quartile", "median", "quartile", "longest", "of minimum length (%)"],
        [
            [
                name,
                len(steps),
                *(f"{value:.0f}" for value in np.percentile(steps, [0, 25, 50, 75, 100])),
                f"{100 * np.mean(np.array(steps) <= shortest):.0f}",
            ]
            for name, steps in groups.items()
            if steps
        ],
        f"Steps of the {len(everything)} finished problems of {len(runs)} runs; others were cut off. "
        f"A validation every {between} steps, patience {recipe.ccp.patience}: the minimum length is {shortest}. "
        f"Keras {keras.__version__}.",
    )
    if everything:
        # Problems end at validations.
        edges = between * (np.arange(1, -(-max(everything) // between) + 2) - 0.5)
        marks = {f"median {np.median(everything):g}": np.median(everything)}
        report.figure(
            "steps",
            plots.histogram(groups, edges, "training steps of a problem", "number of problems", marks=marks),
        )
    return everything


def _batch(report, trainings, sizes, seeds):
    kinds = {"C2 in the batch": "batch", "C2 + CCP": "ccp"}
    settings = {(title, size): Setting(method, batch=size) for title, method in kinds.items() for size in sizes}
    scores = trainings.scores(settings.values(), seeds)
    # All have the same number of steps. This is the number of images that the smallest batch has seen in all of them.
    training = trainings.recipe(Setting(), seeds[0]).training
    images = min(sizes) * training.steps_per_validation * training.max_validations
    early = {
        key: [best_within(trainings.folder(setting, seed), images // setting.batch) for seed in seeds]
        for key, setting in settings.items()
    }
    _table(
        report,
        "batch",
        ["", "batch"],
        {key: scores[setting] for key, setting in settings.items()},
        seeds,
        {f"validation, {images:,} images seen": early},
    )
    panels = []
    for label, place in ((_VALIDATION, 0), (_TEST, 1)):
        values = {title: np.array([scores[settings[title, size]][place] for size in sizes]) for title in kinds}
        bands = {}
        if len(seeds) > 1:
            spread = {title: (of.mean(axis=1), of.std(axis=1, ddof=1)) for title, of in values.items()}
            bands = {title: (mean - deviation, mean + deviation) for title, (mean, deviation) in spread.items()}
        lines = {title: (sizes, of.mean(axis=1)) for title, of in values.items()}
        panels.append(plots.LinePanel(label, lines, bands))
    report.figure("batch", plots.line_panels(panels, "images in a batch", x_log=True))
    return scores


def _dots(names, scores):
    """Dot plot of the scores of settings."""
    scores = list(scores)
    series = {
        "validation classes": np.array([of.validation for of in scores]),
        "unseen classes": np.array([of.test for of in scores]),
    }
    return plots.dot_plot(names, series, "MAP@R", sort=False)


def _table(report, name, keys, scores, seeds, more=None):
    """Write a table. `scores` maps row keys to `Scores`, `more` further column titles to values by row key."""
    more = more or {}
    rows = [
        [
            *key,
            mean_and_deviation(of.validation, ddof=1),
            mean_and_deviation(of.test, ddof=1),
            *(mean_and_deviation(column[key], ddof=1) for column in more.values()),
            f"{of.problems.mean():.1f}" if of.problems.any() else "–",
            *(f"{score:.4f}" for score in of.test),
        ]
        for key, of in scores.items()
    ]
    noise = ""
    if len(seeds) > 1:
        validation, test = (seed_deviation(of[place] for of in scores.values()) for place in (0, 1))
        noise = f" Standard deviation between seeds, over all rows: {validation:.4f} (validation), {test:.4f} (unseen)."
    report.table(
        name,
        [*keys, _VALIDATION, _TEST, *more, "problems", *(f"unseen, seed {seed}" for seed in seeds)],
        rows,
        f"Mean ± standard deviation of {len(seeds)} seed(s).{noise} Keras {keras.__version__}.",
    )


if __name__ == "__main__":
    command(ccp_ablation)
