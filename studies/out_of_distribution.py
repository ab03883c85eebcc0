"""Are classes disjoint balls, and is what lies outside of them unknown? What does the margin of a triplet loss change?

python -m studies.out_of_distribution --out DIR
"""

import hashlib
import json
import pathlib
from typing import NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from studies import plots as study_plots
from studies.report import Report, append_rows, command, mean_and_deviation, read_rows
from tfdml import data, layers, losses, metrics, plots
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError
from tfdml.gallery import FalseAcceptRate, Gallery

RESULTS = pathlib.Path(__file__).parent / "results" / "out_of_distribution.csv"
SIZE, DIM = 32, 64
MARGINS = (0.001, 0.05, 0.2, 0.5, 1.0, 1.5, 2.5)
METHODS = {
    "untrained": None,
    **{f"triplet {margin:g}": ("triplet_all", {"margin": margin}) for margin in MARGINS},
    "contrastive": ("contrastive", {}),
    "multi_similarity": ("multi_similarity", {}),
}
TASKS = ("glyphs", "emoji")
# The known classes are those of the training, or others whose references only the gallery has.
REGIMES = ("seen", "unseen")
UNKNOWN = ("near", "far")
# Half of them are trained, a quarter each is known to the gallery only, and near unknown.
CLASSES = 240
CLASSES_PER_BATCH, IMAGES_PER_CLASS = 16, 4
_TRIPLETS = 200_000
# The method whose scores are drawn, and with whose embeddings galleries are calibrated.
SHOWN = "triplet 0.2"
RATE, CALIBRATIONS, CALIBRATION_CLASSES = 0.05, 100, 100
_SCORES = {
    "prototype": "‖x − μ‖", "prototype_radius": "‖x − μ‖ − r", "neighbors": "nearest sample",
    "mahalanobis": "Mahalanobis",
}  # fmt: skip


class Images(NamedTuple):
    """Images of one set of classes.

    Attributes:
        images: float32 array `(n, 32, 32, 1)`.
        labels: int array `(n,)`.
        is_query: bool array `(n,)`. Every third image of a class; the others are its references.
    """

    images: np.ndarray
    labels: np.ndarray
    is_query: np.ndarray


class Task(NamedTuple):
    """Images of a task.

    Attributes:
        seen: `Images` of the classes of the training; their references are the training images.
        unseen: `Images` of other classes of the same dataset.
        near: float32 array. Images of further classes of the same dataset.
        far: float32 array. Images of another dataset.
    """

    seen: Images
    unseen: Images
    near: np.ndarray
    far: np.ndarray


def out_of_distribution(
    out: str,
    tasks: list[str] = TASKS,
    data: Optional[str] = None,
    methods: list[str] = tuple(METHODS),
    steps: int = 400,
    seeds: list[int] = (0, 1, 2),
    results: Optional[str] = None,
    quick: bool = False,
):
    """Train small embedders with triplet losses of different margins, and detect unknown classes by their embeddings.

    The task "glyphs" has characters as known classes, other characters as near unknown classes and handwritten digits
    as far ones. The task "emoji" has emoji, other emoji and characters. All are gray, bright on black.

    Each finished run adds rows to the results file, from which tables and figures are made, and is not repeated. A
    stopped study resumes.

    Args:
        out: Folder for tables and figures.
        tasks: `glyphs` and `emoji`.
        data: Folder that `tfdml-prepare emoji` prepared. Without it "emoji" is not trained: its tables show the results
            that are there.
        methods: Names of `METHODS`.
        steps: Number of training steps.
        seeds: Seeds of the classes, the network and the batches; each method is trained once per seed.
        results: CSV file of the results; by default that of the repository.
        quick: Run two methods with one seed and few steps on the glyphs, with results in the folder.

    Returns:
        dict from (task, method, regime) to the rows of the seeds, dicts of numbers.
    """
    for kind, names, known in (("task", tasks, TASKS), ("method", methods, METHODS)):
        for name in names:
            if name not in known:
                raise InputError(str(unknown_name(kind, name, known)))
    out = pathlib.Path(out).expanduser()
    if quick:
        tasks, methods, seeds, steps = ("glyphs",), ("untrained", SHOWN), list(seeds)[:1], min(steps, 10)
    path = out / "results.csv" if quick and results is None else pathlib.Path(results or RESULTS).expanduser()
    found, examples, calibrations = {}, {}, []
    for task in tasks:
        for seed in seeds:
            images = shown = None
            for method in methods:
                key = run_key(task, method, seed, steps)
                rows = [row for row in typed_rows(path) if row["run"] == key]
                if not rows and (task != "emoji" or data is not None):
                    images = images or load_task(task, seed, data)
                    network = trained(method, images.seen, steps, seed)
                    rows = [
                        {"run": key, "task": task, "method": method, "seed": seed, "steps": steps, "regime": regime,
                         **evaluated(network, images, regime, margin_of(method), seed)}
                        for regime in REGIMES
                    ]  # fmt: skip
                    append_rows(path, rows[0], rows)
                    shown = network if method == SHOWN else shown
                for row in rows:
                    found.setdefault((task, method, row["regime"]), []).append(row)
                    print(
                        f"{task} {method:16s} seed {seed} {row['regime']:6s}: MAP@R {row['map_at_r']:.3f}, AUROC near "
                        f"{row['near_prototype_auroc']:.3f}, far {row['far_prototype_auroc']:.3f}, balls disjoint "
                        f"{row['disjoint_pairs']:.3f}",
                        flush=True,
                    )
            if SHOWN in methods:
                key = run_key(task, SHOWN, seed, steps)
                of_run = path.with_name(f"{path.stem}_calibration.csv")
                rows = [row for row in typed_rows(of_run) if row["run"] == key]
                if not rows and (task != "emoji" or data is not None):
                    images = images or load_task(task, seed, data)
                    shown = shown or trained(SHOWN, images.seen, steps, seed)
                    rows = [{"run": key, "task": task, "seed": seed, **coverage(shown, images.seen, task, data, seed)}]
                    append_rows(of_run, rows[0], rows)
                    if seed == seeds[0]:
                        examples[task] = scores_of(shown, images, "unseen")
                calibrations += rows
    _report(Report(out), found, examples, calibrations)
    return found


def margin_of(method):
    """Return the margin of a triplet loss; 0 for other methods.

    Example:
        >>> margin_of("triplet 0.2"), margin_of("contrastive")
        (0.2, 0.0)
    """
    return METHODS[method][1].get("margin", 0.0) if METHODS[method] else 0.0


def run_key(task, method, seed, steps):
    """Return the name of a run: a hash of what defines it."""
    definition = [task, METHODS[method], seed, steps, SIZE, DIM, CLASSES, CLASSES_PER_BATCH, IMAGES_PER_CLASS]
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:12]


def load_task(task, seed, path):
    """Load the images of a task. The seed draws the classes.

    Args:
        task: "glyphs" or "emoji".
        seed: int.
        path: Folder of the emoji.

    Returns:
        `Task`.
    """
    known = known_images(task, path)
    far = resized(np.asarray(data.load("digits").images, np.float32) / 255) if task == "glyphs" else glyphs()[0]
    classes = np.random.default_rng(seed).permutation(np.unique(known[1]))[:CLASSES]
    seen, unseen, near = np.split(classes, [len(classes) // 2, 3 * len(classes) // 4])
    return Task(
        *(_divided(*(each[np.isin(known[1], part)] for each in known)) for part in (seen, unseen)),
        known[0][np.isin(known[1], near)],
        far,
    )


def known_images(task, path):
    """Load the dataset of the known classes of a task: images and labels."""
    return glyphs() if task == "glyphs" else emoji(path)


def glyphs():
    """Load characters without digits, which are the unknown classes, and their labels."""
    characters = data.load("glyphs", size=SIZE)
    kept = ~np.isin(characters.labels, [characters.class_names.index(digit) for digit in "0123456789"])
    return np.asarray(characters.images)[kept].astype(np.float32) / 255, np.asarray(characters.labels)[kept]


def _divided(images, labels):
    order = np.argsort(labels, kind="stable")
    images, labels = images[order], labels[order]
    places = np.arange(len(labels)) - np.searchsorted(labels, labels)
    return Images(images, labels, places % 3 == 2)


def resized(images):
    """Resize images `(n, h, w, 1)` to the size of the study."""
    return np.clip(tf.image.resize(images, (SIZE, SIZE), antialias=True).numpy(), 0, 1)


def emoji(path):
    """Load emoji as gray images, bright on black, and their labels."""
    labeled = data.load("emoji", path=path)
    preprocessing = data.Preprocessing((SIZE, SIZE), 1)
    batches = data.evaluation_batches(labeled, 256, preprocessing)
    images = np.concatenate([batch[0].numpy() for batch in batches])
    return 1 - images, np.asarray(labeled.labels)


def network_of(seed):
    """Build a small network to the unit sphere."""
    keras.utils.set_random_seed(seed)
    parts = [keras.Input((SIZE, SIZE, 1))]
    for filters in (24, 48, 96):
        parts += [
            keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*parts, keras.layers.Flatten(), keras.layers.Dense(DIM), layers.L2Normalization()])


def trained(method, seen, steps, seed):
    """Train the network of a seed on the references of the seen classes."""
    network = network_of(seed)
    if METHODS[method] is None:
        return network
    name, options = METHODS[method]
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=losses.get(name, **options))
    batches = _batches(seen.images[~seen.is_query], seen.labels[~seen.is_query], seed)
    network.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return network


def _batches(images, labels, seed):
    """Endless batches of a number of classes with the same number of images each."""
    generator = np.random.default_rng(seed)
    members = [rows for rows in (np.flatnonzero(labels == label) for label in np.unique(labels)) if len(rows) > 1]
    while True:
        classes = generator.choice(len(members), CLASSES_PER_BATCH, replace=False)
        sizes = [min(IMAGES_PER_CLASS, len(members[number])) for number in classes]
        rows = np.concatenate(
            [generator.choice(members[number], size, replace=False) for number, size in zip(classes, sizes)]
        )
        yield images[rows], labels[rows].astype(np.int64)


def evaluated(network, task, regime, margin, seed):
    """Measure the geometry of the known classes, and how well unknown ones are detected.

    Args:
        network: Embedder.
        task: `Task`.
        regime: "seen" or "unseen": which classes are known.
        margin: float. Margin of the triplets that are counted.
        seed: int.

    Returns:
        dict of floats.
    """
    known = getattr(task, regime)
    embeddings = embedded(network, known.images)
    references, labels = embeddings[~known.is_query], known.labels[~known.is_query]
    queries = embeddings[known.is_query]
    unknown = {name: embedded(network, getattr(task, name)) for name in UNKNOWN}
    result = {"map_at_r": metrics.retrieval_metrics(embeddings, known.labels)["map_at_r"]}
    pairs = metrics.verification_metrics(embeddings, known.labels, max_pairs=2**17, false_accept_rates=(0.01,))
    result |= {name: pairs[name] for name in ("roc_auc", "tar_at_far_0.01", "opis")}
    result |= separation(embeddings, known.labels, margin, seed)
    # Of the seen classes, the references are the training images.
    of_references = separation(references, labels, margin, seed)
    result |= {f"reference_{name}": of_references[name] for name in ("gap", "violating", "triplet_loss")}
    result |= balls(references, labels, queries, known.labels[known.is_query], unknown)
    for name, others in unknown.items():
        found = metrics.out_of_distribution_metrics(references, labels, queries, others)
        result |= {f"{name}_{key}": value for key, value in found.items() if "aupr" not in key}
        result |= {f"{name}_{key}": value for key, value in _validated(references, labels, queries, others).items()}
    return {key: round(float(value), 5) for key, value in result.items()}


def embedded(network, images):
    """Embed images as float32 `(n, 64)`."""
    return network.predict(images, batch_size=512, verbose=0)


def separation(embeddings, labels, margin, seed):
    """Mean distances within and between classes, their extremes, and the share of triplets that violate the margin."""
    distances, same = metrics.pair_distances(embeddings, labels, max_pairs=2**17)
    largest, smallest = metrics.distance_range(embeddings, labels)
    generator = np.random.default_rng(seed)
    anchors, positives, negatives = generator.integers(0, len(labels), (3, 20 * _TRIPLETS))
    valid = (labels[anchors] == labels[positives]) & (anchors != positives) & (labels[anchors] != labels[negatives])
    anchors, positives, negatives = (rows[valid][:_TRIPLETS] for rows in (anchors, positives, negatives))
    near, far = (np.linalg.norm(embeddings[anchors] - embeddings[rows], axis=1) for rows in (positives, negatives))
    return {
        "d_intra": distances[same].mean(),
        "d_inter": distances[~same].mean(),
        "gap": distances[~same].mean() - distances[same].mean(),
        "d_max": largest,
        "d_min": smallest,
        "violating": np.mean(near - far + margin > 0),
        "triplet_loss": np.maximum(near - far + margin, 0).mean(),
    }


def balls(references, labels, queries, query_labels, unknown):
    """Check the claim that classes are disjoint balls, with known queries inside and unknown ones outside.

    Args:
        references, labels: Embeddings that determine the means and radii, and their classes.
        queries, query_labels: Other embeddings of these classes.
        unknown: dict from names to embeddings of unknown classes.

    Returns:
        dict of shares: pairs of classes whose balls are disjoint (also of balls around the nearer half of each class),
        classes whose ball meets no other, queries inside the ball of their class, unknown queries outside of all balls,
        and those of them that are nevertheless not farther from a mean than the largest radius; and of radii.
    """
    score = metrics.PrototypeScore(references, labels, subtract_radius=True)
    nearest = metrics.PrototypeScore(references, labels)
    between = np.linalg.norm(score.prototypes[:, None] - score.prototypes, axis=2)
    disjoint = between > score.radii[:, None] + score.radii
    others = ~np.eye(len(disjoint), dtype=bool)
    numbers = np.searchsorted(score.classes, labels)
    to_means = np.linalg.norm(references - score.prototypes[numbers], axis=1)
    halves = np.array([np.median(to_means[numbers == number]) for number in range(len(score.classes))])
    own = np.searchsorted(score.classes, query_labels)
    to_own = np.linalg.norm(queries - score.prototypes[own], axis=1)
    return {
        "disjoint_pairs": disjoint[others].mean(),
        "disjoint_halves": (between > halves[:, None] + halves)[others].mean(),
        "disjoint_classes": (disjoint | ~others).all(axis=1).mean(),
        "inside_own": np.mean(to_own <= score.radii[own]),
        "radius_mean": score.radii.mean(),
        "radius_max": score.radii.max(),
        **{f"{name}_outside": np.mean(score(each) > 0) for name, each in unknown.items()},
        **{
            f"{name}_outside_yet_near": np.mean((score(each) > 0) & (nearest(each) <= score.radii.max()))
            for name, each in unknown.items()
        },
    }


def _validated(references, labels, queries, others):
    """Shares accepted by a threshold that was chosen on every second query."""
    score = metrics.PrototypeScore(references, labels)
    of_known, of_unknown = score(queries), score(others)
    threshold = metrics.validation_threshold(of_known[::2], of_unknown[::2])
    return {
        "validated_known_accepted": np.mean(of_known[1::2] <= threshold),
        "validated_unknown_accepted": np.mean(of_unknown[1::2] <= threshold),
    }


def scores_of(network, task, regime):
    """Return dict from score to (scores, is known) of near and of far unknown queries together with known ones."""
    known = getattr(task, regime)
    embeddings = embedded(network, known.images)
    score = metrics.PrototypeScore(embeddings[~known.is_query], known.labels[~known.is_query])
    of_known = score(embeddings[known.is_query])
    curves = {}
    for name in UNKNOWN:
        of_unknown = score(embedded(network, getattr(task, name)))
        both = np.concatenate([of_known, of_unknown])
        curves[name] = both, np.arange(len(both)) < len(of_known)
    return {"curves": curves, "threshold": score.threshold()}


def coverage(network, seen, task, path, seed):
    """Calibrate a gallery on many draws of validation classes: how often does the interval contain the true rate?

    The gallery has 100 classes. The true rate is that of all queries of the classes that are neither trained nor in the
    gallery; each draw calibrates on 100 of these.

    Args:
        network: Embedder.
        seen: `Images` of the classes of its training.
        task, path: As for `load_task`.
        seed: int.

    Returns:
        dict of numbers: the mean true rate, the share of the intervals that contain it, and their mean bounds; also for
        intervals that count each query as independent.
    """
    images, labels = known_images(task, path)
    unseen = ~np.isin(labels, seen.labels)
    vectors, labels = embedded(network, images[unseen]), labels[unseen]
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(labels))
    in_gallery = np.isin(labels, classes[:CALIBRATION_CLASSES])
    gallery = Gallery()
    gallery.add(vectors[in_gallery], labels=labels[in_gallery])
    vectors, labels = vectors[~in_gallery], labels[~in_gallery]
    scores = gallery.classify(vectors, threshold=np.inf).scores
    outcomes = []
    for _ in range(CALIBRATIONS):
        drawn = np.isin(labels, generator.choice(np.unique(labels), CALIBRATION_CLASSES, replace=False))
        found = gallery.calibrate(vectors[drawn], labels[drawn], FalseAcceptRate(RATE))
        true = np.mean(scores <= found.threshold)
        low, high = found.false_accept_interval
        naive = stats.binomtest(np.count_nonzero(scores[drawn] <= found.threshold), np.count_nonzero(drawn))
        naive = naive.proportion_ci(0.95, "exact")
        covered = low <= true <= high, naive.low <= true <= naive.high
        outcomes.append([true, covered[0], low, high, covered[1], found.effective_queries])
    names = ("true_rate", "covered", "low", "high", "covered_naively", "effective_queries")
    means = {name: round(float(value), 5) for name, value in zip(names, np.mean(outcomes, axis=0))}
    queries = round(len(labels) / len(np.unique(labels)) * CALIBRATION_CLASSES)
    return {"classes": len(np.unique(labels)), "queries": queries, **means}


def typed_rows(path):
    """Read a results file: a list of dicts, empty if there is none."""
    return [{key: _typed(key, value) for key, value in row.items()} for row in read_rows(path)]


def _typed(column, text):
    if column in ("run", "task", "method", "regime"):
        return text
    return int(text) if column in ("seed", "steps", "classes", "queries") else float(text)


def _cells(rows, *columns, digits=3):
    return [mean_and_deviation([row[column] for row in rows], digits, ddof=1) for column in columns]


def _report(report, found, examples, calibrations):
    if calibrations:
        report.table(
            "calibration",
            ["task", "seed", "unseen classes", "queries of a draw", "worth independent ones", "true rate",
             "intervals that contain it", "mean interval", "intervals of independent queries that contain it"],
            [
                [row["task"], row["seed"], row["classes"], row["queries"], f"{row['effective_queries']:.0f}",
                 f"{row['true_rate']:.3f}", f"{row['covered']:.2f}", f"{row['low']:.3f}–{row['high']:.3f}",
                 f"{row['covered_naively']:.2f}"]
                for row in calibrations
            ],
            f"Galleries of {CALIBRATION_CLASSES} classes calibrated for a false-accept rate of {RATE:g} on "
            f"{CALIBRATIONS} draws of {CALIBRATION_CLASSES} classes. Keras {keras.__version__}.",
        )  # fmt: skip
    for task in dict.fromkeys(task for task, _, _ in found):
        of_task = {(method, regime): rows for (name, method, regime), rows in found.items() if name == task}
        _tables(report, task, of_task)
        _margin_figure(report, task, of_task)
        if task in examples:
            curves, threshold = examples[task]["curves"], examples[task]["threshold"]
            report.figure(f"roc-{task}", plots.roc_curve({f"{name} unknown": each for name, each in curves.items()}))
            for name, (scores, known) in curves.items():
                figure = plots.distance_histogram(
                    scores, known, threshold=threshold, names=("known", f"{name} unknown"),
                    x_label="distance to the nearest class mean",
                )  # fmt: skip
                report.figure(f"distances-{task}-{name}", figure)


def _tables(report, task, found):
    pair = ("known", "unknown")
    note = f"Task {task}; mean ± standard deviation over the seeds. Keras {keras.__version__}."
    columns = [
        "map_at_r", "gap", "d_intra", "d_inter", "violating", "disjoint_pairs", "disjoint_halves", "disjoint_classes",
        "inside_own", "near_outside", "far_outside",
    ]  # fmt: skip
    report.table(
        f"geometry-{task}",
        ["method", "known classes", "MAP@R", "D_inter − D_intra", "D_intra", "D_inter", "violating triplets",
         "disjoint pairs of balls", "of balls of the nearer half", "disjoint classes", "inside own ball",
         "near outside", "far outside"],
        [
            [method, regime, *_cells(rows, *columns)] for (method, regime), rows in found.items()
        ],
        note,
    )  # fmt: skip
    report.table(
        f"detection-{task}",
        ["method", "known classes", "unknown", *(f"AUROC, {name}" for name in _SCORES.values()),
         "FPR at 95 % TPR", "τ of radii: known / unknown accepted", "τ of validation: known / unknown accepted"],
        [
            [
                method,
                regime,
                kind,
                *_cells(rows, *(f"{kind}_{score}_auroc" for score in _SCORES), f"{kind}_prototype_fpr_at_95_tpr"),
                *(
                    " / ".join(_cells(rows, *(f"{kind}_{threshold}_{each}_accepted" for each in pair), digits=2))
                    for threshold in ("prototype", "validated")
                ),
            ]
            for (method, regime), rows in found.items()
            for kind in UNKNOWN
        ],
        note,
    )  # fmt: skip


def _margin_figure(report, task, found):
    margins = [margin for margin in MARGINS if (f"triplet {margin:g}", "seen") in found]
    if len(margins) < 2:
        return

    def series(column):
        lines, bands = {}, {}
        for regime in REGIMES:
            values = np.array([[row[column] for row in found[f"triplet {margin:g}", regime]] for margin in margins])
            name = f"{regime} classes"
            lines[name] = (margins, values.mean(axis=1))
            bands[name] = (values.min(axis=1), values.max(axis=1))
        return lines, bands

    panels = []
    for column, label in (
        ("gap", "D_inter − D_intra"), ("violating", "violating triplets"), ("map_at_r", "MAP@R"),
        ("near_prototype_auroc", "AUROC, near"),
    ):  # fmt: skip
        lines, bands = series(column)
        levels = {"untrained": np.mean([row[column] for row in found["untrained", "unseen"]])}
        panels.append(
            study_plots.LinePanel(label, lines, bands, levels if ("untrained", "unseen") in found else None)
            if column != "gap"
            else study_plots.LinePanel(label, {**lines, "the margin": (margins, margins)}, bands)
        )
    report.figure(f"margins-{task}", study_plots.line_panels(panels, "margin"))


if __name__ == "__main__":
    command(out_of_distribution)
