"""Which loss ranks first? Train losses under equal conditions and rank them in every setting.

python -m studies.tournament --out DIR
"""

import pathlib
from typing import Optional

import numpy as np

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.runner import result_of

# One proxy per class unless the loss is designed for more, with ten times the learning rate of the network, which
# starts from random weights, too. The factor of 100 in the thesis suits a pretrained network.
_PROXIES = {"references.name": "proxies", "references.per_class": 1, "optimizer.proxy_learning_rate_multiplier": 10.0}
# The ten losses of Psomas' benchmark with its hyperparameters, its own loss, and two from the comparison of the thesis.
# Everything else is the same for all.
CONTESTANTS = {
    "contrastive": {"loss.name": "contrastive"},
    "triplet": {"loss.name": "triplet", "loss.options": {"margin": 0.1, "mining": "semi_hard"}},
    "lifted_structure": {"loss.name": "generalized_lifted_structure", "loss.options": {"margin": 0.5}},
    # The loss uses inner products of vectors of any length.
    "n_pairs": {"loss.name": "n_pairs", "model.normalization": "none"},
    "margin": {
        "loss.name": "margin",
        "loss.options": {"margin": 0.5, "beta": 1.2, "learn_beta": True},
        "loss.miner.name": "distance_weighted",
    },
    "multi_similarity": {"loss.name": "multi_similarity"},
    "proxy_nca": {"loss.name": "proxy_nca", **_PROXIES},
    "arc_face": {"loss.name": "arc_face", **_PROXIES},
    "soft_triple": {"loss.name": "soft_triple", **_PROXIES, "references.per_class": 4},
    "proxy_anchor": {"loss.name": "proxy_anchor", **_PROXIES},
    "proxy_proxy": {"loss.name": "proxy_proxy", "loss.options": {"through_batch": True}, **_PROXIES},
    "proxy_nca_plus_plus": {"loss.name": "proxy_nca_plus_plus", **_PROXIES},
    "contrastive_ccp": {
        "loss.name": "contrastive",
        "references.name": "proxies",
        "ccp.enabled": True,
    },
}


def tournament(
    out: str,
    contestants: list[str] = tuple(CONTESTANTS),
    embedding_sizes: list[int] = (32, 128),
    seeds: list[int] = (0, 1),
    recipe: str = "tournament",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train each contestant once per embedding size and seed, and rank them by MAP@R on unseen classes.

    A setting is a pair of an embedding size and a seed. All contestants share the initial weights and the batches of a
    seed. In each setting the best contestant has rank 1; ties share the mean of their ranks.

    The runs are kept in the folder. A stopped tournament resumes, and another call with more contestants, sizes or
    seeds trains only the new runs. Several simultaneous calls with different seeds can share a folder.

    Args:
        out: Folder for the tables, the figure and the runs.
        contestants: Names of `CONTESTANTS`, each a loss with its references and hyperparameters.
        embedding_sizes: Sizes of the embedding.
        seeds: Seeds of the runs.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.training.max_validations 5.
        quick: Run three contestants, one size, one seed, few steps.

    Returns:
        float array `(contestants, settings)`, the ranks.
    """
    overrides = dict(overrides or {})
    for contestant in contestants:
        if contestant not in CONTESTANTS:
            raise InputError(str(unknown_name("contestant", contestant, CONTESTANTS)))
    if quick:
        contestants, embedding_sizes, seeds = contestants[:3], embedding_sizes[:1], seeds[:1]
        overrides = {"training.steps_per_validation": 20, "training.max_validations": 2, **overrides}
    settings = [(size, seed) for size in embedding_sizes for seed in seeds]
    results = []
    for contestant in contestants:
        row = []
        for size, seed in settings:
            changes = {**CONTESTANTS[contestant], "model.embedding_size": size, "seed": seed, **overrides}
            folder = pathlib.Path(out).expanduser() / "runs" / f"{contestant}-{size}-{seed}"
            row.append(result_of(load_recipe(recipe, changes), folder))
            print(f"{contestant:24s} size {size:4d} seed {seed}: test MAP@R {row[-1].test['map_at_r']:.4f}", flush=True)
        results.append(row)
    scores = np.array([[result.test["map_at_r"] for result in row] for row in results])
    precisions = np.array([[result.test["precision_at_1"] for result in row] for row in results])
    ranks = ranks_of(scores)
    _report(Report(out), contestants, embedding_sizes, settings, scores, precisions, ranks)
    return ranks


def ranks_of(scores):
    """Rank the scores of each column, 1 for the largest. Equal scores share the mean of their ranks.

    Args:
        scores: float array `(contestants, settings)`.

    Returns:
        float array `(contestants, settings)`.

    Example:
        >>> ranks_of(np.array([[0.5], [0.9], [0.5]])).tolist()
        [[2.5], [1.0], [2.5]]
    """
    better = (scores[:, None] < scores[None, :]).sum(axis=1)
    equal = (scores[:, None] == scores[None, :]).sum(axis=1)
    return better + (equal + 1) / 2


def _report(report, contestants, embedding_sizes, settings, scores, precisions, ranks):
    order = np.argsort(ranks.mean(axis=1), kind="stable")
    report.table(
        "ranking",
        ["loss", "total rank", "mean rank", "deviation", *(f"MAP@R, size {size}" for size in embedding_sizes), "P@1"],
        [
            [
                contestants[index],
                f"{ranks[index].sum():g}",
                f"{ranks[index].mean():.2f}",
                f"{ranks[index].std():.2f}",
                *(_of_size(scores[index], settings, size) for size in embedding_sizes),
                f"{precisions[index].mean():.3f}",
            ]
            for index in order
        ],
        f"{len(settings)} settings (embedding size × seed), ranked by MAP@R on unseen classes.",
    )
    report.table(
        "scores",
        ["loss", *(f"size {size}, seed {seed}" for size, seed in settings)],
        [[contestants[index], *(f"{score:.4f}" for score in scores[index])] for index in order],
    )
    report.figure("ranking", plots.ranking(contestants, ranks))


def _of_size(scores, settings, size):
    return mean_and_deviation([score for score, (of, _) in zip(scores, settings) if of == size])


if __name__ == "__main__":
    command(tournament)
