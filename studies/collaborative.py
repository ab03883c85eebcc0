"""Does a metric recommend better than inner products, and does it know which items are similar?

python -m studies.collaborative --out DIR
"""

import itertools
import pathlib
from typing import NamedTuple, Optional

import keras
import numpy as np
import tensorflow as tf

from studies.report import Report, append_rows, command, mean_and_deviation, paired_interval, read_rows
from tfdml import data, metrics, models

RESULTS = pathlib.Path(__file__).parent / "results" / "collaborative.csv"
USERS, ITEMS, LATENT = 500, 800, 5
NOISE = 0.05
K = 20
BATCH, NEGATIVES = 512, 20
DIM, FEW_DIMENSIONS = 8, 3
LIKED = {"few interactions": 10, "many interactions": 30}
_RATES, _LARGE_RATES = (0.01, 0.03, 0.1), (0.03, 0.1, 0.3)
_FACTORS = {"learning_rate": _RATES, "penalty": (1e-3, 3e-3, 1e-2)}
# The options that are tried on the validation part, with the first seed: nine combinations for each method.
GRIDS = {
    "popularity": {},
    "mf": _FACTORS,
    "bpr": _FACTORS,
    "bpr_no_bias": _FACTORS,
    "cml": {"learning_rate": _RATES, "margin": (1.0, 2.0, 3.0)},
    "cml_all": {"learning_rate": _RATES, "margin": (0.5, 1.0, 1.5)},
    "cml_logistic": {"learning_rate": _RATES, "penalty": (3e-3, 1e-2, 3e-2)},
}
# In few dimensions, inner products need larger steps, and distances smaller margins.
_FEW_FACTORS = {"learning_rate": _LARGE_RATES, "penalty": (1e-4, 1e-3, 1e-2)}
FEW_GRIDS = {
    "bpr": _FEW_FACTORS,
    "bpr_no_bias": _FEW_FACTORS,
    "cml": {"learning_rate": _RATES, "margin": (0.05, 0.1, 0.5)},
    "cml_logistic": _FEW_FACTORS,
}


class Setting(NamedTuple):
    """Data and vectors of a comparison.

    Attributes:
        liked: int. Average number of items of a user.
        dim: int. Size of the vectors.
        is_plane: bool. Users and items are uniform in a disk rather than in clusters in five dimensions.
    """

    liked: int
    dim: int
    is_plane: bool = False

    @property
    def grids(self):
        """Options to try, dict by method of dicts by option."""
        if self.dim <= FEW_DIMENSIONS:
            return FEW_GRIDS
        return {name: GRIDS[name] for name in FEW_GRIDS} if self.is_plane else GRIDS


SETTINGS = {
    **{kind: Setting(liked, DIM) for kind, liked in LIKED.items()},
    **{f"{kind}, few dimensions": Setting(liked, FEW_DIMENSIONS) for kind, liked in LIKED.items()},
    "plane, few interactions, 2 dimensions": Setting(10, 2, True),
    **{f"plane, many interactions, {dim} dimensions": Setting(30, dim, True) for dim in (2, 3, 8)},
}
QUICK = "few interactions", "plane, few interactions, 2 dimensions"
NAMES = {
    "popularity": "popularity", "mf": "matrix factorization", "bpr": "BPR", "bpr_no_bias": "BPR without bias",
    "cml": "CML, WARP hinge", "cml_all": "CML, WARP hinge, all impostors",
    "cml_logistic": "CML, logistic loss",
}  # fmt: skip
COLUMNS = (
    "data", "method", "learning_rate", "penalty", "margin", "seed", "epoch", "validation", "recall", "ndcg",
    "neighbors",
)  # fmt: skip


def collaborative(
    out: str,
    seeds: list[int] = (0, 1, 2, 3, 4),
    epochs: int = 60,
    results: Optional[str] = None,
    quick: bool = False,
):
    """Compare collaborative metric learning with popularity, matrix factorization and BPR on generated interactions.

    Users and items are points, and a user interacts with the nearest items, up to noise: 10 or 30 of them on average.
    Three fifths of the interactions of each user are for training, a fifth for validation, a fifth for the test. First,
    the points are in clusters in five dimensions, and the vectors have 8 dimensions, then 3. Then the points are
    uniform in a disk, and the vectors have 2 dimensions, then more. There the argument for a metric should show most:
    two-dimensional inner products sort the items along the direction of the user's vector, so users at different
    distances from the middle of the disk get the same order.

    The factorizations have a bias per item in addition to their vectors, except for BPR without bias, which is closer
    to the formulas of the paper. The logistic loss of CML is that of BPR on distances, with the same kind of penalty
    instead of the ball of the WARP hinge. The learning rate and the penalty (the margin of the hinge) are those of the
    best recall on the validation part with the first seed, of nine combinations for each method, and so is the number
    of epochs, for each seed. Then a tenth of the items has no interactions in training, and an encoder places them by
    their noisy positions.

    Args:
        out: Folder for the tables.
        seeds: Seeds of data and initial vectors; the first one is also that of the search.
        epochs: Number of epochs; validation is every fifth.
        results: CSV file of the results; by default that of the repository. Runs that are there are not repeated.
        quick: Small data, one seed, five epochs, a grid of one value, and two of the settings.

    Returns:
        dict from (data, method) to the results of the seeds, dicts by `COLUMNS`.
    """
    if quick:
        seeds, epochs = seeds[:1], 5
    study = _Study(pathlib.Path(results or RESULTS).expanduser(), epochs, quick)
    found = {}
    for kind in QUICK if quick else SETTINGS:
        for method, grid in SETTINGS[kind].grids.items():
            search = [study.run(kind, method, options, seeds[0]) for options in _grid(grid, quick)]
            best = max(search, key=lambda row: float(row["validation"]))
            options = {name: best[name] for name in grid}
            found[kind, method] = [study.run(kind, method, options, seed) for seed in seeds]
    cold_from = "few interactions" if quick else "many interactions"
    cold = {
        method: [study.cold_items(method, seed, found[cold_from, method][0]) for seed in seeds]
        for method in ("cml", "cml_logistic")
    }
    _report(Report(out), found, cold)
    return found


def generate(liked, seed, users=USERS, items=ITEMS, is_plane=False):
    """Return `Interactions` of users with the nearest items, and the positions of the items.

    Positions are in six clusters, or uniform in a disk, and the distances have noise. The items' features are their
    positions with noise.

    Args:
        liked: int. Average number of items of a user; each user has half of them to one and a half times as many.
        seed: int.
        users, items: ints. Their numbers.
        is_plane: bool. Positions are in the unit disk.

    Example:
        >>> generate(10, seed=0, users=20, items=60)[0]
        Interactions(pairs=196, users=20, items=60)
    """
    generator = np.random.default_rng([seed, 17])
    if is_plane:
        places = [_in_disk(generator, count) for count in (users, items)]
    else:
        centers = generator.normal(size=(6, LATENT)) / LATENT**0.5
        places = [
            centers[generator.integers(0, 6, count)] + 0.4 * generator.normal(size=(count, LATENT)) / LATENT**0.5
            for count in (users, items)
        ]
    distances = np.linalg.norm(places[0][:, None] - places[1], axis=-1)
    distances += NOISE * generator.normal(size=distances.shape)
    counts = generator.integers(liked // 2, liked + liked // 2 + 1, users)
    pairs = np.argwhere(np.argsort(np.argsort(distances, axis=1), axis=1) < counts[:, None])
    features = places[1] + 0.05 * generator.normal(size=places[1].shape)
    return data.Interactions(pairs[:, 0], pairs[:, 1], users, items, features), places[1]


def _in_disk(generator, count):
    radius, angle = np.sqrt(generator.random(count)), 2 * np.pi * generator.random(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


class Factorization(keras.Model):
    """Inner products of users and items plus a bias per item, trained by the logistic loss or by BPR.

    Args:
        user_count, item_count, dim: ints.
        pairwise: bool. BPR, which compares an item with a negative one, rather than labels 1 and 0.
        penalty: float. Weight of the squared norms of the vectors in the batch.
        seed: int.
        has_bias: bool. Train the bias of the items, which is 0 otherwise.
    """

    def __init__(self, user_count, item_count, dim, pairwise, penalty, seed, has_bias=True):
        super().__init__()
        self.pairwise, self.penalty = pairwise, penalty
        normal = keras.initializers.RandomNormal
        self.users = keras.layers.Embedding(user_count, dim, embeddings_initializer=normal(stddev=0.1, seed=2 * seed))
        of_items = normal(stddev=0.1, seed=2 * seed + 1)
        self.items = keras.layers.Embedding(item_count, dim, embeddings_initializer=of_items)
        self.bias = keras.layers.Embedding(item_count, 1, embeddings_initializer="zeros", trainable=has_bias)
        for table in (self.users, self.items, self.bias):
            table.build((None,))

    def call(self, inputs):
        """Return the scores of the positive item and of the negative ones, and the penalty."""
        items = tf.concat([inputs["item"][:, None], inputs["negatives"]], axis=1)
        users, vectors = self.users(inputs["user"]), self.items(items)
        scores = tf.einsum("bd,bkd->bk", users, vectors) + self.bias(items)[..., 0]
        norms = tf.reduce_mean(tf.reduce_sum(users**2, -1)) + tf.reduce_mean(tf.reduce_sum(vectors**2, -1))
        return scores, self.penalty * norms

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **unused):
        """Return the loss of a batch."""
        scores, penalty = y_pred
        if self.pairwise:
            return tf.reduce_mean(tf.nn.softplus(scores[:, 1:] - scores[:, :1])) + penalty
        negative = tf.reduce_mean(tf.nn.softplus(scores[:, 1:]), axis=1)
        return tf.reduce_mean(tf.nn.softplus(-scores[:, 0]) + negative) + penalty

    def vectors(self):
        """Return vectors of users and of items whose inner products are the scores."""
        users, items, bias = (table.get_weights()[0] for table in (self.users, self.items, self.bias))
        return np.concatenate([users, np.ones((len(users), 1))], axis=1), np.concatenate([items, bias], axis=1)


class _Study:
    """Trains runs that are not in the results file, and reads those that are."""

    def __init__(self, results, epochs, quick):
        self.results, self.epochs, self.quick, self.batches_of = results, epochs, quick, None
        self.rows = {_key(row): row for row in read_rows(results)}

    def run(self, kind, method, options, seed):
        row = dict.fromkeys(COLUMNS, "") | {"data": kind, "method": method, "seed": str(seed)}
        row |= {name: str(value) for name, value in options.items()}
        if _key(row) in self.rows:
            return self.rows[_key(row)]
        train, validation, test, places = self.parts(kind, seed)
        similarity = "l2" if _is_metric(method) else "dot"
        if method == "popularity":
            counts = np.bincount(train.items, minlength=train.item_count)[:, None]
            vectors = np.ones((train.user_count, 1)), counts.astype("float64")
            best = (0, _metrics(vectors, similarity, validation, [train])["recall_at_20"], vectors)
        else:
            options = {name: float(value) for name, value in options.items()}
            best = self._fit(kind, method, options, seed, train, validation)
            items = best[2][1] if _is_metric(method) else best[2][1][:, :-1]
            # Without the bias. For inner products, by distance or by cosine, whichever finds more.
            spaces = [items] if _is_metric(method) else [items, _directions(items)]
            row["neighbors"] = f"{max(shared_neighbors(vectors, places) for vectors in spaces):.5f}"
        epoch, row["validation"], vectors = best
        found = _metrics(vectors, similarity, test, [train, validation])
        row |= {"epoch": str(epoch), "recall": found["recall_at_20"], "ndcg": found["ndcg_at_20"]}
        row |= {name: f"{row[name]:.5f}" for name in ("validation", "recall", "ndcg")}
        self._append(row)
        return row

    def parts(self, kind, seed):
        """Return interactions for training, validation and test, and the positions of the items."""
        interactions, places = generate(SETTINGS[kind].liked, seed, is_plane=SETTINGS[kind].is_plane, **self.sizes)
        validation, test, train = interactions.split(0.2, 0.2, seed=seed)
        return train, validation, test, places

    @property
    def sizes(self):
        """Numbers of users and items."""
        return {"users": 60, "items": 100} if self.quick else {}

    def _batches(self, kind, seed, train):
        """Return the batches of all epochs, which the methods share, a dict of tensors `(steps, batch, …)`."""
        if kind != self.batches_of:
            self.batches_of, self.batches = kind, {}
        if seed not in self.batches:
            count = self.epochs * max(1, len(train) // BATCH)
            batches = next(iter(train.batches(BATCH, NEGATIVES, seed=seed).take(count).batch(count)))
            names = "user", "item", "negatives"
            self.batches[seed] = {name: tf.cast(batches[name], tf.int32) for name in names}
        return self.batches[seed]

    def _fit(self, kind, method, options, seed, train, validation):
        """Train, and return the epoch of the best recall, that recall and the vectors."""
        model = _model(method, options, seed, train, SETTINGS[kind].dim)
        batches, train_on = self._batches(kind, seed, train), _training(model)
        steps = 5 * max(1, len(train) // BATCH)
        best = (0, -1.0, None)
        for epoch in range(5, self.epochs + 1, 5):
            of_epochs = {
                name: values[epoch // 5 * steps - steps : epoch // 5 * steps] for name, values in batches.items()
            }
            train_on(of_epochs)
            vectors = (model.user_vectors(), model.item_vectors()) if _is_metric(method) else model.vectors()
            recall = recall_of(vectors, "l2" if _is_metric(method) else "dot", validation, [train])
            if recall > best[1]:
                best = (epoch, recall, vectors)
        return best

    def cold_items(self, method, seed, best):
        """Return recall and NDCG at 5 on items without interactions in training, which the encoder places."""
        row = dict.fromkeys(COLUMNS, "") | {"data": "cold items", "method": method, "seed": str(seed)}
        row |= {name: best[name] for name in GRIDS[method]}
        if _key(row) in self.rows:
            return self.rows[_key(row)]
        interactions, _ = generate(LIKED["many interactions"], seed, **self.sizes)
        warm, cold = interactions.hold_out_items(0.1, seed)
        known = np.unique(warm.items)
        encoder = keras.Sequential([keras.Input((LATENT,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(DIM)])
        keras.utils.set_random_seed(seed)
        options = {name: float(best[name]) for name in GRIDS[method]}
        model = _model(method, options, seed, warm, item_encoder=encoder)
        steps = max(1, len(warm) // BATCH)
        batches = warm.batches(BATCH, NEGATIVES, seed=seed, candidates=known)
        model.fit(batches, epochs=max(5, int(best["epoch"])) if not self.quick else 5, steps_per_epoch=steps, verbose=0)
        places = model.encode_items(warm.item_features)
        candidates = np.setdiff1d(np.arange(warm.item_count), known)
        users = np.unique(cold.users)
        relevant = [np.searchsorted(candidates, items) for items in cold.items_of(users)]
        found = metrics.ranking_metrics(model.user_vectors()[users], places[candidates], relevant, (5,), "l2")
        # What a random order of the cold items finds.
        row |= {"validation": f"{5 / len(candidates):.5f}", "recall": f"{found['recall_at_5']:.5f}"}
        row["ndcg"] = f"{found['ndcg_at_5']:.5f}"
        self._append(row)
        return row

    def _append(self, row):
        append_rows(self.results, COLUMNS, [row])
        self.rows[_key(row)] = row
        print(", ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)


def _model(method, options, seed, train, dim=DIM, item_encoder=None):
    sizes = train.user_count, train.item_count, dim
    if method in ("cml", "cml_all"):
        impostors = "all" if method == "cml_all" else "closest"
        model = models.CollaborativeModel(
            *sizes, margin=options["margin"], seed=seed, impostors=impostors, item_encoder=item_encoder
        )
    elif method == "cml_logistic":
        model = models.CollaborativeModel(
            *sizes, loss="logistic", max_norm=None, norm_weight=options["penalty"], seed=seed, item_encoder=item_encoder
        )
    else:
        pairwise, has_bias = method != "mf", method != "bpr_no_bias"
        model = Factorization(*sizes, pairwise, options["penalty"], seed, has_bias)
    model.compile(keras.optimizers.Adam(options["learning_rate"]))
    return model


def _training(model):
    """Return a function that trains a model on batches, tensors `(steps, batch, …)`: `fit` in one graph."""
    variables = model.trainable_variables
    model.optimizer.build(variables)

    def step(batch):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch, None, model(batch, training=True))
        model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    @tf.function(autograph=False)
    def train_on(batches):
        def next_step(index):
            step({name: values[index] for name, values in batches.items()})
            return (index + 1,)

        count = batches["user"].shape[0]
        tf.while_loop(lambda index: index < count, next_step, [0], parallel_iterations=1)

    return train_on


def _metrics(vectors, similarity, wanted, known):
    """Recall and NDCG at 20 of the items that are not known."""
    users = np.unique(wanted.users)
    exclude = [np.concatenate(items) for items in zip(*(part.items_of(users) for part in known))]
    relevant = wanted.items_of(users)
    return metrics.ranking_metrics(vectors[0][users], vectors[1], relevant, (K,), similarity, exclude)


def recall_of(vectors, similarity, wanted, known, k=K):
    """Return the mean recall at k of users, as `metrics.ranking_metrics`, faster on few users and items.

    Args:
        vectors: Pair of float arrays, the vectors of users and items.
        similarity: `"dot"` or `"l2"`.
        wanted: `Interactions` to find.
        known: List of `Interactions` whose items do not count.
    """
    scores = vectors[0] @ vectors[1].T
    if similarity == "l2":
        scores = scores - 0.5 * np.sum(vectors[1] ** 2, axis=1)
    for part in known:
        scores[part.users, part.items] = -np.inf
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    relevant = np.zeros(scores.shape, bool)
    relevant[wanted.users, wanted.items] = True
    counts = relevant.sum(axis=1)
    found = np.take_along_axis(relevant, top, axis=1).sum(axis=1)
    return float(np.mean(found[counts > 0] / counts[counts > 0]))


def shared_neighbors(vectors, places, k=10):
    """Return the share of the k items nearest to each item by its vector that are also nearest by its place.

    Example:
        >>> shared_neighbors(np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]]), k=1)
        0.6666666666666666
    """
    found, wanted = (metrics.nearest_neighbors(points, k)[0] for points in (vectors, places))
    return float(np.mean([len(np.intersect1d(*rows)) / k for rows in zip(found, wanted)]))


def _is_metric(method):
    return method.startswith("cml")


def _directions(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _grid(grid, quick):
    values = [choices[:1] if quick else choices for choices in grid.values()]
    return [dict(zip(grid, chosen)) for chosen in itertools.product(*values)]


def _key(row):
    return tuple(row[name] for name in COLUMNS[: COLUMNS.index("epoch")])


def _values(rows, name):
    return np.array([float(row[name]) for row in rows])


def _difference(found, kind, method, other, name="recall"):
    return paired_interval(_values(found[kind, method], name) - _values(found[kind, other], name))


def _report(report, found, cold):
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    for kind in kinds:
        setting, table = SETTINGS[kind], []
        for method, grid in setting.grids.items():
            rows = found[kind, method]
            options = ", ".join(f"{name.replace('_', ' ')} {rows[0][name]}" for name in grid)
            cells = [mean_and_deviation(_values(rows, name), ddof=1) for name in ("recall", "ndcg")]
            cells += [mean_and_deviation(_values(rows, "neighbors"), ddof=1) if rows[0]["neighbors"] else ""]
            for other in ("bpr", "bpr_no_bias"):
                cells.append("" if method == other else _difference(found, kind, method, other))
            table.append([NAMES[method], options, *cells])
        header = ["method", "chosen", "recall@20", "NDCG@20", "true neighbors of items"]
        header += ["recall minus that of BPR", "recall minus that of BPR without bias"]
        name = kind.replace(",", "").replace(" ", "_")
        where = "the plane" if setting.is_plane else f"{LATENT} dimensions"
        caption = f"Points in {where}, {setting.liked} interactions per user, {setting.dim}-dimensional vectors."
        report.table(name, header, table, caption)
    methods = list(FEW_GRIDS)
    for measure, title in (("recall", "Recall@20"), ("neighbors", "True neighbors of items")):
        table = []
        for kind in kinds:
            setting = SETTINGS[kind]
            cells = ["plane" if setting.is_plane else f"{LATENT} dimensions", setting.liked, setting.dim]
            cells += [f"{np.mean(_values(found[kind, method], measure)):.3f}" for method in methods]
            cells += [_difference(found, kind, "cml_logistic", other, measure) for other in methods[:-1]]
            table.append(cells)
        header = ["points in", "interactions per user", "dimensions of vectors", *(NAMES[name] for name in methods)]
        header += [f"logistic loss minus {NAMES[name]}" for name in methods[:-1]]
        report.table(f"summary_{measure}", header, table, f"{title} in each setting, means of the seeds.")
    table = [
        [NAMES[method], *(mean_and_deviation(_values(rows, name), ddof=1) for name in ("recall", "ndcg", "validation"))]
        for method, rows in cold.items()
    ]
    header = ["method", "recall@5", "NDCG@5", "recall@5 at random"]
    report.table("cold_items", header, table, "CML with an encoder, on items without interactions.")


if __name__ == "__main__":
    command(collaborative)
