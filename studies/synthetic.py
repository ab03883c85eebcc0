"""Do classes that share tokens become separable? Average and generalized sum pooling on bags of trainable tokens.

python -m studies.synthetic --out DIR
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.hulls import class_hulls, hull_overlap, outline
from studies.report import Report, command
from tfdml import callbacks, layers, losses, metrics, models

CLASSES = 16
OWN_TOKENS = 4
SHARED_TOKENS = 4
TOKENS = CLASSES * OWN_TOKENS + SHARED_TOKENS
BAG_SIZE = 50
OWN_SHARE_MEAN, OWN_SHARE_DEVIATION = 0.5, 0.1
# Tokens are clipped to ± this in both dimensions.
LIMIT = 0.3
BATCH_PER_CLASS, VALIDATION_PER_CLASS, TEST_PER_CLASS = 4, 16, 64
POOLINGS = {"gap": "average pooling (GAP)", "gsp": "generalized sum pooling (GSP)"}


class Outcome(NamedTuple):
    """Result of a training run, evaluated on new bags.

    Attributes:
        map_at_r: float. MAP@R of the embeddings of the bags.
        precision_at_1: float. Precision of the nearest neighbor.
        overlapping_pairs: float. Share of the pairs of classes whose hulls of embeddings intersect.
        common_area: float. See `studies.hulls.Overlap`.
        own_weight: float. Pooling weight on the tokens of the bag's own class, averaged over the bags.
        epochs: int. Number of epochs trained.
        embeddings: float array `(bags, 2)`.
        labels: int array `(bags,)`. Classes of the bags.
        tokens: float array `(68, 2)`. Those of class c at 4c to 4c + 3, the shared ones last.
    """

    map_at_r: float
    precision_at_1: float
    overlapping_pairs: float
    common_area: float
    own_weight: float
    epochs: int
    embeddings: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray


def synthetic(
    out: str,
    margins: list[float] = (0.5, 0.3, 0.25, 0.2, 0.1, 0.07),
    ratio: float = 0.1,
    smoothing: float = 100.0,
    prototypes: int = 64,
    learning_rate: float = 1e-3,
    steps_per_epoch: int = 50,
    epochs: int = 100,
    patience: int = 30,
    seeds: list[int] = (0, 1, 2),
    quick: bool = False,
):
    """Train tokens in the plane with the contrastive loss C2 on pooled bags of them.

    Each of 16 classes has four tokens of its own, and four more are shared by all. A bag of class c has 50 tokens drawn
    with replacement, a share ~ N(0.5, 0.1) of them from the class's own, the rest from the shared ones. A pooling layer
    maps them to the bag's embedding, which is not normalized. Training ends when the MAP@R of validation bags has not
    improved for `patience` epochs. The best tokens are kept and evaluated on other bags.

    Args:
        out: Folder for tables and figures.
        margins: Margins of negative pairs in C2. In a square of side 0.6, 16 points can be 0.2 apart, but no more than
            four 0.5 apart. Average pooling leaves half of the weight to shared tokens, which halves the room.
        ratio: μ of generalized sum pooling.
        smoothing: ε of generalized sum pooling. Tokens are at most 0.85 apart, so only a large value selects.
        prototypes: Number of prototypes, which start from the tokens.
        learning_rate: Learning rate of Adam.
        steps_per_epoch: Batches of 16 classes × 4 bags between validations.
        epochs: Maximum number of epochs.
        patience: Number of epochs without improvement that end the training.
        seeds: Seeds; each setting is trained once per seed.
        quick: Run one margin, one seed, ten epochs.

    Returns:
        dict from (pooling, margin) to the `Outcome` of each seed.

    Raises:
        ValueError: If an option is out of its range.
    """
    _check(margins, prototypes, ratio, smoothing, seeds)
    if quick:
        margins, seeds, epochs = list(margins)[:1], list(seeds)[:1], min(epochs, 10)
    results = {}
    for margin in margins:
        for pooling in POOLINGS:
            results[pooling, margin] = [
                _train(
                    _pooling(pooling, prototypes, ratio, smoothing),
                    margin,
                    learning_rate,
                    steps_per_epoch,
                    epochs,
                    patience,
                    seed,
                )
                for seed in seeds
            ]
            print(f"{pooling} margin {margin:g}: MAP@R {_cell(results[pooling, margin], 'map_at_r')}", flush=True)
    settings = f"GSP: μ = {ratio:g}, ε = {smoothing:g}, {prototypes} prototypes; Adam {learning_rate:g}"
    _report(Report(out), list(margins), results, f"{settings}, {len(seeds)} seed(s). Keras {keras.__version__}.")
    return results


def sample_bags(labels, generator):
    """Sample a bag of tokens for each label, int32 `(bags, 50)`, with the class's own tokens first."""
    own_counts = np.rint(BAG_SIZE * generator.normal(OWN_SHARE_MEAN, OWN_SHARE_DEVIATION, len(labels)))
    own = OWN_TOKENS * np.asarray(labels)[:, None] + generator.integers(0, OWN_TOKENS, (len(labels), BAG_SIZE))
    shared = CLASSES * OWN_TOKENS + generator.integers(0, SHARED_TOKENS, (len(labels), BAG_SIZE))
    return np.where(np.arange(BAG_SIZE) < own_counts[:, None], own, shared).astype(np.int32)


@keras.saving.register_keras_serializable(package="tfdml")
class Box(keras.constraints.Constraint):
    """Constraint that clips every entry of a weight to ± a limit."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, w):
        return tf.clip_by_value(w, -self.limit, self.limit)

    def get_config(self):
        return {"limit": self.limit}


def _check(margins, prototypes, ratio, smoothing, seeds):
    """Check the arguments before the first training run."""
    if not margins or not seeds:
        raise ValueError(f"Received: margins={margins}, seeds={seeds}. Expected: at least one of each.")
    if prototypes > TOKENS:
        raise ValueError(f"Received: prototypes={prototypes}. Expected: at most {TOKENS}, the number of tokens.")
    _pooling("gsp", prototypes, ratio, smoothing)
    for margin in margins:
        losses.get("c2", negative_margin=margin)


def _pooling(name, prototypes, ratio, smoothing):
    if name == "gap":
        return keras.layers.GlobalAveragePooling1D(data_format="channels_last", name="pooling")
    return layers.GeneralizedSumPooling(prototypes, ratio, smoothing, name="pooling")


def _train(pooling, margin, learning_rate, steps_per_epoch, epochs, patience, seed):
    keras.utils.set_random_seed(seed)
    bags = keras.Input((BAG_SIZE,), dtype="int32")
    tokens = keras.layers.Embedding(
        TOKENS,
        2,
        embeddings_initializer=keras.initializers.RandomUniform(-LIMIT, LIMIT, seed=seed),
        embeddings_constraint=Box(LIMIT),
    )
    embedder = keras.Model(bags, pooling(tokens(bags)))
    if hasattr(pooling, "adapt"):
        pooling.adapt(np.asarray(tokens.embeddings), seed=seed)
    model = models.MetricModel(embedder)
    model.compile(keras.optimizers.Adam(learning_rate), losses.get("c2", negative_margin=margin))
    history = model.fit(
        _batches(seed),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        validation_data=_fixed_bags(VALIDATION_PER_CLASS, [seed, 1]),
        callbacks=[callbacks.RetrievalEarlyStopping(patience)],
        shuffle=False,
        verbose=0,
    )
    return _evaluate(embedder, pooling, np.asarray(tokens.embeddings), seed, len(history.epoch))


def _batches(seed):
    generator, labels = np.random.default_rng([seed, 0]), np.repeat(np.arange(CLASSES), BATCH_PER_CLASS)
    while True:
        yield sample_bags(labels, generator), labels


def _fixed_bags(per_class, seed):
    labels = np.repeat(np.arange(CLASSES), per_class)
    return sample_bags(labels, np.random.default_rng(seed)), labels


def _evaluate(embedder, pooling, tokens, seed, epochs):
    bags, labels = _fixed_bags(TEST_PER_CLASS, [seed, 2])
    embeddings = embedder.predict(bags, batch_size=256, verbose=0)
    retrieval = metrics.retrieval_metrics(embeddings, labels)
    overlap = hull_overlap(class_hulls(embeddings, labels).values())
    weights = np.full(bags.shape, 1.0 / BAG_SIZE)
    if hasattr(pooling, "pooling_weights"):
        weights = np.asarray(pooling.pooling_weights(tokens[bags]))
    return Outcome(
        retrieval["map_at_r"],
        retrieval["precision_at_1"],
        overlap.pairs,
        overlap.area,
        float(np.sum(weights * (bags < CLASSES * OWN_TOKENS), axis=1).mean()),
        epochs,
        embeddings,
        labels,
        tokens,
    )


def _cell(outcomes, field, percent=False):
    values = np.array([getattr(outcome, field) for outcome in outcomes], float)
    mean, deviation = values.mean(), values.std()
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}" if percent else f"{mean:.3f} ± {deviation:.3f}"


def _report(report, margins, results, settings):
    report.table(
        "synthetic",
        [
            "margin",
            "pooling",
            "MAP@R",
            "P@1",
            "pairs of classes with overlapping hulls (%)",
            "common area (%)",
            "weight on own tokens",
            "epochs",
        ],
        [
            [
                f"{margin:g}",
                pooling.upper(),
                _cell(outcomes, "map_at_r"),
                _cell(outcomes, "precision_at_1"),
                _cell(outcomes, "overlapping_pairs", percent=True),
                _cell(outcomes, "common_area", percent=True),
                _cell(outcomes, "own_weight"),
                f"{np.mean([outcome.epochs for outcome in outcomes]):.0f}",
            ]
            for (pooling, margin), outcomes in results.items()
        ],
        f"New bags, {TEST_PER_CLASS} per class; mean ± standard deviation. {settings}",
    )
    for margin in margins:
        panels = {text: _panel(results[name, margin][0]) for name, text in POOLINGS.items()}
        report.figure(f"hulls-margin-{margin:g}", plots.class_hulls(panels, points_name="bags"))
    if len(margins) > 1:
        values = {
            text: np.array([[outcome.map_at_r for outcome in results[name, margin]] for margin in margins])
            for name, text in POOLINGS.items()
        }
        report.figure(
            "map_at_r",
            plots.lines(
                {name: (margins, scores.mean(axis=1)) for name, scores in values.items()},
                "margin of C2",
                "MAP@R on new bags",
                spread={name: scores.std(axis=1) for name, scores in values.items()},
            ),
        )


def _panel(outcome):
    own = outcome.tokens[: CLASSES * OWN_TOKENS]
    hulls = class_hulls(outcome.embeddings, outcome.labels)
    return plots.HullPanel(
        {int(label): outline(hull) for label, hull in hulls.items()},
        outcome.embeddings,
        outcome.labels,
        {
            "own tokens": (own, np.repeat(np.arange(CLASSES), OWN_TOKENS)),
            "shared tokens": (outcome.tokens[len(own) :], None),
        },
    )


if __name__ == "__main__":
    command(synthetic)
