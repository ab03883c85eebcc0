"""Optimal transport of a part of the mass, smoothed by entropy."""

from __future__ import annotations

import math
import numbers
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32

SOLVERS = ("newton", "bregman")
GRADIENTS = ("implicit", "unrolled")

# Newton's method stops by itself, after 1-4 iterations on pooling problems and after up to about 20, most of them
# bisections, on costs that fall into groups far apart.
NEWTON_ITERATIONS = 64
BREGMAN_ITERATIONS = 100

# Log masses in a range of this width lose no digit that counts next to its center.
NARROW = 64.0
# Selection stops by itself, before the first split on pooling problems.
SPLITS = 256


class PartialTransport(NamedTuple):
    """The solution of `partial_transport`.

    Attributes:
        residual: Mass that stays with each feature, `(..., n)`.
        plan: Mass that goes from each feature to each prototype, `(..., m, n)`.
    """

    residual: tf.Tensor
    plan: tf.Tensor


class TransportedMass(NamedTuple):
    """How the features' mass divides, each `(..., n)`: all of the solution but the choice of prototypes.

    Attributes:
        selected: Mass that leaves each feature, its marginal less the residual.
        residual: Mass that stays.
        transported: Mass that arrives from each feature, the plan's column sums. It equals `selected` for
            Newton's method; for a fixed-point iteration that has not converged it alone sums to the ratio.
    """

    selected: tf.Tensor
    residual: tf.Tensor
    transported: tf.Tensor


def partial_transport(
    costs: TensorLike,
    ratio: float,
    smoothing: float,
    solver: Literal["newton", "bregman"] = "newton",
    iterations: int | None = None,
    gradient: Literal["implicit", "unrolled"] = "implicit",
    mask: TensorLike | None = None,
) -> PartialTransport:
    r"""Transports the share `ratio` of the features' uniform mass to free prototypes at the least cost.

    $$\rho, \pi = \arg\min_{\rho_j + \sum_i \pi_{ij} = 1/n, \; \sum_{ij} \pi_{ij} = \mu, \; \rho, \pi \ge 0}
      \sum_{ij} c_{ij} \pi_{ij}
      + \frac{1}{\varepsilon} \Big( \sum_{ij} \pi_{ij} \log \pi_{ij} + \sum_j \rho_j \log \rho_j \Big)$$

    With $a_j = \log \sum_i e^{-\varepsilon c_{ij}}$ the solution has one unknown, the number $u$:

    $$\rho_j = \tfrac{1}{n} \sigma(-u - a_j), \qquad
      \pi_{ij} = \tfrac{1}{n} \sigma(u + a_j) \, \mathrm{softmax}_i(-\varepsilon c_{ij}), \qquad
      \tfrac{1}{n} \textstyle\sum_j \sigma(u + a_j) = \mu.$$

    * `solver="newton"` finds $u$ to the precision of the floats, by Newton's method on the log-odds inside a
      bracket that shrinks. Costs of any finite size keep that precision, so that a large cost forbids a feature.
    * `solver="bregman"` runs `iterations` steps of alternating Bregman projections from $t = e^u = 1$,
      $\rho \leftarrow \frac{1}{n} (1 + t e^{a})^{-1}$, $t \leftarrow \mu (\sum_j e^{a_j} \rho_j)^{-1}$, in the log
      domain, and gives the last iterate, $\pi_{ij} = t e^{-\varepsilon c_{ij}} \rho_j$. Until it has converged,
      $\rho_j + \sum_i \pi_{ij}$ is not quite $1/n$.

    The gradient in closed form, with $G$ the upstream gradients, is

    $$\frac{\partial L}{\partial c_{ij}} = -\varepsilon \pi_{ij}
      \Big( G^\pi_{ij} - n \big( q_j - \eta \rho_j / \kappa \big) \Big), \quad
      q_j = \rho_j G^\rho_j + \textstyle\sum_i \pi_{ij} G^\pi_{ij}, \quad
      \eta = \sum_j \rho_j G^\rho_j - n \sum_j q_j \rho_j, \quad
      \kappa = 1 - \mu - n \sum_j \rho_j^2.$$

    It is computed in an equal form that loses no digits where $\rho_j$ is near 0 or $1/n$ and $\kappa$ nearly
    vanishes. By the implicit function theorem $\partial u / \partial a_k = -\sigma'_k / \sum_j \sigma'_j$, so a
    gradient $g$ with respect to the masses $\sigma(u + a_j) / n$ turns into

    $$\frac{\partial L}{\partial a_j} = \tfrac{1}{n} \sigma'_j
      \Big( g_j - \frac{\sum_k \sigma'_k g_k}{\sum_k \sigma'_k} \Big), \qquad
      \sigma'_j = \sigma(u + a_j) \, \sigma(-u - a_j),$$

    and the softmax and $a$ have derivatives of their own. With $\mu = 1$ nothing stays and nothing is left to
    choose: $\rho = 0$, $\sum_i \pi_{ij} = 1/n$.

    Args:
        costs: Cost of every prototype (row) for every feature (column), `(..., m, n)`; leading axes are problems
            of their own. Half precisions are computed, and returned, in float32. An infinite cost forbids a pair; give
            a feature that must not go anywhere a large finite cost, such as 1e9, or leave it out by `mask`: where all
            costs of a feature are infinite, and for a cost of NaN or minus infinity, the solution is NaN. An offset
            common to all costs does not change the solution, but costs are rounded with it: in float32 those near 1e5
            are multiples of 0.008, which moves the log-odds by about $\varepsilon$ times that. Subtract it first.
        ratio: Share of the mass to transport, $\mu$, a Python number, 0 < ratio <= 1.
        smoothing: $\varepsilon$ > 0, a Python number, in units of 1 / cost. Towards 0 all features weigh the
            same, towards infinity the solution is the linear program's.
        solver: `"newton"` or `"bregman"`.
        iterations: Most iterations of Newton's method, which stops by itself (default 64), or the number of
            Bregman projections (default 100).
        gradient: `"implicit"`, the closed form above at the solution (at the last iterate, for `"bregman"`), or
            `"unrolled"`, automatic differentiation through the iterations, for `"bregman"` alone.
        mask: Boolean, `(..., n)`: the features that exist. The others have no mass and their costs no influence.
            Where none exists the solution is 0.

    Returns:
        `PartialTransport(residual, plan)`, `(..., n)` and `(..., m, n)`.

    Raises:
        ValueError: If a number is out of its range, a name unknown, or a shape does not fit.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, (P2), Propositions
        5.2.1 and 5.2.2 (the gradient as printed there misplaces a term; it is corrected here).

    Example:
        >>> solution = partial_transport([[0.0, 1.0, 2.0]], ratio=0.5, smoothing=4.0)
        >>> [round(float(mass), 3) for mass in solution.residual]
        [0.006, 0.167, 0.327]
        >>> round(float(tf.reduce_sum(solution.plan)), 6)
        0.5
    """
    costs = at_least_float32(costs)
    if costs.shape.rank is not None and costs.shape.rank < 2:
        raise ValueError(f"costs must be (..., m, n). Received: costs of shape {tuple(costs.shape)}.")
    _, smoothing, _ = check_transport_options(ratio, smoothing, solver, iterations, gradient)
    if mask is not None:
        mask = tf.cast(mask, tf.bool)
        expected = costs.shape[:-2].concatenate(costs.shape[-1:])
        if not mask.shape.is_compatible_with(expected):
            raise ValueError(
                f"mask must be (..., n), the shape of costs without the prototypes. Received: mask of shape "
                f"{tuple(mask.shape)} and costs of shape {tuple(costs.shape)}; expected {tuple(expected)}."
            )
        costs = tf.where(mask[..., None, :], costs, 0.0)
    log_mass, assignment = soft_assignment(costs, smoothing, axis=-2)
    mass = transported_mass(log_mass, ratio, solver, iterations, gradient, mask)
    return PartialTransport(mass.residual, mass.transported[..., None, :] * assignment)


def soft_assignment(costs, smoothing, axis):
    r"""Which prototype each feature would go to, and how strongly it is drawn to all of them.

    $$a_j = \log \sum_i e^{-\varepsilon c_{ij}}, \qquad s_{ij} = e^{-\varepsilon c_{ij} - a_j}$$

    Args:
        costs: Cost of every prototype for every feature, float32 or float64.
        smoothing: $\varepsilon$ > 0.
        axis: The axis of the prototypes.

    Returns:
        `(log_mass, assignment)`: $a$ without that axis, and $s$ in the shape of the costs.
    """
    # Taking the least cost off first keeps all digits of the kernel; log_mass alone may be large.
    nearest = tf.stop_gradient(tf.reduce_min(costs, axis=axis, keepdims=True))
    kernel = tf.exp(smoothing * (nearest - costs))
    total = tf.reduce_sum(kernel, axis=axis, keepdims=True)
    log_mass = tf.squeeze(tf.math.log(total) - smoothing * nearest, axis=axis)
    return log_mass, kernel * tf.math.reciprocal(total)


def transported_mass(log_mass, ratio, solver="newton", iterations=None, gradient="implicit", mask=None):
    r"""How much of each feature's mass `partial_transport` moves, whichever prototype it goes to.

    This is the core of `partial_transport`, for those who do not need the plan: it never sees an `(m, n)` array.

    Args:
        log_mass: $a_j = \log \sum_i e^{-\varepsilon c_{ij}}$, `(..., n)`, float32 or float64.
        ratio, solver, iterations, gradient, mask: As for `partial_transport`.

    Returns:
        `TransportedMass(selected, residual, transported)`, each `(..., n)`.

    Raises:
        ValueError: As for `partial_transport`.
    """
    ratio, _, iterations = check_transport_options(ratio, 1.0, solver, iterations, gradient)
    if mask is None:
        size = log_mass.shape[-1] or tf.cast(tf.shape(log_mass)[-1], log_mass.dtype)
        marginal = tf.ones_like(log_mass) / size
    else:
        # Masked features get the mean of the others: finite, and inside the solver's bracket.
        present = tf.cast(mask, log_mass.dtype)
        marginal = tf.math.divide_no_nan(present, tf.reduce_sum(present, axis=-1, keepdims=True))
        centre = tf.reduce_sum(tf.where(mask, marginal * log_mass, 0.0), axis=-1, keepdims=True)
        log_mass = tf.where(mask, log_mass, tf.stop_gradient(centre))

    if ratio == 1.0:
        mass = _all_of(marginal, log_mass)
        return TransportedMass(mass, tf.zeros_like(mass), mass)
    if gradient == "unrolled":
        odds = _bregman(log_mass, marginal, ratio, iterations)
        selected, residual = marginal * tf.sigmoid(odds), marginal * tf.sigmoid(-odds)
        return TransportedMass(selected, residual, selected * _correction(selected, ratio))
    selected, residual = _implicit_masses(log_mass, marginal, ratio, solver, iterations)
    if solver == "newton":
        return TransportedMass(selected, residual, selected)
    # At the solution the factor is 1 whatever the costs: it has no gradient.
    return TransportedMass(selected, residual, selected * tf.stop_gradient(_correction(selected, ratio)))


def check_transport_options(ratio, smoothing, solver, iterations, gradient):
    """Raises ValueError unless these are options of `partial_transport`.

    Returns:
        `(ratio, smoothing, iterations)` as numbers, with the solver's default for `iterations=None`.
    """
    for name, number in (("ratio", ratio), ("smoothing", smoothing)):
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise ValueError(f"{name} must be a Python number. Received: {name}={number!r}.")
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio is out of range. Received: ratio={ratio}; expected 0 < ratio <= 1.")
    if not 0.0 < smoothing < math.inf:
        raise ValueError(f"smoothing must be positive. Received: smoothing={smoothing}; expected 0 < smoothing.")
    if solver not in SOLVERS:
        raise ValueError(f"Unknown solver. Received: solver={solver!r}; expected one of {SOLVERS}.")
    if gradient not in GRADIENTS:
        raise ValueError(f"Unknown gradient. Received: gradient={gradient!r}; expected one of {GRADIENTS}.")
    if solver == "newton" and gradient == "unrolled":
        raise ValueError(
            "Newton's method has no unrolled gradient. Received: solver='newton', gradient='unrolled'; "
            "expected gradient='implicit' or solver='bregman'."
        )
    if iterations is None:
        iterations = NEWTON_ITERATIONS if solver == "newton" else BREGMAN_ITERATIONS
    return float(ratio), float(smoothing), check_whole_number("iterations", iterations, minimum=1)


def _all_of(marginal, log_mass):
    @tf.custom_gradient
    def mass(log_mass):
        # Constant in the costs; a gradient of zeros, rather than none, keeps optimizers quiet.
        return tf.identity(marginal), tf.zeros_like

    return mass(log_mass)


def _implicit_masses(log_mass, marginal, ratio, solver, iterations):
    """Selected and residual mass with the closed-form gradient."""

    @tf.custom_gradient
    def masses(log_mass):
        solve = _newton if solver == "newton" else _bregman
        odds = solve(log_mass, marginal, ratio, iterations)
        share, rest = tf.sigmoid(odds), tf.sigmoid(-odds)

        def closed_form(selected_gradient, residual_gradient):
            slope = marginal * share * rest
            upstream = selected_gradient - residual_gradient
            shift = tf.math.divide_no_nan(
                tf.reduce_sum(slope * upstream, axis=-1, keepdims=True),
                tf.reduce_sum(slope, axis=-1, keepdims=True),
            )
            return slope * (upstream - shift)

        return (marginal * share, marginal * rest), closed_form

    return masses(log_mass)


def _correction(selected, ratio):
    """What the last update of t multiplies the plan with."""
    return tf.math.divide_no_nan(tf.constant(ratio, selected.dtype), tf.reduce_sum(selected, axis=-1, keepdims=True))


def _newton(log_mass, marginal, ratio, iterations):
    r"""Log-odds $z_j = u + a_j$ with $\sum_j w_j \sigma(z_j) = \mu$, by safeguarded Newton's method.

    The function to bring to zero is the gap of the log-odds of $p(u) = \sum_j w_j \sigma(u + a_j)$ to those of
    the ratio: it is the identity, up to a shift, where all $a_j$ are the same, and its slope lies in (0, 1]. A
    step that leaves the bracket is replaced by a bisection.

    The unknown is $v = u + c$ with a center $c$ near the solution's $-u$, so $v$ is small. $a_j - c$ is exact for
    features near $c$, whatever the size of $a$. So neither costs that are large as a whole nor single ones of any
    size, as those that forbid features, cost the log-odds that matter a digit.
    """
    limits = np.finfo(log_mass.dtype.as_numpy_dtype)
    step_tolerance = math.sqrt(limits.eps)  # The error after a step is about the step's square.
    gap_tolerance = 4.0 * float(limits.eps)  # A smaller gap is rounding.
    target = math.log(ratio) - math.log1p(-ratio)
    # The logistic function is 0 or 1 beyond.
    saturated = 1.0 - math.log(float(limits.tiny))

    def average(values):
        return tf.reduce_sum(marginal * values, axis=-1, keepdims=True)

    least = tf.reduce_min(log_mass, axis=-1, keepdims=True)
    most = tf.reduce_max(log_mass, axis=-1, keepdims=True)
    low, high = _turning_range(log_mass, marginal, ratio, least, most)
    # Where the solution would be were the log masses normally distributed, with the usual probit approximation.
    near = tf.clip_by_value(log_mass, low, high) - low
    mean = average(near)
    variance = average(tf.square(near - mean))
    ahead = mean - target * tf.sqrt(1.0 + math.pi / 8.0 * variance)
    center = low + tf.clip_by_value(ahead, -target, high - low - target)
    excess = log_mass - center
    # At the solution the log-odds of a feature in the range are no larger than saturated.
    lowest = tf.maximum(target - (most - center), -saturated - (high - center)) - 1.0
    highest = tf.minimum(target - (least - center), saturated - (low - center)) + 1.0
    start = tf.clip_by_value(tf.zeros_like(center), lowest, highest)
    pending = tf.ones_like(start, dtype=tf.bool)

    def unfinished(pending, *_):
        return tf.reduce_any(pending)

    def improve(pending, v, lowest, highest):
        odds = excess + v
        share, rest = tf.sigmoid(odds), tf.sigmoid(-odds)
        moved, kept, slope = average(share), average(rest), average(share * rest)
        gap = target - (tf.math.log(moved) - tf.math.log(kept))
        newton = v + gap * (moved * kept / tf.maximum(slope, float(limits.tiny)))
        lowest = tf.where(gap <= 0.0, lowest, v)
        highest = tf.where(gap >= 0.0, highest, v)
        inside = (newton >= lowest) & (newton <= highest)
        step = tf.where(inside, newton, 0.5 * (lowest + highest)) - v
        # A solved problem rests: on a plateau it must not be lost again, nor depend on the others in the batch.
        pending = pending & (tf.abs(gap) > gap_tolerance)
        step = tf.where(pending, step, 0.0)
        pending = pending & (tf.abs(step) > step_tolerance)
        return pending, v + step, lowest, highest

    _, v, _, _ = tf.while_loop(unfinished, improve, (pending, start, lowest, highest), maximum_iterations=iterations)
    return excess + v


def _turning_range(log_mass, marginal, ratio, least, most):
    """A range at most `NARROW` wide of the log mass down to which the largest ones have the ratio of the mass.

    The solution without smoothing turns there. The range is that of all log masses if that is narrow, and else found
    by selection: the mean of the log masses in the range splits it. Costs of very different sizes take one split for
    each size, costs of one size one for each halving.

    Args:
        log_mass, marginal: `(..., n)`; least, most: the range of `log_mass`, `(..., 1)`.

    Returns:
        `(low, high)`, each `(..., 1)`, both of them log masses.
    """
    dtype = log_mass.dtype

    def is_wide(low, high):
        return high - low > NARROW

    def split(low, high):
        wide = is_wide(low, high)
        inside = (marginal > 0.0) & (log_mass >= low) & (log_mass <= high)
        share = tf.where(inside, marginal, 0.0)
        share = share / tf.reduce_sum(share, axis=-1, keepdims=True)
        middle = tf.reduce_sum(tf.where(inside, share * log_mass, 0.0), axis=-1, keepdims=True)
        # Rounded, the mean may be as large as the largest.
        middle = tf.where(middle < high, tf.maximum(middle, low), low)
        above = log_mass > middle
        is_above = tf.reduce_sum(tf.where(above, marginal, 0.0), axis=-1, keepdims=True) >= ratio
        next_above = tf.reduce_min(tf.where(inside & above, log_mass, dtype.max), axis=-1, keepdims=True)
        next_below = tf.reduce_max(tf.where(inside & ~above, log_mass, dtype.min), axis=-1, keepdims=True)
        return tf.where(wide & is_above, next_above, low), tf.where(wide & ~is_above, next_below, high)

    return tf.while_loop(
        lambda low, high: tf.reduce_any(is_wide(low, high)), split, (least, most), maximum_iterations=SPLITS
    )


def _bregman(log_mass, marginal, ratio, iterations):
    r"""Log-odds $z_j = u + a_j$ of the last iterate of Proposition 5.2.1.

    In terms of $u = \log t$ and $p(u) = \sum_j w_j \sigma(u + a_j)$ the iteration is
    $u \leftarrow u + \log \mu - \log p(u)$, because $t e^{a_j} \rho_j = w_j \sigma(u + a_j)$.
    """
    log_ratio = math.log(ratio)
    # Finite in place of log 0, for the sake of the unrolled gradient.
    log_marginal = tf.math.log(tf.maximum(marginal, float(np.finfo(log_mass.dtype.as_numpy_dtype).tiny)))

    def project(odds):
        moved = tf.reduce_logsumexp(log_marginal + tf.math.log_sigmoid(odds), axis=-1, keepdims=True)
        return odds + (log_ratio - moved)

    _, odds = tf.while_loop(
        lambda step, _: step < iterations - 1,
        lambda step, odds: (step + 1, project(odds)),
        (0, log_mass),
        maximum_iterations=max(1, iterations - 1),  # Compiled, the gradient needs to know it.
    )
    return odds
