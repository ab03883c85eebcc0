"""Counts of accepted positives and negatives at each threshold, from which curves and rates follow."""

from __future__ import annotations

import numpy as np


class OperatingPoints:
    """Accepted positives and negatives when values up to a threshold are accepted, such as distances of pairs.

    Only thresholds at which a positive is accepted are kept: between them, negatives are accepted in vain. So negatives
    can be counted block by block, in memory for the positives only, and all results are exact.

    Args:
        positives: float array `(p,)`. Values of all positives.
        negatives: float array `(n,)`, or an iterable of such arrays.

    Attributes:
        thresholds: float64 array `(t,)`. Different values of positives, increasing.
        steps: int64 array `(t,)`. Positives of exactly this value.
        true: int64 array `(t,)`. Positives up to the threshold.
        false: int64 array `(t,)`. Negatives up to the threshold.
        false_before: int64 array `(t,)`. Negatives below the threshold.
        positives, negatives: int. Their numbers.
    """

    def __init__(self, positives, negatives):
        self.thresholds, self.steps = np.unique(np.asarray(positives, np.float64), return_counts=True)
        # Bin 2i lies between thresholds i - 1 and i, bin 2i + 1 is equal to threshold i.
        bins = np.zeros(2 * len(self.thresholds) + 1, np.int64)
        blocks = [negatives] if isinstance(negatives, np.ndarray) else negatives
        padded = np.append(self.thresholds, np.nan)
        for block in blocks:
            places = np.searchsorted(self.thresholds, block)
            bins += np.bincount(2 * places + (padded[places] == block), minlength=len(bins))
        counts = np.cumsum(bins)
        self.true = np.cumsum(self.steps)
        self.false, self.false_before = counts[1::2], counts[:-1:2]
        self.positives, self.negatives = int(self.steps.sum()), int(counts[-1])

    @property
    def true_rates(self):
        """Share of the positives that are accepted, `(t,)`."""
        return self.true / self.positives if self.positives else np.empty(0)

    @property
    def false_rates(self):
        """Share of the negatives that are accepted, `(t,)`; NaN if there are none."""
        return self.false / self.negatives if self.negatives else np.full(len(self.false), np.nan)

    def area(self):
        """Probability that a positive has a smaller value than a negative; of equal values, one half."""
        if not (self.positives and self.negatives):
            return float("nan")
        larger = self.negatives - (self.false_before + self.false) / 2
        return float(np.dot(self.steps, larger) / self.positives / self.negatives)

    def average_precision(self):
        """Precision at each positive, averaged; equal values are accepted together."""
        if not self.positives:
            return float("nan")
        return float(np.dot(self.steps, self.true / (self.true + self.false)) / self.positives)

    def at_false_rate(self, rate):
        """Return (true rate, threshold) of the largest threshold with at most this false rate.

        Both are NaN if there are fewer than 1 / rate negatives. The threshold is -inf if no positive can be accepted.
        """
        if not self.positives or self.negatives * rate < 1 - 1e-9:
            return float("nan"), float("nan")
        allowed = np.searchsorted(self.false, np.floor(self.negatives * rate + 1e-9), side="right")
        if allowed == 0:
            return 0.0, float("-inf")
        return float(self.true_rates[allowed - 1]), float(self.thresholds[allowed - 1])

    def at_true_rate(self, rate):
        """Return (false rate, threshold) of the smallest threshold with at least this true rate."""
        if not self.positives:
            return float("nan"), float("nan")
        place = np.searchsorted(self.true, np.ceil(self.positives * rate - 1e-9))
        return float(self.false_rates[place]), float(self.thresholds[place])

    def curve(self):
        """Vertices of the ROC curve, `(false rates, true rates)`, from (0, 0) to (1, 1)."""
        true = np.concatenate([[0], self.true]) / max(self.positives, 1)
        false, before = (counts / max(self.negatives, 1) for counts in (self.false, self.false_before))
        # Negatives between two positives move to the right, then the positive upwards.
        x = np.concatenate([[0.0], np.stack([before, false], axis=1).reshape(-1), [1.0]])
        y = np.concatenate([[0.0], np.stack([true[:-1], true[1:]], axis=1).reshape(-1), [1.0]])
        return x, y

    def equal_error_rate(self):
        """Rate at which the false rate equals one minus the true rate, on the curve with straight edges."""
        if not (self.positives and self.negatives):
            return float("nan")
        x, y = self.curve()
        # x + y - 1 increases along the curve, from -1 to 1.
        place = int(np.searchsorted(x + y - 1, 0))
        if place == 0:
            return float(x[0])
        low, high = (x + y - 1)[place - 1 : place + 1]
        share = -low / (high - low)
        return float(x[place - 1] + share * (x[place] - x[place - 1]))

    def best_accuracy(self):
        """Return the largest balanced accuracy and its threshold."""
        if not (self.positives and self.negatives):
            return float("nan"), float("nan")
        accuracy = (self.true_rates + 1 - self.false_rates) / 2
        best = int(np.argmax(accuracy))
        if accuracy[best] < 0.5:
            return 0.5, float("-inf")
        return float(accuracy[best]), float(self.thresholds[best])
