"""Do the proxies of a class stay apart? A two-dimensional embedding of digits over several proxy problems.

python -m studies.ccp_geometry --out DIR
"""

from typing import Literal, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.report import Report, command, mean_and_deviation
from tfdml import callbacks, data, layers, metrics, models
from tfdml._utils.naming import unknown_name
from tfdml.experiments import InputError
from tfdml.plots import style

METHODS = {
    "fixed": "one problem",
    "ccp": "CCP, proxies",
    "samples": "CCP, samples in place of proxies",
}
SAMPLES_PER_CLASS = 4
_BATCHES_TO_SETTLE = 30
_MOST_PANELS = 6


class Problem(NamedTuple):
    """Result of a proxy problem at its best weights by MAP@R on the validation images.

    Attributes:
        record: dict. Its entry in `AlternatingProjections.projections`.
        points: float array `(n, 2)`. Embeddings of the test images.
        proxies: float array `(classes, k, 2)`. The converged proxies, or the embeddings of the samples in their place.
        next_proxies: float array `(classes, k, 2)`. The first proxies of the next problem.
        map_at_r, precision_at_1: float. Metrics on the test images.
        covering_radius: float. Radius that covers the test images with the converged proxies, mean over the classes.
        interclass_distance: float. Mean l2 distance between test images of different classes: the scale of the plane.
    """

    record: dict
    points: np.ndarray
    proxies: np.ndarray
    next_proxies: np.ndarray
    map_at_r: float
    precision_at_1: float
    covering_radius: float
    interclass_distance: float


class _Setting(NamedTuple):
    side: int
    steps: int
    steps_per_validation: int
    per_class: int
    pool_size: int
    patience: int
    projection_weight: float
    learning_rate: float
    warmup_steps: int


class _Images(NamedTuple):
    train: data.LabeledImages
    validation: data.LabeledImages
    test: data.LabeledImages


def ccp_geometry(
    out: str,
    dataset: Literal["mnist", "fashion_mnist"] = "mnist",
    path: Optional[str] = None,
    methods: list[str] = tuple(METHODS),
    side: int = 20,
    steps: int = 900,
    steps_per_validation: int = 25,
    validation_per_class: int = 50,
    per_class: int = 4,
    pool_size: int = 16,
    patience: int = 3,
    projection_weight: float = 2e-4,
    learning_rate: float = 3e-3,
    warmup_steps: int = 100,
    seeds: list[int] = (0, 1, 2),
    quick: bool = False,
):
    """Train a two-dimensional ResNetV2-20 with proxies alone and draw samples and proxies after each problem.

    Embeddings are clipped to length 1, and the loss is C2. Three methods start from the same weights and proxies and
    use the same batches: one problem that never ends, alternating problems (CCP), and alternating problems whose
    references are the images chosen as proxies, embedded again at each step. All classes are seen in training, but the
    images that are drawn and evaluated are not.

    Args:
        out: Folder for tables and figures.
        dataset: Dataset with ten classes of small images.
        path: Folder of its files.
        methods: Names of `METHODS`.
        side: Side of the embedded images in pixels.
        steps: Training steps of each method.
        steps_per_validation: Steps between two validations.
        validation_per_class: Images per class that are taken from the training part to validate.
        per_class: Proxies per class.
        pool_size: Images per class that the next proxies are chosen from.
        patience: Number of validations in a row without a better MAP@R that end a problem.
        projection_weight: λ.
        learning_rate: Learning rate of Adam, for the network and the proxies.
        warmup_steps: Steps over which the learning rate rises from 0. Validations during the warm-up do not end a
            problem.
        seeds: Seeds; each method trains one network per seed.
        quick: Run 80 steps and one seed.

    Returns:
        dict from the method to a list with the `Problem`s of each seed.

    Raises:
        InputError: If a method is unknown, or there are too few steps for one validation.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(str(unknown_name("method", method, METHODS)))
    if quick:
        steps, steps_per_validation, warmup_steps, patience, seeds = 80, 10, 20, 1, list(seeds)[:1]
    if not 1 <= steps_per_validation <= steps - warmup_steps:
        raise InputError(
            f"Received: steps={steps}, warmup_steps={warmup_steps}, steps_per_validation={steps_per_validation}. "
            "Expected: at least one validation after the warm-up."
        )
    setting = _Setting(
        side,
        steps,
        steps_per_validation,
        per_class,
        pool_size,
        patience,
        projection_weight,
        learning_rate,
        warmup_steps,
    )
    options = {} if path is None else {"path": path}
    train, test = (data.load(dataset, part=part, **options) for part in ("train", "test"))
    images = _Images(*split_samples(train, validation_per_class), test)
    results = {method: [] for method in methods}
    # Seeds in the outer loop, so that an unfinished study compares methods on the same seeds.
    for seed in seeds:
        for method in methods:
            problems = _train(method, images, setting, seed)
            results[method].append(problems)
            print(f"{method:8s} seed {seed}: MAP@R {best_of(problems).map_at_r:.4f}", flush=True)
    _report(Report(out), images.test, results, list(seeds))
    return results


class SampleReferences(layers.ClassProxies):
    """References that are images in place of proxies: each step embeds them again, with gradients.

    `proxies` are the embeddings of the images at the last call of `assign` or `embed`.

    Args:
        embedder: The trained model.
        pool: The `RememberedPool` that proxies are chosen from.
        num_classes: int. Number of classes.
        per_class: int. Number of images per class.
    """

    def __init__(self, embedder, pool, num_classes, per_class, **kwargs):
        super().__init__(num_classes, per_class, embedding_size=embedder.output_shape[-1], **kwargs)
        self.trainable = False
        self.pool = pool
        self.images = self.add_weight(
            name="images",
            shape=(num_classes * per_class, *embedder.input_shape[1:]),
            initializer="zeros",
            trainable=False,
        )
        # A function rather than the model, so that this layer does not track the weights of the embedder.
        self._embed_in_training = lambda images: embedder(images, training=True)
        self._embed = models.inference_function(embedder)

    def __call__(self):
        return super().__call__()._replace(embeddings=self._embed_in_training(tf.convert_to_tensor(self.images)))

    def assign(self, proxies):
        """Select the images of the pool with these embeddings.

        Args:
            proxies: float array `(num_classes, per_class, dim)`.
        """
        images, labels = self.pool.images, self.pool.labels
        embeddings = np.asarray(self._embed(images))
        chosen = []
        for label, wanted in enumerate(np.asarray(proxies)):
            members = np.flatnonzero(labels == label)
            distances = np.linalg.norm(wanted[:, None] - embeddings[members], axis=-1)
            chosen.append(members[distances.argmin(axis=1)])
        self.images.assign(images[np.concatenate(chosen)])
        super().assign(proxies)

    def embed(self):
        """Update `proxies` with the current weights of the embedder."""
        super().assign(tf.reshape(self._embed(tf.convert_to_tensor(self.images)), self.proxies.shape))


class RememberedPool:
    """Pool of samples of each class that keeps the last draw.

    Args:
        draw: Result of `data.class_pool`.

    Attributes:
        images: float array `(n, h, w, c)`. Images of the last draw.
        labels: int array `(n,)`. Their classes.
    """

    def __init__(self, draw):
        self._draw = draw

    def __call__(self, number):
        batches = list(self._draw(number).as_numpy_iterator())
        self.images, self.labels = (np.concatenate(parts) for parts in zip(*batches))
        return tf.data.Dataset.from_tensors((self.images, self.labels))


def split_samples(images, per_class):
    """Split off the last images of each class.

    Args:
        images: A `LabeledImages`.
        per_class: int. Number of images per class in the second part.

    Returns:
        Two `LabeledImages`.

    Raises:
        InputError: If a class would lose all its images, or the second part would be empty.
    """
    if not 1 <= per_class < images.class_counts.min():
        raise InputError(
            f"Received: {per_class} images per class to validate. Expected: 1 to {images.class_counts.min() - 1}."
        )
    last = np.concatenate([np.flatnonzero(images.labels == c)[-per_class:] for c in range(images.num_classes)])
    is_last = np.isin(np.arange(len(images)), last)
    return [
        data.LabeledImages(images.images[part], images.labels[part], images.class_names, name=images.name)
        for part in (~is_last, is_last)
    ]


def best_of(problems):
    """Best problem of a training run, by MAP@R on the validation images."""
    return max(problems, key=lambda problem: problem.record["best"])


class _WatchedModel(models.CCPModel):
    """Calls `watch(next proxies)` when a problem is solved, while the model has its best weights and proxies."""

    def begin_projection(self, proxies, anchor=True):
        self.watch(np.asarray(proxies))
        super().begin_projection(proxies, anchor)


def _train(method, images, setting, seed):
    """Train with a method; returns its `Problem`s."""
    keras.utils.set_random_seed(seed)
    preprocessing = data.Preprocessing((setting.side, setting.side), images.train.image_shape[2])
    num_classes = images.train.num_classes
    embedder = models.build_embedder(
        "resnet20v2", "gap", embedding_size=2, normalization="clip", input_shape=preprocessing.image_shape
    )
    batches = data.balanced_batches(images.train, num_classes, SAMPLES_PER_CLASS, seed, preprocessing)
    # The first proxies are embedded in inference mode.
    models.calibrate_batch_norm(embedder, batches.take(_BATCHES_TO_SETTLE))
    pool = RememberedPool(data.class_pool(images.train, setting.pool_size, seed, preprocessing))
    if method == "samples":
        references = SampleReferences(embedder, pool, num_classes, setting.per_class)
    else:
        references = layers.ClassProxies(num_classes, setting.per_class, embedding_size=2)
    model = _WatchedModel(embedder, references, projection_weight=setting.projection_weight)
    learning_rate = setting.learning_rate
    if setting.warmup_steps:
        # Without it some networks move all images out of the unit ball, where clipping lets no gradient lead back.
        learning_rate = keras.optimizers.schedules.PolynomialDecay(0.0, setting.warmup_steps, learning_rate)
    model.compile(keras.optimizers.Adam(learning_rate), "c2", jit_compile=False)

    validation, test = (
        data.evaluation_batches(of, 256, preprocessing) for of in (images.validation, images.test)
    )  # fmt: skip
    validations = setting.steps // setting.steps_per_validation
    projections = callbacks.AlternatingProjections(
        pool,
        setting.pool_size,
        patience=validations + 1 if method == "fixed" else setting.patience,
        start_from_epoch=setting.warmup_steps // setting.steps_per_validation,
        max_steps=None,
    )
    seen = []
    forward = models.inference_function(embedder)
    model.watch = lambda next_proxies: seen.append(_look(model.proxies, forward, test, next_proxies))
    before = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: references.embed())]
    model.fit(
        batches,
        steps_per_epoch=setting.steps_per_validation,
        epochs=validations,
        validation_data=validation,
        callbacks=[*(before if method == "samples" else []), projections],
        verbose=0,
    )
    # A validation worse than all others, without patience, ends the last problem together with the training.
    projections.patience = 1
    projections.on_epoch_end(validations, {projections.monitor: -1.0})
    return [Problem(record, **view) for record, view in zip(projections.projections, seen)]


def _look(references, forward, test, next_proxies):
    """Fields of a `Problem` for the current weights."""
    points, labels = models.embed(forward, test)
    proxies = np.array(references.proxies)
    retrieval = metrics.retrieval_metrics(points, labels)
    return {
        "points": points,
        "proxies": proxies,
        "next_proxies": next_proxies,
        "map_at_r": retrieval["map_at_r"],
        "precision_at_1": retrieval["precision_at_1"],
        "covering_radius": metrics.covering_radius(
            points, proxies.reshape(-1, 2), labels, np.repeat(np.arange(len(proxies)), proxies.shape[1]), "mean"
        ),
        "interclass_distance": metrics.interclass_distance(points, labels),
    }


def _report(report, test, results, seeds):
    rows = []
    for method, of_seeds in results.items():
        best = [best_of(problems) for problems in of_seeds]
        rows.append(
            [
                METHODS[method],
                *(
                    mean_and_deviation(values, ddof=1)
                    for values in (
                        [problem.map_at_r for problem in best],
                        [problem.precision_at_1 for problem in best],
                        [problem.record["converged_covering_radius"] for problem in best],
                        [problem.covering_radius for problem in best],
                        [problem.interclass_distance for problem in best],
                        [problem.record["converged_proxy_diversity"] for problem in best],
                    )
                ),
                f"{np.mean([len(problems) for problems in of_seeds]):.1f}",
                *(f"{problem.map_at_r:.4f}" for problem in best),
            ]
        )
    report.table(
        "ccp_geometry",
        [
            "",
            "MAP@R",
            "P@1",
            "covering radius, pool",
            "covering radius, test images",
            "inter-class distance",
            "proxy diversity",
            "problems",
            *(f"MAP@R, seed {seed}" for seed in seeds),
        ],
        rows,
        f"{test.name}: {len(test)} test images, after the best of all problems by MAP@R on the validation images; "
        f"mean ± standard deviation of {len(seeds)} seed(s). Converged proxies. Keras {keras.__version__}.",
    )
    report.table(
        "problems",
        [
            "",
            "seed",
            "problem",
            "steps",
            "MAP@R",
            "P@1",
            "covering radius, pool: as chosen",
            "converged",
            "test images",
            "inter-class distance",
            "proxy diversity: as chosen",
            "converged",
        ],
        [
            [
                METHODS[method],
                seed,
                problem.record["projection"] + 1,
                problem.record["steps"],
                f"{problem.map_at_r:.4f}",
                f"{problem.precision_at_1:.4f}",
                f"{problem.record['covering_radius']:.3f}",
                f"{problem.record['converged_covering_radius']:.3f}",
                f"{problem.covering_radius:.3f}",
                f"{problem.interclass_distance:.3f}",
                f"{problem.record['proxy_diversity']:.3f}",
                f"{problem.record['converged_proxy_diversity']:.3f}",
            ]
            for method, of_seeds in results.items()
            for seed, problems in zip(seeds, of_seeds)
            for problem in problems
        ],
        "Each problem at its best validation. The last problem of a run ends with the training.",
    )
    for name, methods, names in (
        ("proxies", ("fixed", "ccp"), ("converged proxies", "next proxies")),
        ("samples", ("samples",), ("images in place of proxies", "next images")),
    ):
        panels = {}
        for method in methods:
            for problem in results.get(method, [[]])[0]:
                panels[_heading(method, problem)] = plots.ProxyPanel(
                    problem.points, test.labels, problem.proxies, problem.next_proxies
                )
        if panels:
            panels = dict(list(panels.items())[:_MOST_PANELS])
            columns = 2 if len(panels) == 4 else 3
            figure = plots.proxy_plane(
                panels,
                test.class_names,
                columns=columns,
                proxies_name=names[0],
                next_name=names[1],
                width=style.TEXT_WIDTH * columns / 3,
            )
            report.figure(name, figure)


def _heading(method, problem):
    number = f", problem {problem.record['projection'] + 1}" if method != "fixed" else ""
    name = "one problem" if method == "fixed" else "CCP"
    return (
        f"{name}{number} ({problem.record['steps']} steps)\n"
        f"MAP@R {problem.map_at_r:.3f}, radius {problem.covering_radius:.3f}"
    )


if __name__ == "__main__":
    command(ccp_geometry)
