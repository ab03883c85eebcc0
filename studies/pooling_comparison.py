"""Which pooling is best? Train every pooling under equal conditions with a pair loss and with a proxy loss.

python -m studies.pooling_comparison --out DIR
"""

import pathlib
from typing import Literal, Optional

import numpy as np
import tensorflow as tf

from studies import plots
from studies.measurement import interleaved_times
from studies.report import Report, command, mean_and_deviation
from studies.tournament import CONTESTANTS
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError, builders, load_recipe
from tfdml.experiments.runner import result_of

# Names of `tfdml.layers.pooling.names()`, except those with free parameters, and one more.
ZERO_SHOT = "gsp_zero_shot"
TITLES = {
    "gap": "GAP",
    "gmp": "GMP",
    "gap_gmp": "GAP + GMP",
    "cbam": "CBAM",
    "crow": "CroW",
    "delf": "DeLF",
    "generalized_max": "generalized max",
    "generalized_mean": "generalized mean (GeM)",
    "gsop": "GSoP",
    "optimal_transport_8x16": "optimal transport 8×16",
    "optimal_transport_64x128": "optimal transport 64×128",
    "solar": "SOLAR",
    "smk": "trainable SMK",
    "netvlad_8x16": "NetVLAD 8×16",
    "netvlad_64x128": "NetVLAD 64×128",
    "weldon": "WELDON",
    "gsp": "GSP",
    "gsp_gmp": "GSP + GMP",
    ZERO_SHOT: "GSP + zero-shot",
}
# Proxies as in the tournament of losses: one per class, with ten times the learning rate of the network.
LOSSES = {
    "c2": {"loss.name": "c2", "references.name": "batch"},
    "proxy_nca_plus_plus": CONTESTANTS["proxy_nca_plus_plus"],
}
LOSS_TITLES = {"c2": "C2", "proxy_nca_plus_plus": "ProxyNCA++"}


def pooling_comparison(
    out: str,
    poolings: list[str] = tuple(TITLES),
    losses: list[Literal["c2", "proxy_nca_plus_plus"]] = tuple(LOSSES),
    seeds: list[int] = (0,),
    steps: int = 300,
    timed_turns: int = 5,
    recipe: str = "collage",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train each pooling once per loss and seed, and compare MAP@R on unseen classes.

    All share the network, its initial weights and the batches, and pool local features of the same size. The last
    contestant is generalized sum pooling with the zero-shot loss, with the weight of the recipe; all others are trained
    without it. Average pooling is always included as the baseline.

    The runs are kept in the folder. A stopped comparison resumes, and another call with more poolings, losses or seeds
    trains only the new runs. Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        poolings: Names of `TITLES`.
        losses: C2 inside the batch, ProxyNCA++ against proxies, or both.
        seeds: Seeds of the runs.
        steps: Number of training steps; the better of two validations counts.
        timed_turns: Number of rounds that time the training steps of the poolings alternately; 0 for no times.
        recipe: Recipe that all runs share, with the hyperparameters of generalized sum pooling.
        overrides: Changes of the recipe, as in --overrides.model.gsp.ratio 0.2.
        quick: Run average pooling and generalized sum pooling with C2, one seed, few steps.

    Returns:
        dict from (pooling, loss) to the MAP@R of each seed, `(seeds,)`.
    """
    overrides = dict(overrides or {})
    for pooling in poolings:
        if pooling not in TITLES:
            raise InputError(str(unknown_name("pooling of the comparison", pooling, TITLES)))
    if quick:
        poolings, losses, seeds, steps, timed_turns = ["gsp"], list(losses)[:1], list(seeds)[:1], min(steps, 20), 1
    poolings = list(dict.fromkeys(["gap", *poolings]))
    equal = {"training.steps_per_validation": max(1, steps // 2), "training.max_validations": 2}
    folder, metrics = pathlib.Path(out).expanduser() / "runs", {}
    for loss in losses:
        for pooling in poolings:
            for seed in seeds:
                changes = {**equal, **_changes(pooling, loss), "seed": seed, **overrides}
                test = result_of(load_recipe(recipe, changes), folder / f"{loss}-{pooling}-{seed}").test
                metrics.setdefault((pooling, loss), []).append((test["map_at_r"], test["precision_at_1"]))
                print(f"{loss:20s} {pooling:25s} seed {seed}: test MAP@R {test['map_at_r']:.4f}", flush=True)
    metrics = {key: np.array(values).T for key, values in metrics.items()}
    times = {}
    if timed_turns:
        timed = {name: load_recipe(recipe, {**_changes(name, losses[0]), **overrides}) for name in poolings}
        times = step_times(timed, timed_turns)
    _report(Report(out), poolings, list(losses), list(seeds), metrics, times, f"{steps} steps of the recipe {recipe}")
    return {key: map_at_r for key, (map_at_r, _) in metrics.items()}


def _changes(pooling, loss):
    """Changes of the recipe for a contestant."""
    return {
        **LOSSES[loss],
        "model.pooling": "gsp" if pooling == ZERO_SHOT else pooling,
        "zero_shot.enabled": pooling == ZERO_SHOT,
    }


def step_times(recipes, turns):
    """Time the training steps of recipes alternately on one batch.

    Args:
        recipes: dict from a name to a `Recipe`, all with the same data and batches.
        turns: int. Number of rounds.

    Returns:
        dict from the name to seconds, `(turns,)`.
    """
    first = next(iter(recipes.values()))
    images = builders.load_data(first)
    batch = next(iter(builders.training_batches(first, images)))
    steps = {}
    for name, recipe in recipes.items():
        embedder = builders.make_embedder(recipe, images.preprocessing)
        steps[name] = _training_step(builders.make_model(recipe, embedder, images.train))
    return interleaved_times(steps, batch, turns)


def _training_step(model):
    return tf.function(lambda batch: [tf.convert_to_tensor(value) for value in model.train_step(batch).values()])


def _report(report, poolings, losses, seeds, metrics, times, settings):
    titles = [TITLES[pooling] for pooling in poolings]
    map_at_r = {loss: np.array([metrics[pooling, loss][0] for pooling in poolings]) for loss in losses}
    order = np.argsort(-sum(scores.mean(axis=1) for scores in map_at_r.values()), kind="stable")
    gap_times = times.get("gap")
    report.table(
        "pooling_comparison",
        [
            "pooling",
            "name",
            *(f"{metric}, {LOSS_TITLES[loss]}" for loss in losses for metric in ("MAP@R", "P@1")),
            "step time relative to GAP",
        ],
        [
            [
                titles[index],
                poolings[index],
                *(mean_and_deviation(values) for loss in losses for values in metrics[poolings[index], loss]),
                # Round by round, because the load of the machine varies.
                f"{np.median(times[poolings[index]] / gap_times):.2f}" if times else "–",
            ]
            for index in order
        ],
        f"Unseen classes, mean ± deviation over {len(seeds)} seed(s), after {settings}; sorted by the mean MAP@R."
        + (f" A step with average pooling takes {1e3 * np.median(gap_times):.0f} ms." if times else ""),
    )
    report.table(
        "scores",
        ["name", *(f"{LOSS_TITLES[loss]}, seed {seed}" for loss in losses for seed in seeds)],
        [[poolings[index], *(f"{score:.4f}" for loss in losses for score in map_at_r[loss][index])] for index in order],
        "MAP@R of each run.",
    )
    report.figure(
        "pooling_comparison",
        plots.dot_plot(
            titles,
            {LOSS_TITLES[loss]: scores for loss, scores in map_at_r.items()},
            "MAP@R on unseen classes",
            baseline=TITLES["gap"],
            emphasized=[title for title in titles if title.startswith("GSP")],
        ),
    )


if __name__ == "__main__":
    command(pooling_comparison)
