"""Thresholds of a gallery: up to which distance a query counts as one of its classes."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, ClassVar, Union

import numpy as np

from tfdml.gallery.classification import object_array
from tfdml.gallery.intervals import clustered_interval

_CURVE_POINTS = 512


def _check_share(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 1:
        raise ValueError(f"A share is out of range. Received: {name}={value!r}. Expected: 0 < {name} < 1.")
    return float(value)


@dataclasses.dataclass(frozen=True)
class FalseAcceptRate:
    """Target of a calibration: at most this share of the queries of unseen classes is accepted as any label.

    Of all such thresholds, the largest is chosen, which accepts the most queries of known classes.

    Args:
        rate: float, 0 < rate < 1.

    Raises:
        ValueError: If the rate is out of range.

    Example:
        >>> FalseAcceptRate(1e-3)
        FalseAcceptRate(rate=0.001)
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _check_share("rate", self.rate))


@dataclasses.dataclass(frozen=True)
class Precision:
    """Target of a calibration: at least this share of the accepted queries gets the right label.

    Of all such thresholds, the largest is chosen.

    Args:
        precision: float, 0 < precision < 1.
        unknown: float, 0 < unknown < 1. Share of the queries of the application that is of unseen classes. Default 0.5.

    Raises:
        ValueError: If a share is out of range.

    Example:
        >>> Precision(0.99, unknown=0.1)
        Precision(precision=0.99, unknown=0.1)
    """

    precision: float
    unknown: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", _check_share("precision", self.precision))
        object.__setattr__(self, "unknown", _check_share("unknown", self.unknown))


@dataclasses.dataclass(frozen=True)
class BestF1:
    """Target of a calibration: the largest harmonic mean of precision and true-accept rate.

    Args:
        unknown: float, 0 < unknown < 1. Share of the queries of the application that is of unseen classes. Default 0.5.

    Raises:
        ValueError: If the share is out of range.

    Example:
        >>> BestF1()
        BestF1(unknown=0.5)
    """

    unknown: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "unknown", _check_share("unknown", self.unknown))


DEFAULT_TARGET = FalseAcceptRate(1e-3)
Target = Union[FalseAcceptRate, Precision, BestF1]
_TARGETS = {target.__name__: target for target in (FalseAcceptRate, Precision, BestF1)}


@dataclasses.dataclass(frozen=True, eq=False)
class OperatingCurve:
    """Rates at each threshold.

    Args:
        thresholds: float64 array `(t,)`, increasing.
        false_accept_rates: float64 array `(t,)`. Share of the queries of unseen classes that is accepted.
        true_accept_rates: float64 array `(t,)`. Share of the queries of known classes that is accepted with the right
            label; NaN if there are none.
        precisions: float64 array `(t,)`. Share of the accepted queries with the right label; NaN if unknown.

    Example:
        >>> curve = OperatingCurve(*np.array([[0.5, 0.7], [0.0, 0.1], [0.8, 0.9], [1.0, 0.9]]))
        >>> curve.thresholds.tolist()
        [0.5, 0.7]
    """

    thresholds: np.ndarray
    false_accept_rates: np.ndarray
    true_accept_rates: np.ndarray
    precisions: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Threshold of a gallery, and the rates that were measured for it. `Gallery.calibrate` returns it.

    Args:
        target: `FalseAcceptRate`, `Precision` or `BestF1`.
        method: `"neighbors"` or `"prototypes"`.
        k: int. Number of voting neighbors.
        threshold: float. Queries with a score up to it are accepted.
        confidence: float. Confidence of the intervals.
        false_accept_rate: float. Share of the queries of unseen classes that is accepted.
        false_accept_interval: Pair of floats. Its confidence interval.
        true_accept_rate: float. Share of the queries of known classes that is accepted with the right label; NaN if
            there were none.
        true_accept_interval: Pair of floats. Its confidence interval.
        precision: float. Share of the accepted queries with the right label; NaN if it is not defined.
        unseen_queries: int. Queries by which the false-accept rate was measured.
        unseen_classes: int. Their classes.
        effective_queries: float. Number of independent queries that the unseen queries are worth.
        known_queries: int. Queries by which the true-accept rate was measured.
        gallery_items: int. Items of the gallery at that time.
        curve: `OperatingCurve` of at most 512 thresholds.
    """

    _FIELDS: ClassVar[tuple[str, ...]] = (
        "method", "k", "threshold", "confidence", "false_accept_rate", "false_accept_interval", "true_accept_rate",
        "true_accept_interval", "precision", "unseen_queries", "unseen_classes", "effective_queries", "known_queries",
        "gallery_items",
    )  # fmt: skip

    target: Target
    method: str
    k: int
    threshold: float
    confidence: float
    false_accept_rate: float
    false_accept_interval: tuple[float, float]
    true_accept_rate: float
    true_accept_interval: tuple[float, float]
    precision: float
    unseen_queries: int
    unseen_classes: int
    effective_queries: float
    known_queries: int
    gallery_items: int
    curve: OperatingCurve = dataclasses.field(repr=False)

    @property
    def is_resolved(self) -> bool:
        """Whether the queries are enough for the target: at least one false acceptance is expected at its rate."""
        return not isinstance(self.target, FalseAcceptRate) or self.effective_queries * self.target.rate >= 1

    def config(self) -> dict[str, Any]:
        """Return a dict that JSON holds, from which `from_config` restores the calibration."""
        values = {name: getattr(self, name) for name in self._FIELDS}
        curve = {field.name: getattr(self.curve, field.name).tolist() for field in dataclasses.fields(OperatingCurve)}
        target = {"name": type(self.target).__name__, **dataclasses.asdict(self.target)}
        return _without_nan({"target": target, **values, "curve": curve})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Calibration:
        """Restore a calibration.

        Args:
            config: dict from `config`.

        Raises:
            ValueError: If it has other entries.
        """
        try:
            options = dict(config["target"])
            target = _TARGETS[options.pop("name")](**options)
            values = {name: config[name] for name in cls._FIELDS}
            for name in ("false_accept_interval", "true_accept_interval"):
                values[name] = tuple(map(_number, values[name]))
            for name in ("false_accept_rate", "true_accept_rate", "precision"):
                values[name] = _number(values[name])
            curve = {
                field.name: np.array([_number(value) for value in config["curve"][field.name]], np.float64)
                for field in dataclasses.fields(OperatingCurve)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"A calibration cannot be restored. Received: {type(error).__name__}: {error}. Expected: entries as "
                "Calibration.config returns them. Calibrate the gallery again."
            ) from error
        return cls(target=target, **values, curve=OperatingCurve(**curve))


def calibrate(
    classified: Any,
    labels: list[Any],
    gallery_labels: set[Any],
    gallery_items: int,
    target: Target,
    method: str,
    k: int,
    confidence: float,
) -> Calibration:
    """Choose a threshold from the scores of validation queries.

    Args:
        classified: Function of excluded labels, an object array `(n,)` or `None`, that returns labels and scores of the
            queries.
        labels: List of `n` labels of the queries.
        gallery_labels: Set of the labels of the gallery.
        gallery_items: int. Number of items of the gallery.
        target: Target.
        method, k: As for `Gallery.calibrate`.
        confidence: float.

    Returns:
        `Calibration`.
    """
    if not isinstance(target, tuple(_TARGETS.values())):
        raise TypeError(
            f"The target has the wrong type. Received: {target!r}. Expected: FalseAcceptRate(rate), "
            "Precision(precision) or BestF1()."
        )
    _check_share("confidence", confidence)
    truth = object_array(labels)
    _, of_others = classified(truth)
    unseen = np.isfinite(of_others)
    groups = np.unique(truth.astype(str), return_inverse=True)[1].reshape(-1)
    if len(set(groups[unseen])) < 2:
        raise ValueError(
            f"There are too few classes. Received: validation queries of {len(set(groups))} class(es), of which "
            f"{len(set(groups[unseen]))} can be compared with items of other classes, in a gallery of "
            f"{len(gallery_labels)} class(es). Expected: at least two, better dozens: the rate varies between classes."
        )
    found, scores = classified(None)
    known = np.array([label in gallery_labels for label in labels])
    right = known & (found == truth)
    share = getattr(target, "unknown", 0.5)
    curve = _curve(of_others[unseen], scores[right], scores[known & ~right], share)
    chosen = _chosen(curve, target)
    threshold = float(curve.thresholds[chosen])
    low, high, effective = clustered_interval(of_others[unseen] <= threshold, groups[unseen], confidence)
    result = Calibration(
        target=target,
        method=method,
        k=k,
        threshold=threshold,
        confidence=float(confidence),
        false_accept_rate=float(curve.false_accept_rates[chosen]),
        false_accept_interval=(low, high),
        true_accept_rate=float(curve.true_accept_rates[chosen]),
        true_accept_interval=_known_interval((right & (scores <= threshold))[known], groups[known], confidence),
        precision=float(curve.precisions[chosen]),
        unseen_queries=int(np.count_nonzero(unseen)),
        unseen_classes=len(set(groups[unseen])),
        effective_queries=effective,
        known_queries=int(np.count_nonzero(known)),
        gallery_items=gallery_items,
        curve=_thinned(curve, chosen),
    )
    _warn(result, scores[known])
    return result


def _curve(of_others, right, wrong, unknown):
    """`OperatingCurve` at all scores and below them.

    Args:
        of_others: `(u,)`. Scores of queries among the items of other classes.
        right, wrong: Scores of queries of known classes that get the right label, and another one.
        unknown: float. Share of the queries that is of unseen classes.
    """
    scores = np.unique(np.concatenate([of_others, right, wrong]))
    thresholds = np.concatenate([[np.nextafter(scores[0], -np.inf)], scores])
    accepted = [np.searchsorted(np.sort(part), thresholds, side="right") for part in (of_others, right, wrong)]
    false = accepted[0] / len(of_others)
    if not len(right) + len(wrong):
        nothing = np.full(len(thresholds), np.nan)
        return OperatingCurve(thresholds, false, nothing, nothing)
    true, mistaken = (part / (len(right) + len(wrong)) for part in accepted[1:])
    of_right = (1 - unknown) * true
    everything = of_right + (1 - unknown) * mistaken + unknown * false
    precision = np.where(everything > 0, of_right / np.where(everything > 0, everything, 1), np.nan)
    return OperatingCurve(thresholds, false, true, precision)


def _chosen(curve, target):
    """Index of the threshold of a target."""
    if isinstance(target, FalseAcceptRate):
        return int(np.flatnonzero(curve.false_accept_rates <= target.rate * (1 + 1e-12))[-1])
    if np.isnan(curve.true_accept_rates[0]):
        raise ValueError(
            f"The target needs queries of known classes. Received: {target} and validation queries whose classes are "
            "not in the gallery. Expected: also queries with labels of the gallery. Or pass FalseAcceptRate(rate)."
        )
    if isinstance(target, Precision):
        reached = np.flatnonzero(np.nan_to_num(curve.precisions) >= target.precision)
        if not len(reached):
            raise ValueError(
                f"No threshold has that precision. Received: {target}. Expected: at most "
                f"{np.nanmax(curve.precisions):.4g}, the largest on the validation queries."
            )
        return int(reached[-1])
    total = curve.precisions + curve.true_accept_rates
    f1 = 2 * curve.precisions * curve.true_accept_rates / np.where(total > 0, total, 1)
    return int(np.argmax(np.nan_to_num(f1)))


def _known_interval(hits, groups, confidence):
    if len(set(groups)) < 2:
        return float("nan"), float("nan")
    return clustered_interval(hits, groups, confidence)[:2]


def _thinned(curve, chosen):
    count = len(curve.thresholds)
    kept = np.unique(np.append(np.linspace(0, count - 1, min(count, _CURVE_POINTS - 1)).astype(int), chosen))
    return OperatingCurve(*(getattr(curve, field.name)[kept] for field in dataclasses.fields(curve)))


def _warn(result, of_known):
    if not result.is_resolved:
        warnings.warn(
            f"There are too few validation queries for the rate. Received: {result.unseen_queries} queries of "
            f"{result.unseen_classes} classes, worth {result.effective_queries:.0f} independent ones, for "
            f"{result.target}. Expected: at least {math.ceil(1 / result.target.rate)}. The true rate may be up to "
            f"{result.false_accept_interval[1]:.2g} with confidence {result.confidence:g}.",
            stacklevel=4,
        )
    if len(of_known) and np.mean(of_known == 0) > 0.5:
        warnings.warn(
            f"Validation queries seem to be items of the gallery. Received: {np.count_nonzero(of_known == 0)} of "
            f"{len(of_known)} queries with distance 0. Expected: other images, or the true-accept rate is too high.",
            stacklevel=4,
        )


def _without_nan(value):
    """Replace NaN, which JSON does not have, by None, in dicts and lists."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value):
    return float("nan") if value is None else float(value)
