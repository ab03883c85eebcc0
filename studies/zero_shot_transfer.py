"""Do attributes generalize to other classes? Predict embeddings of classes with a map fitted on other classes.

python -m studies.zero_shot_transfer --out DIR
"""

import pathlib
from typing import Literal, NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.report import Report, command
from studies.tournament import CONTESTANTS
from tfdml import data, metrics, models, ops
from tfdml._utils.arguments import check_positive
from tfdml.experiments import RunFolder, builders, load_recipe
from tfdml.experiments.runner import result_of
from tfdml.layers.pooling import GeneralizedSumPooling

# A split has ten classes, like the dataset of the thesis: five to fit and five to predict.
CLASSES_OF_HALF = 5
IMAGES_PER_CLASS = 400
_PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
_LOSS = {"untrained": "untrained", "without": "without the loss", "with": "with the loss"}
_TASKS = {"seen": "seen classes", "unseen": "unseen classes"}
# One proxy per class with ten times the learning rate of the network, as in the tournament of losses.
_PNCA = CONTESTANTS["proxy_nca_plus_plus"]


class Transfer(NamedTuple):
    """Accuracies of predicted embeddings, float arrays `(splits,)`.

    Attributes:
        l2, cosine: Share of the predicted classes whose true mean embedding is the nearest of those of the predicted
            classes, by that distance.
        l2_of_all, cosine_of_all: The same with the mean embeddings of the fitted classes as further candidates.
    """

    l2: np.ndarray
    cosine: np.ndarray
    l2_of_all: np.ndarray
    cosine_of_all: np.ndarray


class Outcome(NamedTuple):
    """Result of a training run, evaluated on the images of its task.

    Attributes:
        transfer: `Transfer` over the splits.
        map_at_r: float. MAP@R on these images.
        between: float. Share of the variance of the attributes that lies between the classes, 0–1.
        in_use: float. Number of equally used prototypes with the entropy of the mean attributes, 1 to m.
        means, deviations: float arrays `(classes, m)`. Mean and deviation of the attributes of each class.
    """

    transfer: Transfer
    map_at_r: float
    between: float
    in_use: float
    means: np.ndarray
    deviations: np.ndarray


def zero_shot_transfer(
    out: str,
    tasks: list[Literal["seen", "unseen"]] = ("seen", "unseen"),
    seen_data: str = "mnist",
    prototypes: int = 8,
    ratio: float = 0.3,
    smoothing: float = 5.0,
    weight: float = 0.5,
    steps: int = 400,
    unseen_steps: int = 1000,
    splits: int = 1000,
    ridge: float = 0.05,
    seeds: list[int] = (0, 1, 2),
    recipe: str = "tournament",
    overrides: Optional[dict] = None,
    quick: bool = False,
):
    """Train ProxyNCA++ with generalized sum pooling of few prototypes, with and without the zero-shot loss.

    The task "seen" is that of the thesis: a network trained on ten classes is evaluated on other images of these. The
    task "unseen" evaluates a network trained on the data of the recipe on its unseen classes. The attributes of the
    evaluated images are shown as histograms per class. In random splits of ten classes into halves, a linear map from
    attributes to mean embeddings is fitted on one half and predicts the other (`attribute_transfer`).

    The runs are kept in the folder, and a stopped study resumes. The images of "seen" are written there, too, and the
    recipes refer to them, so resume with the same --out.

    Args:
        out: Folder for tables, figures and runs.
        tasks: Names of the tasks.
        seen_data: Registered dataset for "seen": its first ten classes, at most 400 images per class.
        prototypes: Number of prototypes, m.
        ratio: μ of generalized sum pooling.
        smoothing: ε of generalized sum pooling.
        weight: λ of the zero-shot loss.
        steps: Training steps of "seen"; the weights of the better of two validations are evaluated.
        unseen_steps: Training steps of "unseen", whose many classes occur less often.
        splits: Number of random splits.
        ridge: Regularization of the linear map.
        seeds: Seeds; each setting is trained once per seed.
        recipe: Recipe that all runs share.
        overrides: Changes of the recipe, as in --overrides.optimizer.learning_rate 1e-4.
        quick: Run the first task, "seen" on the small digits of scikit-learn, one seed, few steps.

    Returns:
        dict from (task, training), where training is "untrained", "without" or "with" the loss, to the `Outcome` of
        each seed.
    """
    overrides = dict(overrides or {})
    if quick:
        tasks, seen_data, seeds = list(tasks)[:1], "digits", list(seeds)[:1]
        steps, unseen_steps = min(steps, 40), min(unseen_steps, 40)
    out = pathlib.Path(out).expanduser()
    equal = {
        **_PNCA,
        "model.pooling": "gsp",
        "model.gsp.prototypes": prototypes,
        "model.gsp.ratio": ratio,
        "model.gsp.smoothing": smoothing,
        "training.max_validations": 2,
    }
    steps_of = {"seen": steps, "unseen": unseen_steps}
    report, results = Report(out), {}
    for task in tasks:
        of_task = _seen_changes(seen_data, out / "data" / seen_data) if task == "seen" else {}
        of_task["training.steps_per_validation"] = max(1, steps_of[task] // 2)
        datasets, examples, maps = None, None, {}
        for training in _LOSS:
            of_loss = {"zero_shot.enabled": True, "zero_shot.weight": weight} if training == "with" else {}
            for seed in seeds:
                changed = load_recipe(recipe, {**equal, **of_task, **of_loss, "seed": seed, **overrides})
                if datasets is None:
                    datasets = builders.load_data(changed)
                    examples = _examples(datasets)
                if training == "untrained":
                    embedder = _untrained(changed, datasets)
                else:
                    embedder = _trained(changed, out / "runs" / f"{task}-{training}-{seed}")
                forward = with_transport(embedder)
                outcome = _evaluate(forward, datasets, splits, ridge, changed.evaluation.batch_size)
                results.setdefault((task, training), []).append(outcome)
                if len(results[task, training]) == 1:
                    maps[training] = forward(examples)[2:]
                print(
                    f"{task}, {_LOSS[training]}, seed {seed}: l2 {outcome.transfer.l2.mean():.3f}, "
                    f"cosine {outcome.transfer.cosine.mean():.3f}",
                    flush=True,
                )
        _draw(report, task, {training: results[task, training][0] for training in _LOSS}, datasets, examples, maps)
    described_steps = ", ".join(f"{steps_of[task]} steps on {task} classes" for task in tasks)
    settings = f"μ = {ratio:g}, ε = {smoothing:g}, m = {prototypes}, λ = {weight:g}; {described_steps}"
    _report(report, results, list(seeds), splits, f"{settings}, {len(seeds)} seed(s). Keras {keras.__version__}.")
    return results


def random_splits(classes, count, per_half=CLASSES_OF_HALF, seed=0):
    """Draw random pairs of disjoint halves of classes, int array `(count, 2, per_half)`.

    Args:
        classes: int. Number of classes to draw from. If there are fewer than `2 * per_half`, each half has half of
            them.
        count: int. Number of splits.
        per_half: int. Classes per half.
        seed: int. Seed of the splits. Default: 0.

    Raises:
        ValueError: If a half would have fewer than two classes.
    """
    per_half = min(per_half, classes // 2)
    if per_half < 2:
        raise ValueError(f"Received: {classes} classes. Expected: at least 4, for two halves of two classes.")
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(classes), (count, 1)), axis=1)
    return orders[:, : 2 * per_half].reshape(count, 2, per_half)


def attribute_transfer(attributes, embeddings, labels, splits, ridge=0.05):
    r"""Predict the mean embeddings of classes from attributes with a linear map fitted on other classes.

    With attributes $z_j$ and the mean embedding $\bar x_c$ of each class, a split's map is

    $$A = \arg\min_A \sum_{j: y_j \in F} \lVert A z_j - \bar x_{y_j} \rVert_2^2 + \epsilon \lVert A \rVert_F^2$$

    for the half $F$, and the prediction for a class $c$ of the other half is $A \bar z_c$. An intercept is not needed:
    attributes sum to 1, so $A$ includes it. All splits are solved at once, from $\sum_j z_j z_j^\top$ and $\sum_j z_j$
    of each class.

    Args:
        attributes: float array `(n, m)`.
        embeddings: float array `(n, d)`.
        labels: int array `(n,)`, from 0 to the number of classes minus 1.
        splits: int array `(splits, 2, k)` of labels: the classes to fit, and those to predict.
        ridge: float. $\epsilon > 0$, not scaled by the number of samples. Default: 0.05.

    Returns:
        A `Transfer`. By chance, 1 / k of the predictions are right, and 1 / (2k) among all.

    Raises:
        ValueError: If shapes do not match, a split has a class without samples, or the ridge is not positive.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.3.3 and (P3).
    """
    attributes, embeddings = np.asarray(attributes, np.float64), np.asarray(embeddings, np.float64)
    labels, splits, ridge = np.asarray(labels), np.asarray(splits), check_positive("ridge", ridge)
    if attributes.ndim != 2 or embeddings.ndim != 2 or not len(attributes) == len(embeddings) == len(labels):
        raise ValueError(
            f"Received: attributes of shape {attributes.shape}, embeddings of shape {embeddings.shape} and labels of "
            f"shape {labels.shape}. Expected: (n, m), (n, d) and (n,)."
        )
    if splits.ndim != 3 or splits.shape[1] != 2:
        raise ValueError(f"Received: splits of shape {splits.shape}. Expected: (splits, 2, classes of a half).")
    missing = np.setdiff1d(splits, labels)
    if missing.size:
        raise ValueError(f"Some classes have no samples. Received: splits with classes {missing.tolist()}.")
    counts = np.bincount(labels)[:, None]
    sums = _sum_by_class(attributes, labels)
    grams = _sum_by_class(attributes[:, :, None] * attributes[:, None, :], labels)
    # A class that is in no split may have no samples.
    means, centers = sums / np.maximum(counts, 1), _sum_by_class(embeddings, labels) / np.maximum(counts, 1)
    fitted, others = splits[:, 0], splits[:, 1]
    gram = grams[fitted].sum(axis=1) + ridge * np.eye(attributes.shape[1])
    maps = np.linalg.solve(gram, np.einsum("skm,skd->smd", sums[fitted], centers[fitted]))
    predicted = means[others] @ maps
    # Candidate i is the right one for prediction i.
    candidates = centers[np.concatenate([others, fitted], axis=1)]
    own = others.shape[1]
    l2 = np.linalg.norm(predicted[:, :, None] - candidates[:, None], axis=-1)
    cosine = 1.0 - _unit(predicted) @ _unit(candidates).swapaxes(1, 2)
    return Transfer(_accuracy(l2[..., :own]), _accuracy(cosine[..., :own]), _accuracy(l2), _accuracy(cosine))


def _sum_by_class(values, labels):
    sums = np.zeros((labels.max() + 1, *values.shape[1:]))
    np.add.at(sums, labels, values)
    return sums


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _accuracy(distances):
    return (distances.argmin(axis=-1) == np.arange(distances.shape[1])).mean(axis=-1)


def split_images(dataset, folder):
    """Write images to a folder such that a split of its classes splits the images of the original classes.

    A class of the folder is a pair of a part and an original class: first all classes for training, then all for
    validation, then all for test. Splitting the classes of the folder in their order, a third for validation and a
    third for test, therefore trains on all original classes and evaluates on other images of them. The parts have 60,
    20 and 20% of the images.

    Args:
        dataset: A `LabeledImages` in memory. At most ten classes and at most 400 images per class are used, the first
            ones.
        folder: path. If it exists, nothing is done.

    Raises:
        ValueError: If the images are files, or a class has too few images for two in each part.
    """
    if folder.exists():
        return
    if dataset.holds_paths:
        raise ValueError(f"Received: {dataset!r}. Expected: images in memory.")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for label, class_name in list(enumerate(dataset.class_names))[: 2 * CLASSES_OF_HALF]:
        members = np.flatnonzero(dataset.labels == label)[:IMAGES_PER_CLASS]
        ends = np.rint(np.cumsum(list(_PARTS.values())) * len(members)).astype(int)
        for place, (part, indices) in enumerate(zip(_PARTS, np.split(members, ends[:-1]))):
            if len(indices) < 2:
                raise ValueError(f"Received: {len(members)} images of {class_name!r}. Expected: at least 10.")
            where = unfinished / f"{place}-{part}-{label}-{class_name.replace('/', ' or ')}"
            where.mkdir(parents=True, exist_ok=True)
            for index in indices:
                tf.io.write_file(str(where / f"{index:06d}.png"), tf.io.encode_png(dataset.images[index]))
    # The folder exists only if it is complete.
    unfinished.rename(folder)


def _seen_changes(name, folder):
    """Changes of a recipe that train and evaluate on the same classes."""
    dataset = data.load(name)
    split_images(dataset, folder)
    third = 1 / len(_PARTS)
    return {
        "data.name": "folder",
        "data.options": {"path": str(folder)},
        "data.size": 28,
        "data.channels": dataset.image_shape[2],
        "data.validation_classes": third,
        "data.test_classes": third,
        "data.split_seed": None,
    }


def _untrained(recipe, datasets):
    keras.utils.set_random_seed(recipe.seed)
    embedder = builders.make_embedder(recipe, datasets.preprocessing)
    builders.start_embedder(recipe, embedder, datasets)
    return embedder


def _trained(recipe, folder):
    result = result_of(recipe, folder)
    return result.embedder or keras.models.load_model(RunFolder(folder).embedder, compile=False)


def with_transport(embedder):
    """Make a function that also returns attributes, transported shares and nearest prototypes of an embedder.

    Args:
        embedder: Model whose layer named `"pooling"` is a `GeneralizedSumPooling`, whatever its outputs.

    Returns:
        A function from images to a tuple of arrays: embeddings `(b, d)`, attributes `(b, m)`, the transported share of
        each location `(b, h, w)`, 0 to 1, and the index of its nearest prototype, `(b, h, w)`.

    Raises:
        ValueError: If the pooling is another one.
    """
    pooling = embedder.get_layer("pooling")
    if not isinstance(pooling, GeneralizedSumPooling):
        raise ValueError(f"Received: a pooling {type(pooling).__name__}. Expected: GeneralizedSumPooling.")
    features_and_embeddings = keras.Model(embedder.input, [models.local_features(embedder).output, embedder.output])
    twin = GeneralizedSumPooling.from_config({**pooling.get_config(), "return_attributes": True})
    twin.build(pooling.input.shape)
    twin.set_weights(pooling.get_weights())

    @tf.function(input_signature=[tf.TensorSpec((None, *embedder.input_shape[1:]), tf.float32)])
    def forward(images):
        features, embeddings = features_and_embeddings(images, training=False)
        weights = twin.pooling_weights(features)
        places = tf.cast(tf.size(weights[0]), weights.dtype)
        flat = tf.reshape(tf.cast(features, weights.dtype), (-1, features.shape[-1]))
        costs = ops.clipped_distances(flat, tf.convert_to_tensor(twin.prototype_embeddings))
        nearest = tf.reshape(tf.argmin(costs, axis=-1), tf.shape(weights))
        return tf.cast(embeddings, tf.float32), twin(features)[1], places * twin.ratio * weights, nearest

    return lambda images: tuple(array.numpy() for array in forward(images))


def _evaluate(forward, datasets, splits, ridge, batch_size):
    batches = data.evaluation_batches(datasets.test, batch_size, datasets.preprocessing)
    embeddings, attributes = (
        np.concatenate(arrays) for arrays in zip(*(forward(images)[:2] for images, _ in batches))
    )
    return summarize(attributes, embeddings, datasets.test.labels, splits, ridge)


def summarize(attributes, embeddings, labels, splits, ridge):
    """Compute the `Outcome` of attributes `(n, m)` and embeddings `(n, d)`."""
    classes = int(labels.max()) + 1
    members = [attributes[labels == label] for label in range(classes)]
    means = np.array([of_class.mean(axis=0) for of_class in members])
    overall = attributes.mean(axis=0)
    entropy = -np.sum(overall * np.log(np.maximum(overall, 1e-12)))
    total = np.sum(np.square(attributes - overall))
    return Outcome(
        attribute_transfer(attributes, embeddings, labels, random_splits(classes, splits), ridge),
        metrics.retrieval_metrics(embeddings, labels)["map_at_r"],
        float(np.sum(np.square(means[labels] - overall)) / max(total, 1e-12)),
        float(np.exp(entropy)),
        means,
        np.array([of_class.std(axis=0) for of_class in members]),
    )


def _shown_classes(datasets):
    """Labels of the classes in the figures: at most ten, over the whole range."""
    classes = datasets.test.num_classes
    return np.unique(np.linspace(0, classes - 1, min(classes, 2 * CLASSES_OF_HALF)).astype(int))


def _names(datasets):
    """Class names without the prefix added by `split_images`."""
    return [name.split("-", 3)[-1] for name in datasets.test.class_names]


def _examples(datasets):
    """First image of each class in the figures, preprocessed, `(classes, h, w, c)`."""
    first = [np.flatnonzero(datasets.test.labels == label)[0] for label in _shown_classes(datasets)]
    one_each = data.LabeledImages(
        datasets.test.images[first], datasets.test.labels[first], datasets.test.class_names, datasets.test.name,
        max_pixels=datasets.test.max_pixels,
    )
    return next(iter(data.evaluation_batches(one_each, len(first), datasets.preprocessing)))[0]


def _draw(report, task, outcomes, datasets, examples, maps):
    """Draw the figures of a task for the first seed; `outcomes` and `maps` are dicts from training to results."""
    classes = _shown_classes(datasets)
    names = [_names(datasets)[label] for label in classes]
    report.figure(
        f"attributes-{task}",
        plots.attribute_histograms(
            {
                _LOSS[training]: (outcomes[training].means[classes], outcomes[training].deviations[classes])
                for training in ("without", "with")
            },
            names,
        ),
    )
    rows = {
        _LOSS[training].replace(" ", "\n", 1): (np.clip(shares, 0.0, 1.0), nearest)
        for training, (shares, nearest) in maps.items()
        if training != "untrained"
    }
    report.figure(f"maps-{task}", plots.prototype_maps(examples.numpy(), rows, names=names))


def _report(report, results, seeds, splits, settings):
    chances = [100 / half for half in sorted({_classes_of_half(of[0].means) for of in results.values()})]
    report.table(
        "transfer",
        [
            "evaluated on",
            "zero-shot loss",
            "l2 (%)",
            "cosine (%)",
            "l2, among all (%)",
            "cosine, among all (%)",
            "between classes (%)",
            "prototypes in use",
            "MAP@R",
        ],
        [
            [
                _TASKS[task],
                _LOSS[training],
                *(_cell([100 * np.mean(values) for values in of_seeds]) for of_seeds in _by_field(outcomes)),
                _cell([100 * outcome.between for outcome in outcomes]),
                _cell([outcome.in_use for outcome in outcomes]),
                _cell([outcome.map_at_r for outcome in outcomes], digits=3),
            ]
            for (task, training), outcomes in results.items()
        ],
        "Accuracy of the nearest mean embedding among those of the predicted classes (by chance "
        f"{' or '.join(f'{chance:g}' for chance in chances)}%), and among those of the fitted classes, too (half of "
        f"that): mean over {splits} random splits, and of these mean ± deviation over the seeds. {settings}",
    )
    report.table(
        "seeds",
        ["evaluated on", "zero-shot loss", "seed", "l2 (%)", "cosine (%)"],
        [
            [
                _TASKS[task],
                _LOSS[training],
                seed,
                *(_cell(100 * values) for values in (outcome.transfer.l2, outcome.transfer.cosine)),
            ]
            for (task, training), outcomes in results.items()
            for seed, outcome in zip(seeds, outcomes)
        ],
        "Each seed: mean ± deviation over the splits, among the predicted classes.",
    )
    tasks = list(dict.fromkeys(task for task, _ in results))
    report.figure(
        "transfer",
        plots.dot_plot(
            [f"{_TASKS[task]}, {metric}" for task in tasks for metric in ("l2", "cosine")],
            {
                _LOSS[training]: [
                    [100 * getattr(outcome.transfer, metric).mean() for outcome in results[task, training]]
                    for task in tasks
                    for metric in ("l2", "cosine")
                ]
                for training in _LOSS
            },
            "accuracy (%)",
            marks={"by chance": chances[0]} if len(chances) == 1 else None,
            sort=False,
        ),
    )


def _classes_of_half(classes):
    return min(CLASSES_OF_HALF, len(classes) // 2)


def _by_field(outcomes):
    """Accuracies of the outcomes, field by field."""
    return zip(*(outcome.transfer for outcome in outcomes))


def _cell(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


if __name__ == "__main__":
    command(zero_shot_transfer)
