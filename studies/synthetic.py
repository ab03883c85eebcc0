"""Do classes that share tokens come apart? Average pooling against generalized sum pooling on bags of trainable tokens.

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
# Tokens stay within ± this in both dimensions.
LIMIT = 0.3
BATCH_PER_CLASS, VALIDATION_PER_CLASS, TEST_PER_CLASS = 4, 16, 64
POOLINGS = {"gap": "average pooling (GAP)", "gsp": "generalized sum pooling (GSP)"}


class Outcome(NamedTuple):
    """One training, judged on fresh bags.

    Attributes:
        map_at_r: Retrieval among the bags' embeddings.
        precision_at_1: The same by the nearest neighbour alone.
        overlapping_pairs: Share of the pairs of classes whose hulls of embeddings intersect.
        common_area: See `studies.hulls.Overlap`.
        own_weight: Weight that a bag's tokens of its own class have in the embedding, mean over the bags.
        epochs: How long it trained.
        embeddings: Of the bags, `(bags, 2)`.
        labels: Their classes.
        tokens: `(68, 2)`, those of class c at 4c to 4c + 3, the shared ones last.
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
    """Trains tokens in the plane by the contrastive loss C2 on pooled bags of them.

    Each of 16 classes has four tokens of its own, and four more are shared by all. A bag of class c has 50 tokens drawn
    with replacement, a share ~ N(0.5, 0.1) of them from the class' own, the rest from the shared ones. Its embedding is
    what a pooling layer makes of them, not normalised. Training ends when the MAP@R of validation bags has not become
    better for `patience` epochs; the best tokens are kept and judged on other bags.

    Args:
        out: Folder for tables and figures.
        margins: Of negative pairs in C2. In a square of side 0.6, 16 points can be 0.2 apart, not more than four 0.5.
            Average pooling leaves half of the weight to shared tokens, which halves the room: it needs smaller ones.
        ratio: μ of generalized sum pooling.
        smoothing: ε of generalized sum pooling. Tokens are at most 0.85 apart, so one that selects is large.
        prototypes: Its number of prototypes, which start from the tokens.
        learning_rate: Of Adam.
        steps_per_epoch: Batches of 16 classes × 4 bags between validations.
        epochs: At most.
        patience: In epochs.
        seeds: Each setting is trained once with each of them.
        quick: One margin, one seed, ten epochs.

    Returns:
        From (pooling, margin) to the `Outcome` of each seed.

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
    """Tokens of a bag for each label, `(bags, 50)` int32; the class' own come first."""
    own_counts = np.rint(BAG_SIZE * generator.normal(OWN_SHARE_MEAN, OWN_SHARE_DEVIATION, len(labels)))
    own = OWN_TOKENS * np.asarray(labels)[:, None] + generator.integers(0, OWN_TOKENS, (len(labels), BAG_SIZE))
    shared = CLASSES * OWN_TOKENS + generator.integers(0, SHARED_TOKENS, (len(labels), BAG_SIZE))
    return np.where(np.arange(BAG_SIZE) < own_counts[:, None], own, shared).astype(np.int32)


@keras.saving.register_keras_serializable(package="tfdml")
class Box(keras.constraints.Constraint):
    """Holds every number of a weight within ± a limit."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, w):
        return tf.clip_by_value(w, -self.limit, self.limit)

    def get_config(self):
        return {"limit": self.limit}


def _check(margins, prototypes, ratio, smoothing, seeds):
    """Before the first training rather than after some of them."""
    if not margins or not seeds:
        raise ValueError(f"Received: margins={margins}, seeds={seeds}; expected one of each at least.")
    if prototypes > TOKENS:
        raise ValueError(f"Received: prototypes={prototypes}; expected {TOKENS}, the number of tokens, at most.")
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
        f"Fresh bags, {TEST_PER_CLASS} of each class; mean ± standard deviation. {settings}",
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
                "MAP@R on fresh bags",
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
