"""Do linear metrics improve nearest neighbors? Cross-validation on iris, wine and digits.

python -m studies.linear_metrics --out DIR
"""

import collections
import itertools
import pathlib
import warnings
from typing import Literal

import numpy as np
from sklearn import datasets as sklearn_datasets
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from studies import plots
from studies.report import Report, command, paired_interval
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError
from tfdml.linear import ITML, LMNN, MMC, NCA, ScatterDifference
from tfdml.linear.lmnn import shrunk

# Defaults, apart from tolerances: the last digits of an objective do not change neighbors.
METHODS = {
    "Euclidean": lambda seed: None,
    "LMNN": lambda seed: LMNN(tol=1e-4),
    "LMNN (mu 0.1)": lambda seed: LMNN(mu=0.1, tol=1e-4),
    "NCA": lambda seed: NCA(tol=1e-5),
    "MMC": lambda seed: MMC(tol=1e-5),
    "ITML": lambda seed: ITML(random_state=seed),
    "ScatterDifference": lambda seed: ScatterDifference(),
}
NEIGHBORS = 3
FOLDS = 5
_DRAWN = 10

# Whether folds are random (or consecutive), and whether one fold is known and four are classified (or the reverse).
PROTOCOLS = {
    "consecutive, 4/5 known": (False, False),
    "consecutive, 1/5 known": (False, True),
    "random, 4/5 known": (True, False),
    "random, 1/5 known": (True, True),
}
CANDIDATES = ("Euclidean", "LMNN", "LMNN, shrunk")
# What inner cross-validation on the known samples chooses from. The first of equals is chosen.
CLASSIFIER_NEIGHBORS = (1, 3, 5)
COMPONENTS = {"digits": (None, 30), "wine": (None, 6), "iris": (None, 2)}
TARGET_NEIGHBORS = (3, 1)
WEIGHTS = (0.5, 0.1)
SHRINKAGES = (0.0, 0.5, 0.8)
_INNER_FOLDS = 3


def linear_metrics(
    out: str,
    datasets: list[Literal["iris", "wine", "digits"]] = ("iris", "wine", "digits"),
    methods: list[str] = tuple(METHODS),
    repeats: int = 3,
    protocols: list[str] = tuple(PROTOCOLS),
    chosen_repeats: int = 2,
    quick: bool = False,
):
    """Compare the error of nearest-neighbor classification under each linear metric with the Euclidean distance.

    Each sample is classified once per repeat, by the three nearest samples of the other four folds, on which the metric
    was learned. Features of iris and wine are standardized by the training folds; pixels of digits are divided by 16.
    Folds of iris and wine are random. Those of digits are consecutive: consecutive images look alike, as if by the same
    writer, so random folds would test on the writers of the training images.

    Then LMNN on digits and wine with all options chosen by an inner cross-validation of the known samples, against the
    Euclidean distance with the number of neighbors and of principal components chosen in the same way (`PROTOCOLS`).
    Results are kept in the folder, so a stopped study resumes.

    Args:
        out: Folder for the tables, the figure and the results.
        datasets: Datasets of scikit-learn.
        methods: Names of `METHODS`. "Euclidean" is always included.
        repeats: Number of cross-validations, each with its own folds.
        protocols: Names of `PROTOCOLS`, for chosen options. Consecutive ones are for digits only.
        chosen_repeats: Number of cross-validations with chosen options.
        quick: Run one repeat on iris and wine, without chosen options, and no figure.

    Returns:
        dict from (dataset, method) to a bool array `(repeats, samples)`: which samples are classified wrongly.
    """
    if quick:
        datasets, repeats, protocols = [name for name in datasets if name != "digits"], 1, ()
    for kind, given, known in (("method", methods, METHODS), ("protocol", protocols, PROTOCOLS)):
        for name in given:
            if name not in known:
                raise InputError(str(unknown_name(kind, name, known)))
    methods = ["Euclidean", *(method for method in methods if method != "Euclidean")]
    folder = pathlib.Path(out).expanduser() / "errors"
    folder.mkdir(parents=True, exist_ok=True)
    errors = {}
    for repeat in range(repeats):
        for dataset in datasets:
            for method in methods:
                path = folder / f"{dataset}-{method}-{repeat}.npy"
                if not path.exists():
                    np.save(path, _cross_validated(dataset, method, repeat))
                errors.setdefault((dataset, method), []).append(np.load(path))
                print(
                    f"{dataset:8s} {method:18s} repeat {repeat}: {errors[dataset, method][-1].mean():.4f}", flush=True
                )
    errors = {key: np.array(values) for key, values in errors.items()}
    report = Report(out)
    _table(report, datasets, methods, errors)
    if "digits" in datasets and "LMNN (mu 0.1)" in methods:
        report.figure("neighbors", _neighbors_before_and_after())
    _report_chosen(report, [name for name in datasets if name != "iris"], protocols, chosen_repeats)
    return errors


def _samples(dataset):
    X, y = getattr(sklearn_datasets, f"load_{dataset}")(return_X_y=True)
    return X.astype(np.float64), y


def _splits(dataset, repeat):
    """The folds of a repeat as (training samples, test samples, training rows, test rows), scaled."""
    X, y = _samples(dataset)
    if dataset == "digits":
        order = np.roll(np.arange(len(y)), repeat * len(y) // (3 * FOLDS))
        folds = [(order[train], order[test]) for train, test in KFold(FOLDS).split(order)]
    else:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(X, y)
    for train, test in folds:
        scale = (lambda values: values / 16.0) if dataset == "digits" else StandardScaler().fit(X[train]).transform
        yield scale(X[train]), scale(X[test]), train, test


def _cross_validated(dataset, method, repeat):
    """Which samples are classified wrongly, `(n,)`."""
    _, y = _samples(dataset)
    wrong = np.zeros(len(y), bool)
    for known, unknown, train, test in _splits(dataset, repeat):
        known, unknown = _transformed(METHODS[method](repeat), known, y[train], unknown)
        classifier = KNeighborsClassifier(NEIGHBORS).fit(known, y[train])
        wrong[test] = classifier.predict(unknown) != y[test]
    return wrong


def _transformed(estimator, known, labels, unknown):
    if estimator is None:
        return known, unknown
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(known, labels)
    return estimator.transform(known), estimator.transform(unknown)


def _table(report, datasets, methods, errors):
    rows = []
    for dataset in datasets:
        for method in methods:
            # Each sample counts once: its share of repeats in which it is classified wrongly.
            of_samples = errors[dataset, method].mean(axis=0)
            differences = of_samples - errors[dataset, "Euclidean"].mean(axis=0)
            interval = "–" if method == "Euclidean" else paired_interval(differences)
            rows.append([dataset, method, f"{of_samples.mean():.4f}", interval])
    report.table(
        "linear_metrics",
        ["dataset", "metric", "error", "difference from Euclidean"],
        rows,
        f"Error of {NEIGHBORS} nearest neighbors, {FOLDS}-fold cross-validation, mean of "
        f"{len(errors[datasets[0], 'Euclidean'])} repeat(s); paired differences with a 95% interval over samples.",
    )


def _report_chosen(report, datasets, protocols, repeats):
    """Run the protocols that are not in the folder yet, and write their table and the options that were chosen."""
    rows, settings = [], []
    for dataset, protocol in itertools.product(datasets, protocols):
        is_random, is_reversed = PROTOCOLS[protocol]
        if not is_random and dataset != "digits":
            continue
        outcomes = []
        for repeat in range(repeats):
            for fold, (known, tested) in enumerate(_outer_splits(dataset, is_random, is_reversed, repeat)):
                path = report.folder / "chosen" / f"{dataset}-{protocol.replace('/', '_')}-{repeat}-{fold}.npz"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    np.savez(path, tested=tested, **chosen(*_scaled(dataset, known, tested), COMPONENTS[dataset]))
                outcomes.append(np.load(path))
                shares = [f"{name} {outcomes[-1][name].mean():.4f}" for name in CANDIDATES]
                print(f"{dataset}, {protocol}, repeat {repeat}, fold {fold}: {', '.join(shares)}", flush=True)
        errors = {name: _errors_of_samples(outcomes, name) for name in CANDIDATES}
        for name in CANDIDATES:
            interval, counts = "–", "–"
            if name != "Euclidean":
                interval = paired_interval(errors[name] - errors["Euclidean"], digits=4)
                splits = [np.sign(split[name].mean() - split["Euclidean"].mean()) for split in outcomes]
                counts = " / ".join(str(splits.count(sign)) for sign in (-1, 0, 1))
            rows.append([dataset, protocol, name, f"{errors[name].mean():.4f}", interval, counts])
            of_name = collections.Counter(str(split[f"{name} options"]) for split in outcomes)
            settings += [[dataset, protocol, name, text, count] for text, count in of_name.most_common()]
    if rows:
        report.table(
            "chosen",
            ["dataset", "folds", "metric", "error", "difference from Euclidean", "splits lower / equal / higher"],
            rows,
            f"Options chosen by {_INNER_FOLDS}-fold cross-validation of the known samples; {FOLDS} splits, {repeats} "
            "repeat(s); paired differences with a 95% interval over samples.",
        )
        report.table("chosen_options", ["dataset", "folds", "metric", "options", "splits"], settings)


def _outer_splits(dataset, is_random, is_reversed, repeat):
    """Rows that are known, and rows that are classified. Random ones are in random order, for inner folds."""
    _, y = _samples(dataset)
    if is_random:
        shuffle = np.random.default_rng(repeat).permutation
        splits = StratifiedKFold(FOLDS, shuffle=True, random_state=100 + repeat).split(y, y)
        splits = [(shuffle(train), shuffle(test)) for train, test in splits]
    else:
        order = np.roll(np.arange(len(y)), repeat * len(y) // (2 * FOLDS))
        splits = [(order[train], order[test]) for train, test in KFold(FOLDS).split(order)]
    for train, test in splits:
        yield (test, train) if is_reversed else (train, test)


def _scaled(dataset, known, tested):
    """The known samples with their labels, and the tested ones with theirs."""
    X, y = _samples(dataset)
    scale = (lambda values: values / 16.0) if dataset == "digits" else StandardScaler().fit(X[known]).transform
    return scale(X[known]), y[known], scale(X[tested]), y[tested]


def chosen(known, labels, tested, truth, components):
    """Choose the options of each candidate on the known samples, and classify the tested ones.

    Args:
        known: float array `(n, d)`. Inner folds are consecutive.
        labels: int array `(n,)`.
        tested: float array `(m, d)`.
        truth: int array `(m,)`.
        components: Sequence of numbers of principal components, `None` for all features.

    Returns:
        dict from each name of `CANDIDATES` to a bool array `(m,)`, the samples that are classified wrongly, and from
        the name and " options" to a str.
    """
    errors = collections.Counter()
    for train, test in KFold(_INNER_FOLDS).split(known):
        for name, options, W in _metrics(known[train], labels[train], components):
            for count in CLASSIFIER_NEIGHBORS:
                wrong = _wrong(W, known[train], labels[train], known[test], labels[test], count)
                errors[name, options, count] += int(wrong.sum())
    outcome = {}
    for name in CANDIDATES:
        # The shrunk metrics include those that are not.
        best = min(
            (key for key in errors if key[0] == name or (name, key[0]) == ("LMNN, shrunk", "LMNN")), key=errors.get
        )
        _, options, count = best
        W = _metric(known, labels, *options)
        outcome[name] = _wrong(W, known, labels, tested, truth, count)
        names = ("components", "targets", "mu", "shrinkage")
        outcome[f"{name} options"] = ", ".join(
            f"{option} {value}" for option, value in (("k", count), *zip(names, options)) if value is not None
        )
    return outcome


def _metrics(known, labels, components):
    """Yield (name, options, matrix) of each metric to choose from."""
    for size in components:
        basis = _basis(known, size)
        yield "Euclidean", (size,), basis
        for targets, mu in itertools.product(TARGET_NEIGHBORS, WEIGHTS):
            W = _lmnn(known @ basis.T, labels, targets, mu)
            for shrinkage in SHRINKAGES:
                name = "LMNN, shrunk" if shrinkage else "LMNN"
                yield name, (size, targets, mu, shrinkage), shrunk(W, shrinkage) @ basis


def _metric(known, labels, size, targets=None, mu=None, shrinkage=None):
    basis = _basis(known, size)
    if targets is None:
        return basis
    return shrunk(_lmnn(known @ basis.T, labels, targets, mu), shrinkage) @ basis


def _basis(known, size):
    return np.eye(known.shape[1]) if size is None else PCA(size, random_state=0).fit(known).components_


def _lmnn(known, labels, targets, mu):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LMNN(n_neighbors=targets, mu=mu, tol=1e-3).fit(known, labels).components_


def _wrong(W, known, labels, tested, truth, count):
    classifier = KNeighborsClassifier(count).fit(known @ W.T, labels)
    return classifier.predict(tested @ W.T) != truth


def _errors_of_samples(outcomes, name):
    """The share of the splits in which a sample is classified wrongly, of those in which it is tested."""
    tested = np.concatenate([split["tested"] for split in outcomes])
    wrong = np.concatenate([split[name] for split in outcomes])
    return np.bincount(tested, wrong) / np.bincount(tested)


def _neighbors_before_and_after():
    """The test images of the first fold whose nearest neighbor in pixels is another digit, before and after LMNN."""
    known, unknown, train, test = next(_splits("digits", 0))
    X, y = _samples("digits")
    images = X.reshape(-1, 8, 8, 1) / 16.0
    nearest = {}
    for method in ("Euclidean", "LMNN (mu 0.1)"):
        moved, queries = _transformed(METHODS[method](0), known, y[train], unknown)
        classifier = KNeighborsClassifier(1).fit(moved, y[train])
        nearest[method] = train[classifier.kneighbors(queries, return_distance=False)[:, 0]]
    chosen = np.flatnonzero(y[nearest["Euclidean"]] != y[test])[:_DRAWN]
    rows = {
        title: (images[nearest[method][chosen]], y[nearest[method][chosen]] == y[test[chosen]])
        for title, method in (("nearest after LMNN", "LMNN (mu 0.1)"), ("nearest before", "Euclidean"))
    }
    return plots.neighbor_rows(images[test[chosen]], rows)


if __name__ == "__main__":
    command(linear_metrics)
