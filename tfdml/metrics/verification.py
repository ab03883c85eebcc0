"""Verification metrics: whether two embeddings belong to one class, decided by a threshold on their distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.operating_points import OperatingPoints
from tfdml._utils.types import ArrayLike, Labels
from tfdml.metrics.inputs import as_embeddings
from tfdml.metrics.pairs import DISTANCES, MAX_PAIRS, Pairs, normalized
from tfdml.metrics.search import squared_distances

# False-accept rates between which OPIS compares classes, and the number of thresholds of its integral.
OPIS_RATES = (1e-2, 1e-1)
OPIS_THRESHOLDS = 101
_OPIS_SAMPLE = 10**6
# More thresholds than this do not change an accuracy noticeably.
_FOLD_THRESHOLDS = 2**14


def verification_metrics(
    embeddings: ArrayLike | None = None,
    labels: Labels | None = None,
    *,
    pairs: ArrayLike | None = None,
    distances: ArrayLike | None = None,
    same: ArrayLike | None = None,
    distance: str = "l2",
    false_accept_rates: Sequence[float] = (1e-3, 1e-2, 1e-1),
    folds: int = 10,
    max_pairs: int | None = MAX_PAIRS,
    seed: int = 0,
) -> dict[str, float]:
    r"""Compute how well a threshold on the distance tells pairs of one class from pairs of different classes.

    Use it if an application compares two images and answers yes or no, and to see whether one threshold suits all
    classes. There are three inputs: labeled embeddings, whose pairs are all compared (`embeddings` and `labels`); given
    pairs of embeddings (`embeddings`, `pairs` and `same`); or their distances (`distances` and `same`).

    A pair is accepted if its distance is at most a threshold $t$. TAR$(t)$ is the share of the pairs of one class that
    is accepted, FAR$(t)$ that of the pairs of different classes.

    - `roc_auc`: the probability that a pair of one class is nearer than a pair of different classes; of equal
      distances, one half.
    - `tar_at_far_<rate>`: the largest TAR of a threshold with FAR ≤ rate, without interpolation, and
      `threshold_at_far_<rate>`, that threshold. NaN if there are fewer than 1 / rate pairs of different classes, which
      are too few to measure the rate.
    - `eer`: the equal error rate, where FAR = 1 − TAR on the line through the points of the ROC curve.
    - `best_accuracy` and `best_threshold`: the largest $\frac12 (\mathrm{TAR} + 1 - \mathrm{FAR})$, which is the
      accuracy if both kinds of pairs are equally frequent, and its threshold. It is optimistic, because the threshold
      is chosen on the same pairs.
    - `accuracy` and `accuracy_std`: mean and standard deviation over folds of the same accuracy, with the threshold
      chosen on the other folds. Folds of labeled embeddings are disjoint in classes, and only pairs inside a fold
      count, as in the protocol of LFW. NaN if there are too few classes or pairs for two folds.
    - `opis`: the operating-point-inconsistency score, for labeled embeddings. With the sensitivity $\psi_c(t)$, the
      TAR of the pairs of class $c$, and the specificity $\varphi_c(t)$, the share of the pairs of a sample of $c$ and a
      sample of another class that is rejected, the utility of a class is
      $U_c(t) = \frac{2 \varphi_c(t)\, \psi_c(t)}{\varphi_c(t) + \psi_c(t)}$, and

    $$\mathrm{OPIS} = \frac1C \sum_{c=1}^{C} \frac{1}{t_2 - t_1}
    \int_{t_1}^{t_2} \left(U_c(t) - \bar U(t)\right)^2 dt$$

    over the $C$ classes with a pair, with their mean utility $\bar U$ and the thresholds $t_1$ and $t_2$ of FAR 0.01
    and 0.1. It is 0 if each threshold in that range serves all classes equally well.

    Args:
        embeddings: `(n, d)`; NumPy array, tensor or nested lists. Default: `None`.
        labels: `(n,)`. Classes, integers or strings. Default: `None`.
        pairs: int array `(p, 2)`. Rows of the embeddings that are compared. Default: `None`.
        distances: `(p,)`. Distances of pairs, or any numbers that are smaller for more similar pairs. Default: `None`.
        same: bool `(p,)`. Whether a given pair is of one class. Default: `None`.
        distance: `"l2"`, or `"cosine"`, which is $1 - \cos$. Default: `"l2"`.
        false_accept_rates: Sequence of floats between 0 and 1. Default: (1e-3, 1e-2, 1e-1).
        folds: int, >= 2. Number of folds; fewer if there are not two classes (or one pair of each kind) for each.
            Default: 10.
        max_pairs: int, the number of labeled pairs of either kind beyond which a sample is compared, or `None` to
            compare all. Pairs of different classes are compared block by block. Default: 2**22.
        seed: int. Seed of the sample and of the folds. Default: 0.

    Returns:
        dict from the names above to floats, and the integers `same_pairs` and `different_pairs`, the numbers of pairs
        compared. Values for which a kind of pair is missing are NaN.

    Raises:
        ValueError: If the inputs are incomplete or contradict each other, shapes do not match, values are not finite,
            or an option is out of range.
        TypeError: If embeddings are not numbers, or labels are neither integers nor strings.

    Reference:
        Zhang et al., Threshold-consistent margin loss for open-world deep metric learning, ICLR 2024, section 3, for
        OPIS. Huang et al., Labeled faces in the wild, 2007, for folds.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.verification_metrics([[0.0], [1.0], [5.0], [5.5]], ["a", "a", "b", "b"])
        >>> found["roc_auc"], found["best_threshold"], found["same_pairs"], found["different_pairs"]
        (1.0, 1.0, 2, 4)
        >>> metrics.verification_metrics(distances=[0.1, 0.2, 0.3, 0.4], same=[True, False, True, False])["eer"]
        0.5
    """
    rates = _check_rates(false_accept_rates)
    folds, seed = check_whole_number("folds", folds, 2), check_whole_number("seed", seed, 0)
    if max_pairs is not None:
        max_pairs = check_whole_number("max_pairs", max_pairs, 1)
    if labels is not None:
        _check_absent("labels", pairs=pairs, distances=distances, same=same)
        return _of_labeled(Pairs(embeddings, labels, distance, max_pairs, seed), rates, folds, seed)
    values, is_same = _given_distances(embeddings, pairs, distances, same, distance)
    points = OperatingPoints(values[is_same], values[~is_same])
    rng = np.random.default_rng(seed)
    # Each kind is divided evenly, so that no fold lacks one.
    folds = min(folds, points.positives, points.negatives)
    fold = np.empty(len(values), np.int64)
    for kind in (is_same, ~is_same):
        fold[kind] = rng.permutation(np.count_nonzero(kind)) % max(folds, 1)
    counts = _FoldCounts(values[is_same], fold[is_same], folds)
    counts.add(values[~is_same], fold[~is_same])
    return {**_of_points(points, rates), **counts.accuracies(), "opis": float("nan"), **_numbers(points)}


def _of_labeled(pairs, rates, folds, seed):
    of_same, first, _ = pairs.same()
    classes = pairs.classes
    number = classes[-1] + 1
    folds = min(folds, number // 2)
    fold = np.random.default_rng(seed).permutation(number) % max(folds, 1)
    in_folds = _FoldCounts(of_same, fold[classes[first]], folds)
    of_classes = _ClassCounts(pairs, of_same, classes[first], seed)

    def counted():
        for distances, left, right in pairs.different_blocks():
            left, right = classes[left], classes[right]
            inside = fold[left] == fold[right]
            in_folds.add(distances[inside], fold[left[inside]])
            of_classes.add(distances, left, right)
            yield distances

    points = OperatingPoints(of_same, counted())
    return {**_of_points(points, rates), **in_folds.accuracies(), "opis": of_classes.opis(), **_numbers(points)}


def _of_points(points, rates):
    result = {"roc_auc": points.area(), "eer": points.equal_error_rate()}
    for rate in rates:
        result[f"tar_at_far_{rate:g}"], result[f"threshold_at_far_{rate:g}"] = points.at_false_rate(rate)
    result["best_accuracy"], result["best_threshold"] = points.best_accuracy()
    return result


def _numbers(points):
    return {"same_pairs": points.positives, "different_pairs": points.negatives}


class _FoldCounts:
    """Counts of pairs up to each threshold in each fold.

    Args:
        distances: `(p,)`. Distances of pairs of one class.
        fold: int array `(p,)`. Their folds.
        folds: int. Number of folds. With fewer than two there are no accuracies.
    """

    def __init__(self, distances, fold, folds):
        self.folds, self.thresholds = folds, np.unique(distances)
        if len(self.thresholds) > _FOLD_THRESHOLDS:
            self.thresholds = np.quantile(self.thresholds, np.linspace(0, 1, _FOLD_THRESHOLDS), method="lower")
        # The last bin has what no threshold accepts.
        self.same = np.zeros((max(folds, 1), len(self.thresholds) + 1), np.int64)
        self.different = np.zeros_like(self.same)
        self._count(self.same, distances, fold)

    def add(self, distances, fold):
        """Count pairs of different classes in their folds."""
        self._count(self.different, distances, fold)

    def _count(self, counts, distances, fold):
        if self.folds >= 2:
            bins = fold * counts.shape[1] + np.searchsorted(self.thresholds, distances)
            counts += np.bincount(bins, minlength=counts.size).reshape(counts.shape)

    def accuracies(self):
        """Mean and deviation over the folds of the accuracy at the threshold chosen on the other folds."""
        same, different = np.cumsum(self.same, axis=1), np.cumsum(self.different, axis=1)
        usable = (same[:, -1] > 0) & (different[:, -1] > 0)
        same, different = same[usable], different[usable]
        if self.folds < 2 or len(same) < 2:
            return {"accuracy": float("nan"), "accuracy_std": float("nan")}
        scores = []
        for index in range(len(same)):
            others = np.arange(len(same)) != index
            chosen = np.argmax(_balanced(same[others].sum(axis=0), different[others].sum(axis=0))[:-1])
            scores.append(_balanced(same[index], different[index])[chosen])
        return {"accuracy": float(np.mean(scores)), "accuracy_std": float(np.std(scores))}


def _balanced(same, different):
    return (same / same[-1] + 1 - different / different[-1]) / 2


class _ClassCounts:
    """Counts of the pairs of each class at the thresholds of OPIS.

    Args:
        pairs: `Pairs`.
        distances: `(p,)`. Distances of pairs of one class.
        classes: int array `(p,)`. Their classes.
        seed: int. Seed of the sample that determines the thresholds.
    """

    def __init__(self, pairs, distances, classes, seed):
        self.number = int(pairs.classes[-1]) + 1
        self.defined = len(distances) > 0 and pairs.different_count > 0
        if not self.defined:
            return
        limits = np.quantile(pairs.sample_different(_OPIS_SAMPLE, seed + 2), OPIS_RATES, method="lower")
        self.thresholds = np.linspace(limits[0], limits[1], OPIS_THRESHOLDS)
        self.same, self.different = np.zeros((2, self.number, OPIS_THRESHOLDS + 1), np.int64)
        self._count(self.same, distances, classes)

    def add(self, distances, left, right):
        """Count pairs of different classes, each for both of its classes."""
        if self.defined:
            self._count(self.different, distances, left, right)

    def _count(self, counts, distances, *classes):
        places = np.searchsorted(self.thresholds, distances)
        for numbers in classes:
            bins = numbers * counts.shape[1] + places
            counts += np.bincount(bins, minlength=counts.size).reshape(counts.shape)

    def opis(self):
        if not self.defined:
            return float("nan")
        same, different = np.cumsum(self.same, axis=1), np.cumsum(self.different, axis=1)
        usable = (same[:, -1] > 0) & (different[:, -1] > 0)
        same, different = same[usable], different[usable]
        sensitivity = (same / same[:, -1:])[:, :-1]
        specificity = 1 - (different / different[:, -1:])[:, :-1]
        total = sensitivity + specificity
        utility = 2 * sensitivity * specificity / np.where(total > 0, total, 1)
        variance = np.square(utility - utility.mean(axis=0)).mean(axis=0)
        # The mean over equidistant thresholds by the trapezoidal rule.
        return float((variance[:-1] + variance[1:]).mean() / 2)


def _given_distances(embeddings, pairs, distances, same, distance):
    """Return the distances of given pairs and whether they are of one class, checked."""
    if same is None or (distances is None) == (embeddings is None) or (pairs is None) != (embeddings is None):
        given = {"embeddings": embeddings, "pairs": pairs, "distances": distances, "same": same}
        raise ValueError(
            f"The pairs are not defined. Received: {[name for name, value in given.items() if value is not None]}. "
            "Expected: embeddings and labels; embeddings, pairs and same; or distances and same."
        )
    if distances is not None:
        values = np.asarray(distances, np.float64)
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise ValueError(
                f"Distances are not usable. Received: shape {values.shape} with "
                f"{np.count_nonzero(~np.isfinite(values))} values that are not finite. Expected: finite values (p,)."
            )
    else:
        values = _distances_of(as_embeddings(embeddings), pairs, distance)
    is_same = np.asarray(same)
    if is_same.shape != values.shape or not np.isin(is_same, (0, 1)).all():
        raise ValueError(
            f"Pairs are not labeled. Received: same of type {is_same.dtype} and shape {is_same.shape} for "
            f"{len(values)} pairs. Expected: one boolean for each."
        )
    return values, is_same.astype(bool)


def _distances_of(points, pairs, distance):
    pairs = np.asarray(pairs)
    valid = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) and pairs.dtype.kind in "iu"
    if not valid or pairs.min() < 0 or pairs.max() >= len(points):
        raise ValueError(
            f"Pairs are not rows of the embeddings. Received: pairs of type {pairs.dtype} and shape {pairs.shape}"
            f"{f' with values {pairs.min()} to {pairs.max()}' if valid else ''}. Expected: integers (p, 2) from 0 to "
            f"{len(points) - 1}."
        )
    if distance not in DISTANCES:
        raise ValueError(f"Unknown distance. Received: distance={distance!r}. Expected: one of {DISTANCES}.")
    if distance == "cosine":
        points = normalized(points)
    step = max(1, 2**21 // points.shape[1])
    blocks = (pairs[start : start + step] for start in range(0, len(pairs), step))
    squared = np.concatenate([squared_distances(points[block[:, 0]], points[block[:, 1]]) for block in blocks])
    return squared / 2 if distance == "cosine" else np.sqrt(squared)


def _check_absent(given, **others):
    contradicting = [name for name, value in others.items() if value is not None]
    if contradicting:
        raise ValueError(
            f"Inputs contradict each other. Received: {given} and {', '.join(contradicting)}. Expected: embeddings and "
            "labels; embeddings, pairs and same; or distances and same."
        )


def _check_rates(rates):
    rates = tuple(float(rate) for rate in np.atleast_1d(np.asarray(rates, np.float64)))
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"A rate is out of range. Received: false_accept_rates={rates}. Expected: 0 < rate < 1.")
    return rates
