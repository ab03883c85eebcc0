"""What is pooled when three quarters of an image carry no information? Pooling methods on 2×2 collages.

python -m studies.collage --out DIR
"""

import pathlib
from typing import Optional

import keras
import numpy as np

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml import models
from tfdml._utils.naming import unknown_name
from tfdml._utils.plain_files import read_csv
from tfdml.experiments import InputError, load_recipe
from tfdml.experiments.builders import load_data, restore_embedder
from tfdml.experiments.run_folder import RunFolder
from tfdml.experiments.runner import result_of
from tfdml.layers import pooling as poolings
from tfdml.plots import pooling_maps

# Everything else is the same for all. Distilled images are the targets alone, in the size of a tile.
METHODS = {
    "distilled": {
        "model.pooling": "gap",
        "zero_shot.enabled": False,
        "data.options.distilled": True,
    },
    "gap": {"model.pooling": "gap", "zero_shot.enabled": False},
    "gap_zero_shot": {"model.pooling": "gap", "zero_shot.enabled": True},
    "gsp": {"model.pooling": "gsp", "zero_shot.enabled": False},
    "gsp_zero_shot": {"model.pooling": "gsp", "zero_shot.enabled": True},
}
TITLES = {
    "distilled": "targets alone",
    "gap": "GAP",
    "gap_zero_shot": "GAP + zero-shot",
    "gsp": "GSP",
    "gsp_zero_shot": "GSP + zero-shot",
}
_DRAWN, _MEASURED = 6, 512
# Enough classes to split, and few enough to render in seconds.
_QUICK_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghmnqrt"


def collage(
    out: str,
    methods: list[str] = ("distilled", "gap", "gsp", "gsp_zero_shot"),
    seeds: list[int] = (0, 1, 2),
    recipe: str = "collage",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train each method on the same collages and batches, and evaluate MAP@R on unseen classes.

    An image has four tiles: one target, which determines the class, and three backgrounds. Training, validation and
    test have different classes of targets and of backgrounds. For methods with pooling weights, the share of the weight
    on the target is measured on test images; for average pooling it is a quarter.

    The runs are kept in the folder. A stopped study resumes, and another call with more methods or seeds trains only
    the new runs. For Cifar Collage: --overrides.data.name cifar_collage --overrides.data.options.path CIFAR-100.

    Args:
        out: Folder for the tables, the figures and the runs.
        methods: Names of `METHODS`, or of poolings, `tfdml.layers.pooling.names()`.
        seeds: Seeds of the runs: initial weights and batches.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.model.gsp.smoothing 5.
        quick: Run average pooling and GSP with the zero-shot loss, one seed, few small steps.

    Returns:
        float array `(methods, seeds)`, the test MAP@R.
    """
    for method in methods:
        if method not in METHODS and method not in poolings.names():
            raise InputError(str(unknown_name("method", method, [*METHODS, *poolings.names()])))
    overrides = dict(overrides or {})
    if quick:
        methods, seeds = ("gap", "gsp_zero_shot"), list(seeds)[:1]
        overrides = {
            "batches.classes": 8, "data.options.target_options": {"characters": _QUICK_CHARACTERS},
            "training.steps_per_validation": 15, "training.max_validations": 2, **overrides,
        }  # fmt: skip
    folders = {
        method: [pathlib.Path(out).expanduser() / "runs" / f"{method}-{seed}" for seed in seeds] for method in methods
    }
    results = {}
    # Seeds in the outer loop, so that an unfinished study compares methods on the same seeds.
    for index, seed in enumerate(seeds):
        for method in methods:
            changes = {**METHODS.get(method, {"model.pooling": method, "zero_shot.enabled": False}), **overrides}
            result = result_of(load_recipe(recipe, {**changes, "seed": seed}), folders[method][index])
            results.setdefault(method, []).append(result)
            print(f"{method:16s} seed {seed}: test MAP@R {result.test['map_at_r']:.4f}", flush=True)
    report = Report(out)
    of_collages = {method: folders[method] for method in methods if method != "distilled"}
    maps = {}
    if of_collages:
        images, places = _test_collages(next(iter(of_collages.values()))[0], _MEASURED)
        maps = {method: [_maps(folder, images) for folder in paths] for method, paths in of_collages.items()}
        maps = {method: of_seeds for method, of_seeds in maps.items() if of_seeds[0] is not None}
    # In a feature map with an odd side some places lie on two tiles.
    shares = {
        method: [weight_on_targets(of_seed, places).mean() for of_seed in of_seeds]
        for method, of_seeds in maps.items()
        if not any(side % 2 for side in of_seeds[0].shape[1:])
    }
    _tables(report, results, list(seeds), shares)
    curves = {TITLES.get(method, method): _curve(folders[method]) for method in methods}
    report.figure(
        "curves",
        plots.lines(
            {name: (steps, values.mean(axis=0)) for name, (steps, values) in curves.items()},
            "training step",
            "MAP@R, validation classes",
            spread={name: values.std(axis=0) for name, (_, values) in curves.items() if len(values) > 1},
        ),
    )
    if maps:
        drawn = np.linspace(0, len(images) - 1, _DRAWN).astype(int)
        rows = {TITLES.get(method, method): of_seeds[0][drawn] for method, of_seeds in maps.items()}
        report.figure("pooling_maps", pooling_maps(images[drawn], rows))
    return np.array([[result.test["map_at_r"] for result in results[method]] for method in methods])


def weight_on_targets(maps, places):
    """Compute the share of the pooling weights on the tile of the target.

    Args:
        maps: float array `(b, h, w)`. Pooling weights that sum to 1 over an image; h and w are even.
        places: int array `(b,)`. Tile of the target: 0 top left, 1 top right, 2 bottom left, 3 bottom right.

    Returns:
        float array `(b,)`.

    Raises:
        ValueError: If a side is odd, so that a place would lie on two tiles.

    Example:
        >>> weight_on_targets(np.array([[[0.7, 0.1], [0.1, 0.1]]]), np.array([0])).tolist()
        [0.7]
    """
    batch, height, width = maps.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"The feature map does not divide into four tiles. Received: {height}×{width} places. Expected: even sides."
        )
    tiles = maps.reshape(batch, 2, height // 2, 2, width // 2).sum(axis=(2, 4)).reshape(batch, 4)
    return tiles[np.arange(batch), places]


def _test_collages(folder, count):
    """Test images of a run, `count` of them spread over all classes, and the places of their targets."""
    datasets = load_data(RunFolder.open(folder).load_recipe())
    chosen = np.unique(np.linspace(0, len(datasets.test) - 1, count).astype(int))
    images = datasets.preprocessing(datasets.test.images[chosen])
    return np.asarray(images), datasets.test.places[chosen]


def _maps(folder, images):
    """Pooling maps of the best weights of a run, or None if the pooling has no weights."""
    run = RunFolder.open(folder)
    embedder = restore_embedder(run.load_recipe(), run.best_weights)
    has_weights = hasattr(embedder.get_layer("pooling"), "pooling_weights")
    return models.pooling_maps(embedder, images) if has_weights else None


def _curve(folders):
    """Steps and the MAP@R of each seed at these steps, up to the shortest run."""
    histories = [
        [(int(row["step"]), float(row["val_map_at_r"])) for row in read_csv(RunFolder.open(folder).history)]
        for folder in folders
    ]
    length = min(len(history) for history in histories)
    steps = [step for step, _ in histories[0][:length]]
    return steps, np.array([[value for _, value in history[:length]] for history in histories])


def _tables(report, results, seeds, shares):
    columns = ["map_at_r", "precision_at_1"]
    rows = []
    for method, of_seeds in results.items():
        scores = {column: np.array([result.test[column] for result in of_seeds]) for column in columns}
        share = shares.get(method)
        rows.append(
            [
                TITLES.get(method, method),
                *(mean_and_deviation(scores[column], ddof=1) for column in columns),
                "–" if share is None else mean_and_deviation(share, ddof=1),
                mean_and_deviation([result.training["steps"] for result in of_seeds], digits=0, ddof=1),
                *(f"{score:.4f}" for score in scores["map_at_r"]),
            ]
        )
    report.table(
        "collage",
        ["method", "MAP@R", "P@1", "weight on target", "steps", *(f"MAP@R, seed {seed}" for seed in seeds)],
        rows,
        f"Unseen classes; mean ± standard deviation of {len(seeds)} seed(s). Keras {keras.__version__}.",
    )


if __name__ == "__main__":
    command(collage)
