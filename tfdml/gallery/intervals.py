"""Confidence intervals of rates."""

from __future__ import annotations

import numpy as np
from scipy import stats


def clustered_interval(hits, groups, confidence):
    r"""Confidence interval of a rate whose observations come in groups, such as the queries of a class.

    Queries of one class are accepted or rejected together more often than by chance, so they count as fewer independent
    ones: the interval of Clopper and Pearson is computed for the effective number of observations

    $$n^* = \frac{p (1 - p)}{\hat v} \left(\frac{t_{n-1}}{t_{C-1}}\right)^2 \le n$$

    with the variance $\hat v$ of the rate $p$ between the $C$ groups, and quantiles of Student's t for few groups.

    Args:
        hits: bool array `(n,)`, n >= 1.
        groups: int array `(n,)`. At least two different groups.
        confidence: float between 0 and 1.

    Returns:
        (low, high, effective number of observations).

    Reference:
        Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts estimated
        from survey data, Survey Methodology 24, 1998.
    """
    hits, numbers = np.asarray(hits, float), np.unique(groups, return_inverse=True)[1].reshape(-1)
    count, rate = len(hits), hits.mean()
    classes = numbers.max() + 1
    effective = float(count)
    if 0 < rate < 1:
        deviations = np.bincount(numbers, hits - rate)
        variance = classes / (classes - 1) * np.square(deviations).sum() / count**2
        effective = min(count, rate * (1 - rate) / variance) if variance > 0 else count
    tail = (1 + confidence) / 2
    effective *= min(1, (stats.t.ppf(tail, count - 1) / stats.t.ppf(tail, classes - 1)) ** 2)
    accepted = rate * effective
    low = stats.beta.ppf(1 - tail, accepted, effective - accepted + 1) if accepted > 0 else 0.0
    high = stats.beta.ppf(tail, accepted + 1, effective - accepted) if accepted < effective else 1.0
    return float(low), float(high), float(effective)
