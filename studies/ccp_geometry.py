"""Do the proxies of a class stay apart? A two-dimensional embedding of digits, from one proxy problem to the next.

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
    "samples": "CCP, samples in the proxies' place",
}
SAMPLES_PER_CLASS = 4
_BATCHES_TO_SETTLE = 30
_MOST_PANELS = 6


class Problem(NamedTuple):
    """A proxy problem's best weights by MAP@R on the validation images.

    Attributes:
        record: What `AlternatingProjections.projections` tells of it.
        points: Embeddings of the test images, `(n, 2)`.
        proxies: The converged proxies, or the embeddings of the samples in their place, `(classes, k, 2)`.
        next_proxies: What the next problem begins with, `(classes, k, 2)`.
        map_at_r, precision_at_1: Of the test images.
        covering_radius: Of the test images by the converged proxies, averaged over the classes.
        interclass_distance: Mean l2 distance of test images of different classes: the scale of the plane.
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
    """Trains a ResNetV2-20 to a plane by proxies alone, and draws samples and proxies after each problem.

    The embeddings are no longer than 1, the loss is C2. Three methods begin with the same weights and proxies, and see
    the same batches: one problem that never ends, alternating problems (CCP), and alternating problems whose references
    are no proxies but the images that were chosen for them, embedded anew at each step. All classes are seen in
    training; the images that are drawn and judged are not.

    Args:
        out: Folder for tables and figures.
        dataset: Ten classes of small images.
        path: Where its files are.
        methods: Names of `METHODS`.
        side: Of the images, in pixels, as they are embedded.
        steps: Training steps of each method.
        steps_per_validation: Steps between two validations.
        validation_per_class: Images of each class that are taken from the training part to validate.
        per_class: Proxies of each class.
        pool_size: Images of each class that the next proxies are chosen from.
        patience: Validations in a row without a better MAP@R that end a problem.
        projection_weight: λ.
        learning_rate: Of Adam, for the network and the proxies.
        warmup_steps: For so many steps the learning rate rises from 0; the validations meanwhile end no problem.
        seeds: One network for each.
        quick: 80 steps, one seed.

    Returns:
        From the method to a list with the `Problem`s of each seed.

    Raises:
        InputError: If a method is unknown, or there are fewer steps than one validation takes.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(str(unknown_name("method", method, METHODS)))
    if quick:
        steps, steps_per_validation, warmup_steps, patience, seeds = 80, 10, 20, 1, list(seeds)[:1]
    if not 1 <= steps_per_validation <= steps - warmup_steps:
        raise InputError(
            f"Received: steps={steps}, warmup_steps={warmup_steps}, steps_per_validation={steps_per_validation}; "
            "expected one validation or more after the warm-up."
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
    # Seeds outside: a study that is looked at before its end compares methods on the same seeds.
    for seed in seeds:
        for method in methods:
            problems = _train(method, images, setting, seed)
            results[method].append(problems)
            print(f"{method:8s} seed {seed}: MAP@R {best_of(problems).map_at_r:.4f}", flush=True)
    _report(Report(out), images.test, results, list(seeds))
    return results


class SampleReferences(layers.ClassProxies):
    """Images in the proxies' place: each step embeds them with the batch's weights, and gradients go through them.

    Who asks for the proxies gets the images' embeddings as they were when `assign` or `embed` was last called.

    Args:
        embedder: The model that is trained.
        pool: The `RememberedPool` that proxies are chosen from.
        num_classes: How many classes there are.
        per_class: How many images stand for each class.
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
        # A function, not the model: the embedder's weights are not this layer's.
        self._embed_in_training = lambda images: embedder(images, training=True)
        self._embed = models.inference_function(embedder)

    def __call__(self):
        return super().__call__()._replace(embeddings=self._embed_in_training(tf.convert_to_tensor(self.images)))

    def assign(self, proxies):
        """Takes the images of the pool whose embeddings these are.

        Args:
            proxies: `(num_classes, per_class, dim)`.
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
        """Brings the proxies that others see to the present weights."""
        super().assign(tf.reshape(self._embed(tf.convert_to_tensor(self.images)), self.proxies.shape))


class RememberedPool:
    """A pool of samples of each class that remembers what was drawn last.

    Args:
        draw: What `data.class_pool` gives.

    Attributes:
        images: Of the last draw, `(n, h, w, c)`.
        labels: Their classes, `(n,)`.
    """

    def __init__(self, draw):
        self._draw = draw

    def __call__(self, number):
        batches = list(self._draw(number).as_numpy_iterator())
        self.images, self.labels = (np.concatenate(parts) for parts in zip(*batches))
        return tf.data.Dataset.from_tensors((self.images, self.labels))


def split_samples(images, per_class):
    """All but the last images of each class, and these.

    Args:
        images: A `LabeledImages`.
        per_class: How many images of each class the second part gets.

    Returns:
        Two `LabeledImages`.

    Raises:
        InputError: If a class would lose all its images or the second part get none.
    """
    if not 1 <= per_class < images.class_counts.min():
        raise InputError(
            f"Received: {per_class} images of each class to validate; expected 1 to {images.class_counts.min() - 1}."
        )
    last = np.concatenate([np.flatnonzero(images.labels == c)[-per_class:] for c in range(images.num_classes)])
    is_last = np.isin(np.arange(len(images)), last)
    return [
        data.LabeledImages(images.images[part], images.labels[part], images.class_names, name=images.name)
        for part in (~is_last, is_last)
    ]


def best_of(problems):
    """The best of a training's problems, by MAP@R on the validation images."""
    return max(problems, key=lambda problem: problem.record["best"])


class _WatchedModel(models.CCPModel):
    """Calls `watch(next proxies)` when a problem is solved, as long as the model has its best weights and proxies."""

    def begin_projection(self, proxies):
        self.watch(np.asarray(proxies))
        super().begin_projection(proxies)


def _train(method, images, setting, seed):
    """The `Problem`s of a training."""
    keras.utils.set_random_seed(seed)
    preprocessing = data.Preprocessing((setting.side, setting.side), images.train.image_shape[2])
    num_classes = images.train.num_classes
    embedder = models.build_embedder(
        "resnet20v2", "gap", embedding_size=2, normalization="clip", input_shape=preprocessing.image_shape
    )
    batches = data.balanced_batches(images.train, num_classes, SAMPLES_PER_CLASS, seed, preprocessing)
    # The first proxies are embedded as at inference.
    models.calibrate_batch_norm(embedder, batches.take(_BATCHES_TO_SETTLE))
    pool = RememberedPool(data.class_pool(images.train, setting.pool_size, seed, preprocessing))
    if method == "samples":
        references = SampleReferences(embedder, pool, num_classes, setting.per_class)
    else:
        references = layers.ClassProxies(num_classes, setting.per_class, embedding_size=2)
    model = _WatchedModel(embedder, references, projection_weight=setting.projection_weight)
    learning_rate = setting.learning_rate
    if setting.warmup_steps:
        # Without it some networks throw all images out of the unit ball, where clipping leaves no gradient back.
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
    # The last problem ends with the training: by a validation that is worse than all, and without patience.
    projections.patience = 1
    projections.on_epoch_end(validations, {projections.monitor: -1.0})
    return [Problem(record, **view) for record, view in zip(projections.projections, seen)]


def _look(references, forward, test, next_proxies):
    """What a `Problem` holds of the present weights."""
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
        "Each problem at its best validation; the last one of a training ends with it.",
    )
    for name, methods, names in (
        ("proxies", ("fixed", "ccp"), ("converged proxies", "next proxies")),
        ("samples", ("samples",), ("images in the proxies' place", "next images")),
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
