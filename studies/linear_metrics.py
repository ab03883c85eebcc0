"""Do linear metrics improve nearest neighbors? Cross-validation on iris, wine and digits.

python -m studies.linear_metrics --out DIR
"""

import pathlib
import warnings
from typing import Literal

import numpy as np
from sklearn import datasets as sklearn_datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from studies import plots
from studies.report import Report, command, paired_interval
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError
from tfdml.linear import ITML, LMNN, MMC, NCA, ScatterDifference

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


def linear_metrics(
    out: str,
    datasets: list[Literal["iris", "wine", "digits"]] = ("iris", "wine", "digits"),
    methods: list[str] = tuple(METHODS),
    repeats: int = 3,
    quick: bool = False,
):
    """Compare the error of nearest-neighbor classification under each linear metric with the Euclidean distance.

    Each sample is classified once per repeat, by the three nearest samples of the other four folds, on which the metric
    was learned. Features of iris and wine are standardized by the training folds; pixels of digits are divided by 16.
    Folds of iris and wine are random. Those of digits are consecutive: consecutive images look alike, as if by the same
    writer, so random folds would test on the writers of the training images. Results are kept in the folder, so a
    stopped study resumes.

    Args:
        out: Folder for the tables, the figure and the results.
        datasets: Datasets of scikit-learn.
        methods: Names of `METHODS`. "Euclidean" is always included.
        repeats: Number of cross-validations, each with its own folds.
        quick: Run one repeat on iris and wine, and no figure.

    Returns:
        dict from (dataset, method) to a bool array `(repeats, samples)`: which samples are classified wrongly.
    """
    if quick:
        datasets, repeats = [name for name in datasets if name != "digits"], 1
    for method in methods:
        if method not in METHODS:
            raise InputError(str(unknown_name("method", method, METHODS)))
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
