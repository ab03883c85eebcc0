"""Entropic optimal transport of a part of the mass."""

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

# Newton's method stops by itself: after 1-4 iterations on pooling problems, and after up to about 20, mostly
# bisections, if costs form groups that are far apart.
NEWTON_ITERATIONS = 64
BREGMAN_ITERATIONS = 100

# Log masses in a range of this width lose no significant digit when its center is subtracted.
NARROW = 64.0
# The selection stops by itself, on pooling problems before the first split.
SPLITS = 256


class PartialTransport(NamedTuple):
    """Solution of `partial_transport`.

    Attributes:
        residual: Tensor `(..., n)`. Mass that stays with each feature.
        plan: Tensor `(..., m, n)`. Mass that goes from each feature to each prototype.

    Example:
        >>> from tfdml import ops
        >>> residual, plan = ops.partial_transport([[0.0, 1.0, 2.0]], ratio=0.5, smoothing=4.0)
        >>> tuple(residual.shape), tuple(plan.shape)
        ((3,), (1, 3))
    """

    residual: tf.Tensor
    plan: tf.Tensor


class TransportedMass(NamedTuple):
    """Division of the features' mass, each `(..., n)`: the solution without the choice of prototypes.

    Attributes:
        selected: Mass that leaves each feature: its marginal minus the residual.
        residual: Mass that stays.
        transported: Mass that arrives from each feature: the column sums of the plan. For Newton's method it equals
            `selected`. For a fixed-point iteration that has not converged, only this sums to the ratio.
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
    r"""Transport a share of the features' uniform mass to prototypes of free capacity at minimum cost.

    The problem that `GeneralizedSumPooling` solves, with an exact solver and a closed-form gradient:

    $$\rho, \pi = \arg\min_{\rho_j + \sum_i \pi_{ij} = 1/n, \; \sum_{ij} \pi_{ij} = \mu, \; \rho, \pi \ge 0}
      \sum_{ij} c_{ij} \pi_{ij}
      + \frac{1}{\varepsilon} \Big( \sum_{ij} \pi_{ij} \log \pi_{ij} + \sum_j \rho_j \log \rho_j \Big)$$

    With $a_j = \log \sum_i e^{-\varepsilon c_{ij}}$ the solution has a single unknown, the number $u$:

    $$\rho_j = \tfrac{1}{n} \sigma(-u - a_j), \qquad
      \pi_{ij} = \tfrac{1}{n} \sigma(u + a_j) \, \mathrm{softmax}_i(-\varepsilon c_{ij}), \qquad
      \tfrac{1}{n} \textstyle\sum_j \sigma(u + a_j) = \mu.$$

    * `solver="newton"` finds $u$ to floating-point precision, by Newton's method on the log-odds inside a shrinking
    bracket. The precision does not depend on the size of finite costs, so a large cost can exclude a feature.
    * `solver="bregman"` runs `iterations` steps of alternating Bregman projections from $t = e^u = 1$,
    $\rho \leftarrow \frac{1}{n} (1 + t e^{a})^{-1}$, $t \leftarrow \mu (\sum_j e^{a_j} \rho_j)^{-1}$, in the log
    domain, and returns the last iterate, $\pi_{ij} = t e^{-\varepsilon c_{ij}} \rho_j$. Until it has converged,
    $\rho_j + \sum_i \pi_{ij}$ is not exactly $1/n$.

    The gradient in closed form, with the upstream gradients $G$, is

    $$\frac{\partial L}{\partial c_{ij}} = -\varepsilon \pi_{ij}
      \Big( G^\pi_{ij} - n \big( q_j - \eta \rho_j / \kappa \big) \Big), \quad
      q_j = \rho_j G^\rho_j + \textstyle\sum_i \pi_{ij} G^\pi_{ij}, \quad
      \eta = \sum_j \rho_j G^\rho_j - n \sum_j q_j \rho_j, \quad
      \kappa = 1 - \mu - n \sum_j \rho_j^2.$$

    It is computed in an equivalent form that loses no digits if $\rho_j$ is near 0 or $1/n$ and $\kappa$ nearly
    vanishes. By the implicit function theorem $\partial u / \partial a_k = -\sigma'_k / \sum_j \sigma'_j$, so a
    gradient $g$ with respect to the masses $\sigma(u + a_j) / n$ becomes

    $$\frac{\partial L}{\partial a_j} = \tfrac{1}{n} \sigma'_j
      \Big( g_j - \frac{\sum_k \sigma'_k g_k}{\sum_k \sigma'_k} \Big), \qquad
      \sigma'_j = \sigma(u + a_j) \, \sigma(-u - a_j),$$

    and the softmax and $a$ are differentiated as usual. With $\mu = 1$ all mass is transported: $\rho = 0$,
    $\sum_i \pi_{ij} = 1/n$.

    Args:
        costs: float tensor, `(..., m, n)`. Cost of each prototype (row) for each feature (column); leading axes are
            independent problems. Half precision is computed, and returned, in float32. An infinite cost excludes a
            pair. To exclude a feature, use a large finite cost such as 1e9, or `mask`: if all costs of a feature are
            infinite, or a cost is NaN or minus infinity, the solution is NaN. An offset common to all costs does not
            change the solution, but costs are rounded with it: in float32, costs near 1e5 are multiples of 0.008, which
            changes the log-odds by about $\varepsilon$ times that. Subtract it first.
        ratio: float, 0 < ratio <= 1. $\mu$, the share of the mass to transport.
        smoothing: float, > 0. $\varepsilon$, in units of 1 / cost. Towards 0 all features have equal weights; towards
            infinity the solution is that of the linear program.
        solver: `"newton"` or `"bregman"`. Default: `"newton"`.
        iterations: int or `None`. The maximum number of Newton iterations, which stop by themselves, or the number of
            Bregman projections. Default: `None`, 64 or 100.
        gradient: `"implicit"`, the closed form above at the solution (at the last iterate for `"bregman"`), or
            `"unrolled"`, automatic differentiation through the iterations, for `"bregman"` only. Default: `"implicit"`.
        mask: bool tensor, `(..., n)`, or `None`. `True` for valid features. Others have no mass, and their costs no
            influence. Without any valid feature the solution is 0. Default: `None`, all features are valid.

    Returns:
        `PartialTransport(residual, plan)`, `(..., n)` and `(..., m, n)`.

    Raises:
        ValueError: If a number is out of range, a name is unknown, or shapes do not match.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, (P2), Propositions 5.2.1 and
        5.2.2 (the gradient as printed misplaces a term; it is corrected here).

    Example:
        >>> from tfdml import ops
        >>> solution = ops.partial_transport([[0.0, 1.0, 2.0]], ratio=0.5, smoothing=4.0)
        >>> [round(float(mass), 3) for mass in solution.residual]
        [0.006, 0.167, 0.327]
        >>> round(float(solution.plan.numpy().sum()), 6)
        0.5
    """
    costs = at_least_float32(costs)
    if costs.shape.rank is not None and costs.shape.rank < 2:
        raise ValueError(
            f"The costs have the wrong rank. Received: costs of shape {tuple(costs.shape)}. Expected: (..., m, n)."
        )
    _, smoothing, _ = check_transport_options(ratio, smoothing, solver, iterations, gradient)
    if mask is not None:
        mask = tf.cast(mask, tf.bool)
        expected = costs.shape[:-2].concatenate(costs.shape[-1:])
        if not mask.shape.is_compatible_with(expected):
            raise ValueError(
                f"The mask does not match the costs. Received: mask of shape {tuple(mask.shape)} and costs of shape "
                f"{tuple(costs.shape)}. Expected: {tuple(expected)}, the shape of the costs without the prototypes."
            )
        costs = tf.where(mask[..., None, :], costs, 0.0)
    log_mass, assignment = soft_assignment(costs, smoothing, axis=-2)
    mass = transported_mass(log_mass, ratio, solver, iterations, gradient, mask)
    return PartialTransport(mass.residual, mass.transported[..., None, :] * assignment)


def soft_assignment(costs, smoothing, axis):
    r"""Compute the soft assignment of features to prototypes, and its log-normalizer.

    $$a_j = \log \sum_i e^{-\varepsilon c_{ij}}, \qquad s_{ij} = e^{-\varepsilon c_{ij} - a_j}$$

    Args:
        costs: Tensor, float32 or float64. Cost of each prototype for each feature.
        smoothing: float, > 0. $\varepsilon$.
        axis: int. The axis of the prototypes.

    Returns:
        `(log_mass, assignment)`, $a$ without that axis, and $s$ in the shape of the costs.
    """
    # Subtracting the least cost first keeps all digits of the kernel; only log_mass may be large.
    nearest = tf.stop_gradient(tf.reduce_min(costs, axis=axis, keepdims=True))
    kernel = tf.exp(smoothing * (nearest - costs))
    total = tf.reduce_sum(kernel, axis=axis, keepdims=True)
    log_mass = tf.squeeze(tf.math.log(total) - smoothing * nearest, axis=axis)
    return log_mass, kernel * tf.math.reciprocal(total)


def transported_mass(log_mass, ratio, solver="newton", iterations=None, gradient="implicit", mask=None):
    r"""Compute how much of each feature's mass `partial_transport` moves, regardless of the prototype.

    The core of `partial_transport` for callers that do not need the plan: it never creates an `(m, n)` array.

    Args:
        log_mass: Tensor `(..., n)`, float32 or float64. $a_j = \log \sum_i e^{-\varepsilon c_{ij}}$.
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
        # Masked features get the mean of the others, which is finite and inside the solver's bracket.
        present = tf.cast(mask, log_mass.dtype)
        marginal = tf.math.divide_no_nan(present, tf.reduce_sum(present, axis=-1, keepdims=True))
        center = tf.reduce_sum(tf.where(mask, marginal * log_mass, 0.0), axis=-1, keepdims=True)
        log_mass = tf.where(mask, log_mass, tf.stop_gradient(center))

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
    # At the solution the factor is 1 for any costs, so it has no gradient.
    return TransportedMass(selected, residual, selected * tf.stop_gradient(_correction(selected, ratio)))


def check_transport_options(ratio, smoothing, solver, iterations, gradient):
    """Check the options of `partial_transport`.

    Returns:
        `(ratio, smoothing, iterations)` as numbers; `iterations=None` is replaced by the default of the solver.

    Raises:
        ValueError: If an option is out of range or unknown.
    """
    for name, number in (("ratio", ratio), ("smoothing", smoothing)):
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise ValueError(f"{name} is not a number. Received: {name}={number!r}. Expected: a Python number.")
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio is out of range. Received: ratio={ratio}. Expected: 0 < ratio <= 1.")
    if not 0.0 < smoothing < math.inf:
        raise ValueError(f"smoothing is out of range. Received: smoothing={smoothing}. Expected: 0 < smoothing < inf.")
    if solver not in SOLVERS:
        raise ValueError(f"Unknown solver. Received: solver={solver!r}. Expected: one of {SOLVERS}.")
    if gradient not in GRADIENTS:
        raise ValueError(f"Unknown gradient. Received: gradient={gradient!r}. Expected: one of {GRADIENTS}.")
    if solver == "newton" and gradient == "unrolled":
        raise ValueError(
            "Newton's method has no unrolled gradient. Received: solver='newton', gradient='unrolled'. "
            "Expected: gradient='implicit' or solver='bregman'."
        )
    if iterations is None:
        iterations = NEWTON_ITERATIONS if solver == "newton" else BREGMAN_ITERATIONS
    return float(ratio), float(smoothing), check_whole_number("iterations", iterations, minimum=1)


def _all_of(marginal, log_mass):
    @tf.custom_gradient
    def mass(log_mass):
        # Constant in the costs. Optimizers warn about missing gradients, so the gradient is zero rather than None.
        return tf.identity(marginal), tf.zeros_like

    return mass(log_mass)


def _implicit_masses(log_mass, marginal, ratio, solver, iterations):
    """Selected and residual mass, with the closed-form gradient."""

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
    """The factor by which the last update of t scales the plan."""
    return tf.math.divide_no_nan(tf.constant(ratio, selected.dtype), tf.reduce_sum(selected, axis=-1, keepdims=True))


def _newton(log_mass, marginal, ratio, iterations):
    r"""Find the log-odds $z_j = u + a_j$ with $\sum_j w_j \sigma(z_j) = \mu$, by safeguarded Newton's method.

    The root function is the gap between the log-odds of $p(u) = \sum_j w_j \sigma(u + a_j)$ and those of the ratio. It
    is the identity up to a shift if all $a_j$ are equal, and its slope lies in (0, 1]. A step that leaves the bracket
    is replaced by a bisection.

    The unknown is $v = u + c$ with a center $c$ near the solution's $-u$, so $v$ is small. $a_j - c$ is exact for
    features near $c$, no matter how large $a$ is. So neither large costs in general nor single huge costs, such as
    those that exclude features, reduce the precision of the log-odds that matter.
    """
    limits = np.finfo(log_mass.dtype.as_numpy_dtype)
    step_tolerance = math.sqrt(limits.eps)  # The error after a step is about the step's square.
    gap_tolerance = 4.0 * float(limits.eps)  # A smaller gap is rounding.
    target = math.log(ratio) - math.log1p(-ratio)
    # The logistic function is 0 or 1 beyond this.
    saturated = 1.0 - math.log(float(limits.tiny))

    def average(values):
        return tf.reduce_sum(marginal * values, axis=-1, keepdims=True)

    least = tf.reduce_min(log_mass, axis=-1, keepdims=True)
    most = tf.reduce_max(log_mass, axis=-1, keepdims=True)
    low, high = _turning_range(log_mass, marginal, ratio, least, most)
    # The solution for normally distributed log masses, with the usual probit approximation.
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
        # Freeze solved problems: they must not move on a plateau, nor depend on the other problems in the batch.
        pending = pending & (tf.abs(gap) > gap_tolerance)
        step = tf.where(pending, step, 0.0)
        pending = pending & (tf.abs(step) > step_tolerance)
        return pending, v + step, lowest, highest

    _, v, _, _ = tf.while_loop(unfinished, improve, (pending, start, lowest, highest), maximum_iterations=iterations)
    return excess + v


def _turning_range(log_mass, marginal, ratio, least, most):
    """Find a range, at most `NARROW` wide, with the log mass down to which the largest have the ratio of the mass.

    The solution without smoothing switches there. If the range of all log masses is narrow, it is returned. Otherwise
    it is found by selection, splitting at the mean of the log masses in the range. Costs of very different magnitudes
    need one split per magnitude, costs of one magnitude one per halving.

    Args:
        log_mass, marginal: Tensors `(..., n)`.
        least, most: Tensors `(..., 1)`. The range of `log_mass`.

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
        # Because of rounding, the mean may equal the largest value.
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
    r"""Compute the log-odds $z_j = u + a_j$ of the last iterate of Proposition 5.2.1.

    In terms of $u = \log t$ and $p(u) = \sum_j w_j \sigma(u + a_j)$ the iteration is
    $u \leftarrow u + \log \mu - \log p(u)$, because $t e^{a_j} \rho_j = w_j \sigma(u + a_j)$.
    """
    log_ratio = math.log(ratio)
    # A finite value instead of log 0 keeps the unrolled gradient finite.
    log_marginal = tf.math.log(tf.maximum(marginal, float(np.finfo(log_mass.dtype.as_numpy_dtype).tiny)))

    def project(odds):
        moved = tf.reduce_logsumexp(log_marginal + tf.math.log_sigmoid(odds), axis=-1, keepdims=True)
        return odds + (log_ratio - moved)

    _, odds = tf.while_loop(
        lambda step, _: step < iterations - 1,
        lambda step, odds: (step + 1, project(odds)),
        (0, log_mass),
        maximum_iterations=max(1, iterations - 1),  # Required for the gradient under XLA.
    )
    return odds
