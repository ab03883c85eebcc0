"""What does smoothing do to pooling weights? Partial transport and its linear program on a toy feature map.

python -m studies.toy_transport --out DIR
"""

import numpy as np
import tensorflow as tf
from scipy.optimize import linprog

from studies import plots
from studies.report import Report, command
from tfdml import ops

SIDE = 10
RED, GREEN, BLUE = np.eye(3)
NOISE = 0.15
# Half of the map is green, which no prototype represents.
TRUE_RATIO = 0.5


def toy_transport(
    out: str,
    ratios: list[float] = (0.2, 0.5, 0.8),
    smoothings: list[float] = (1.0, 5.0, 20.0, 100.0),
    seed: int = 0,
    quick: bool = False,
):
    """Pool a 10×10 map of colors, a red and a blue patch on green, with a red and a blue prototype.

    Solves the linear program with scipy's HiGHS and the smoothed problem with `ops.partial_transport`, in float64.

    Args:
        out: Folder for tables and figures.
        ratios: Transported shares of the mass, μ, each below 1.
        smoothings: Values of ε, in units of 1 / cost, for the table and the maps.
        seed: Seed of the color noise.
        quick: Run one ratio.

    Returns:
        dict from the ratio to a dict from `"linear_program"` and each smoothing to the plan, `(2, 100)`.
    """
    ratios = list(ratios)[:1] if quick else list(ratios)
    features, informative = feature_map(seed)
    costs = ops.clipped_distances(tf.constant(features.reshape(-1, 3)), tf.constant([RED, BLUE])).numpy().T
    results = {}
    for ratio in ratios:
        plans = {smoothing: smoothed_plan(costs, ratio, smoothing) for smoothing in smoothings}
        results[ratio] = {**plans, "linear_program": linear_program(costs, ratio)}
    _report(out, features, costs, informative.ravel(), results, list(smoothings))
    return results


def feature_map(seed=0):
    """Return the features `(10, 10, 3)` in 0–1, and a mask `(10, 10)` of the red and blue ones.

    The upper left quarter is red and the lower right one blue. Each color has uniform noise towards white or black.
    """
    half = SIDE // 2
    features = np.tile(GREEN, (SIDE, SIDE, 1))
    features[:half, :half], features[half:, half:] = RED, BLUE
    noise = np.random.default_rng(seed).uniform(0.0, 2 * NOISE, features.shape)
    informative = np.zeros((SIDE, SIDE), bool)
    informative[:half, :half] = informative[half:, half:] = True
    return np.abs(features - noise), informative


def linear_program(costs, ratio):
    r"""Solve the transport problem without smoothing; returns the plan `(m, n)`.

    $$\min_{\rho, \pi \ge 0} \sum_{ij} c_{ij} \pi_{ij}, \qquad
      \rho_j + \sum_i \pi_{ij} = 1/n, \qquad \sum_{ij} \pi_{ij} = \mu.$$
    """
    prototypes, count = costs.shape
    of_plan = np.tile(np.eye(count), prototypes)
    solution = linprog(
        np.concatenate([costs.ravel(), np.zeros(count)]),
        A_eq=np.block([[of_plan, np.eye(count)], [np.ones((1, costs.size)), np.zeros((1, count))]]),
        b_eq=np.append(np.full(count, 1.0 / count), ratio),
        method="highs-ds",
    )
    return solution.x[: costs.size].reshape(costs.shape)


def smoothed_plan(costs, ratio, smoothing):
    """Solve the smoothed problem; returns the plan `(m, n)`."""
    return ops.partial_transport(tf.constant(costs, tf.float64), ratio, smoothing).plan.numpy()


def _weights(plan, ratio):
    """Pooling weight of each feature; the weights sum to 1."""
    return plan.sum(axis=0) / ratio


def _distance(plan, exact, ratio):
    """Total variation between the pooling weights of two plans, in 0–1."""
    return 0.5 * np.abs(_weights(plan, ratio) - _weights(exact, ratio)).sum()


def _report(out, features, costs, informative, results, smoothings):
    report = Report(out)
    rows = []
    for ratio, plans in results.items():
        exact = plans["linear_program"]
        for name in [*smoothings, "linear_program"]:
            weights = _weights(plans[name], ratio)
            rows.append(
                [
                    f"{ratio:g}",
                    "linear program" if name == "linear_program" else f"{name:g}",
                    f"{np.sum(costs * plans[name]) / ratio:.4f}",
                    f"{np.sum(costs * (plans[name] - exact)) / ratio:.4f}",
                    f"{_distance(plans[name], exact, ratio):.4f}",
                    f"{weights[informative].sum():.3f}",
                    # The number of equal weights with the same sum of squares.
                    f"{1.0 / np.sum(weights[informative] ** 2) * weights[informative].sum() ** 2:.1f}",
                ]
            )
    report.table(
        "toy_transport",
        [
            "ratio μ",
            "smoothing ε",
            "mean cost of the transported mass",
            "excess over the linear program",
            "distance of weights to the linear program (total variation)",
            "weight on red and blue",
            "red and blue in use (of 50)",
        ],
        rows,
        f"Red and blue are {informative.mean():g} of the map. Average pooling: weight {informative.mean():g} on them, "
        "all 50 in use. In use: (Σp)² / Σp² over the red and blue features.",
    )
    names = [*smoothings, "linear_program"]
    count = features.shape[0] * features.shape[1]
    maps = [[plans[name].sum(axis=0).reshape(SIDE, SIDE) * count for name in names] for plans in results.values()]
    report.figure(
        "weights",
        plots.weight_grid(
            features.astype(np.float32),
            np.clip(maps, 0.0, 1.0),
            [f"μ = {ratio:g}" for ratio in results],
            [*(f"ε = {smoothing:g}" for smoothing in smoothings), "linear program"],
            label="transported share of a feature's mass, nπ",
            limit=1.0,
        ),
    )
    dense = np.geomspace(0.1, 3000.0, 19)
    distances = {
        f"μ = {ratio:g}": (
            dense,
            [_distance(smoothed_plan(costs, ratio, e), plans["linear_program"], ratio) for e in dense],
        )
        for ratio, plans in results.items()
    }
    report.figure(
        "distance",
        plots.lines(
            distances, "smoothing ε (1 / cost)", "total variation to the weights\nof the linear program", x_log=True
        ),
    )


if __name__ == "__main__":
    command(toy_transport)
