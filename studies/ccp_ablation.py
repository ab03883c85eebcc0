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
# The searched λ is a power of ten; in the last decade it is 0, which is drawn in the middle of that decade.
SMALLEST_EXPONENT, ZERO_DECADE = -6, -7
_ZERO = (SMALLEST_EXPONENT + ZERO_DECADE) / 2
# The search begins here: three of these trainings are among those of the other parts, and both ends of λ are there.
FIRST_TRIALS = ((2e-4, 8), (0.0, 8), (1.0, 8), (2e-4, 1), (2e-4, 2), (2e-4, 4))
_VALIDATION, _TEST = "MAP@R, validation classes", "MAP@R, unseen classes"


class Setting(NamedTuple):
    """What a training of the study has; the defaults are the thesis' choice.

    Attributes:
        method: `"ccp"`; `"fixed"`, one problem that never ends; or `"batch"`, no proxies, the loss inside the batch.
        proxies: Of each class.
        pool: Images of each class that the proxies are chosen from.
        weight: λ.
        batch: Images in a batch, four of each class.
    """

    method: str = "ccp"
    proxies: int = 8
    pool: int = 12
    weight: float = 2e-4
    batch: int = 32

    @property
    def name(self):
        """Of the run's folder, without the seed."""
        if self.method == "batch":
            return f"batch-{self.batch}"
        return f"{self.method}-p{self.proxies}-b{self.pool}-l{self.weight:g}-n{self.batch}"

    @property
    def changes(self):
        """What it changes in the recipe."""
        changes = {
            "batches.classes": self.batch // IMAGES_OF_A_CLASS,
            "batches.samples_per_class": IMAGES_OF_A_CLASS,
        }
        if self.method == "batch":
            without = {"references.name": "batch", "ccp.enabled": False}
            # There is nothing outside the network that could be trained faster.
            return {**changes, **without, "optimizer.proxy_learning_rate_multiplier": 1.0}
        changes |= {
            "references.per_class": self.proxies,
            "ccp.pool_size": self.pool,
            "ccp.projection_weight": self.weight,
        }
        return {**changes, "ccp.reinitialize": False} if self.method == "fixed" else changes


class Scores(NamedTuple):
    """What a setting's trainings gave, `(seeds,)` each.

    Attributes:
        validation: Best MAP@R on the validation classes.
        test: MAP@R of these weights on the test classes.
        problems: How many were begun.
    """

    validation: np.ndarray
    test: np.ndarray
    problems: np.ndarray


class Trial(NamedTuple):
    """A point of the search and what it gave: its λ, its proxies of each class, and the value to be raised."""

    weight: float
    proxies: int
    value: float


class Trainings:
    """The runs of the study in a folder. Each is done once, whatever parts ask for it.

    Args:
        folder: Where they are.
        recipe: What is equal for all.
        overrides: Changes of the recipe; what a setting has goes before them.
    """

    def __init__(self, folder, recipe, overrides):
        self._folder = pathlib.Path(folder).expanduser()
        self._recipe = recipe
        self._overrides = overrides
        self._results = {}

    def folder(self, setting, seed):
        """Of a run."""
        return self._folder / f"{setting.name}-{seed}"

    def recipe(self, setting, seed):
        """Of a run."""
        return load_recipe(self._recipe, {**self._overrides, **setting.changes, "seed": seed})

    def result(self, setting, seed):
        """Of a run, which is trained if it is not there."""
        folder = self.folder(setting, seed)
        if folder not in self._results:
            result = result_of(self.recipe(setting, seed), folder)
            print(f"{folder.name:32s} test MAP@R {result.test['map_at_r']:.4f}", flush=True)
            self._results[folder] = result
        return self._results[folder]

    def scores(self, settings, seeds):
        """From a setting to its `Scores`."""
        # Seeds outside: a study that is looked at before its end compares all on the same seeds.
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
    """Trains C2 under CCP with other values of its hyperparameters, and judges by MAP@R on unseen classes.

    - `lambda_proxies`: λ in 0 and 1e-6 to 1, and 1 to 16 proxies of each class, by Bayesian optimisation with Optuna
      (the extra `search`), with the first seed, towards the best MAP@R on validation classes; and a regression by a
      Gaussian process.
    - `pool`: numbers of proxies × sizes of the pool. As large as the number of proxies, it leaves no choice.
    - `alternating`: CCP, with and without the pull, against its first proxies for good and against no proxies.
    - `steps`: how long the problems of the trainings of `pool` and `alternating` were.
    - `batch`: C2 inside the batch against C2 under CCP for sizes of the batch: after as many steps, and after as many
      images.

    The runs are kept in the folder, and shared by the parts: a study that was stopped goes on, and one that is called
    again with more parts, values or seeds trains only what is new. A search is repeated from its seed, so its finished
    trials cost nothing. Several calls at a time, each with seeds of its own, share a folder.

    Args:
        out: Folder for the tables, the figures and the runs.
        parts: Names of `PARTS`.
        proxies: Of each class, in `pool`.
        pool_sizes: In `pool`, beside a pool of as many images as proxies; smaller ones than that are left out.
        batch_sizes: In `batch`: multiples of four, since a class has four images in a batch.
        trials: Of the search.
        seeds: Seeds of the runs: first weights and batches.
        recipe: What is equal for all.
        overrides: Changes of the recipe, as in --overrides.ccp.patience 3.
        quick: One value or two of each, one seed, few steps.

    Returns:
        From each part to what it measured: a list of `Trial` for the search, the steps of each problem that ended for
        `steps`, else from `Setting` to `Scores`.
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(str(unknown_name("part", part, PARTS)))
    overrides = dict(overrides or {})
    if quick:
        # Six trainings, most of them of several parts; in some a problem ends.
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
    """Maximises a function of λ and the proxies by Bayesian optimisation: Optuna's tree-structured Parzen estimator.

    It begins with `FIRST_TRIALS`. The same objective and seed give the same trials; an interrupted search is repeated.

    Args:
        objective: From λ, 0 or 1e-6 to 1 with two digits, and the number of proxies, 1 to 16, to a value.
        trials: How many.
        seed: Of the sampler.

    Returns:
        A list of `Trial` in their order.

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
            f"The part lambda_proxies searches with Optuna, which cannot be imported ({error}). "
            "It comes with pip install 'tfdml[search]'."
        ) from error
    return optuna


def place_of(weight):
    """Where a λ is on the axis of the search: its decimal logarithm; -6.5 for 0.

    Example:
        >>> place_of(0.01), place_of(0.0)
        (-2.0, -6.5)
    """
    return float(np.log10(weight)) if weight > 0 else _ZERO


def regression(places, values, seed=0):
    r"""Fits a Gaussian process to the trials of a search.

    Its kernel is $\sigma_f^2 \exp(-\lVert u - u' \rVert^2 / 2)$, with a length on each axis as its unit, and noise
    $\sigma_n^2$; all four have the greatest marginal likelihood. A length is at least three tenths of the axis, so that
    the surface does not go through single trials.

    Args:
        places: `place_of(λ)` and the binary logarithm of the proxies, `(trials, 2)`.
        values: `(trials,)`.
        seed: Of the places from which the likelihood is maximised.

    Returns:
        A function from places `(n, 2)` to means and standard deviations `(n,)` of what is without noise, and the
        noise's standard deviation.
    """
    low, high = np.array([ZERO_DECADE, 0.0]), np.array([0.0, np.log2(MOST_PROXIES)])
    kernel = ConstantKernel() * RBF([0.5, 0.5], (0.3, 10.0)) + WhiteKernel(0.1, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=5, random_state=seed)
    with warnings.catch_warnings():
        # A direction in which nothing changes has the greatest length; that is no failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit((np.asarray(places, float) - low) / (high - low), np.asarray(values, float))
    noise = process.kernel_.k2.noise_level * np.std(values) ** 2

    def predict(asked):
        mean, deviation = process.predict((np.asarray(asked, float) - low) / (high - low), return_std=True)
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 0.0))

    return predict, float(np.sqrt(noise))


def steps_of_problems(folder):
    """Training steps of each problem of a run that ended, in their order; an empty list if none did.

    Args:
        folder: The run's.
    """
    path = RunFolder.open(folder).projections
    return [int(row["steps"]) for row in read_csv(path)] if path.exists() else []


def best_within(folder, steps):
    """Best MAP@R on the validation classes in a run's first so many training steps; NaN if it was not measured in them.

    Args:
        folder: The run's.
        steps: How many.
    """
    rows = read_csv(RunFolder.open(folder).history)
    values = [float(row["val_map_at_r"]) for row in rows if int(row["step"]) <= steps]
    return max(values, default=float("nan"))


def seed_deviation(scores):
    """Standard deviation of a score between seeds, from all settings together; NaN with one seed.

    Args:
        scores: For each setting `(seeds,)`.
    """
    scores = np.asarray(list(scores))
    return float(np.sqrt(scores.var(axis=1, ddof=1).mean())) if scores.shape[1] > 1 else float("nan")


def _check(name, values, least, most=None, multiple_of=1):
    for value in values:
        if value < least or (most is not None and value > most) or value % multiple_of:
            expected = f"at least {least}" if most is None else f"{least} to {most}"
            expected += f" and a multiple of {multiple_of}" if multiple_of > 1 else ""
            raise InputError(f"Received: {name}={list(values)}; expected {expected}.")
    if not values:
        raise InputError(f"Received: no {name}; expected at least one.")


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
        f"Best trial: λ = {best.weight:g}, {best.proxies} proxies, {best.value:.4f}. The regression's highest: "
        f"λ = {top}, {2 ** y[row]:.0f} proxies, {surface.max():.4f}; its lowest: {surface.min():.4f}; "
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
            "proxies of each class",
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
        ["", "problems", "shortest", "quartile", "median", "quartile", "longest", "of the least length (%)"],
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
        f"Steps of the {len(everything)} problems that ended in {len(runs)} trainings; others were cut off. "
        f"A validation each {between} steps, patience {recipe.ccp.patience}: the least length is {shortest}. "
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
    # The number of steps is the same for all; so many images has the smallest batch seen at the end of them.
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
    """A dot plot of settings' scores."""
    scores = list(scores)
    series = {
        "validation classes": np.array([of.validation for of in scores]),
        "unseen classes": np.array([of.test for of in scores]),
    }
    return plots.dot_plot(names, series, "MAP@R", sort=False)


def _table(report, name, keys, scores, seeds, more=None):
    """From a row's key to its scores, and from the header of a further column to the same."""
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
        noise = f" Between seeds of one row, over all rows: {validation:.4f} (validation), {test:.4f} (unseen)."
    report.table(
        name,
        [*keys, _VALIDATION, _TEST, *more, "problems", *(f"unseen, seed {seed}" for seed in seeds)],
        rows,
        f"Mean ± standard deviation of {len(seeds)} seed(s).{noise} Keras {keras.__version__}.",
    )


if __name__ == "__main__":
    command(ccp_ablation)
