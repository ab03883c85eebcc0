"""How far do heads on frozen features improve text retrieval? Compared with BM25 and a tower trained from scratch.

The features come from `python -m studies.text_corpus`.

python -m studies.text_retrieval --out DIR --data CORPUS
"""

import csv
import pathlib
import re
import zlib
from typing import Optional

import keras
import numpy as np

from studies import text_corpus
from studies.report import Report, command, mean_and_deviation
from tfdml import metrics, models
from tfdml.data import mine_hard_negatives, query_item_batches
from tfdml.layers import L2Normalization

RESULTS = pathlib.Path(__file__).parent / "results"
METHODS = ("bm25", "ngrams", "base", "in_batch", "hard")
TRAINED = ("ngrams", "in_batch", "hard")
LEARNING_RATES = {"ngrams": (1e-3, 3e-3), "in_batch": (1e-4, 3e-4, 1e-3), "hard": (1e-4, 3e-4, 1e-3)}
EPOCHS = {"ngrams": 8, "in_batch": 10, "hard": 10}
MEASURES = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
COLUMNS = ("method", "learning_rate", "seed", "validation_ndcg_at_10", *(f"test_{name}" for name in MEASURES))
BUCKETS, LENGTH = 2**15, 192
_BATCH_SIZE, _TEMPERATURE = 256, 0.05
# The nearest passages of a query that are clearly less similar than its own.
_MINING = {"count": 4, "rank_range": (0, 50), "relative_margin": 0.05, "sampling": "random"}


def text_retrieval(
    out: str,
    data: str,
    methods: list[str] = METHODS,
    seeds: list[int] = (0, 1, 2),
    epochs: Optional[int] = None,
    results: Optional[str] = None,
):
    """Let example sentences find the definition of the word that they show, among all definitions.

    Queries of the test and of the validation belong to passages that have no query in training. All passages are
    searched. Learning rates are chosen by NDCG@10 on the validation queries with the first seed. A stopped study
    resumes.

    Args:
        out: Folder for tables and finished runs.
        data: Folder that `studies.text_corpus` has written.
        methods: `bm25`, `ngrams` (a tower from scratch), `base` (the features), `in_batch` and `hard` (heads).
        seeds: Seeds of training.
        epochs: Epochs of every trained method; by default those of `EPOCHS`.
        results: Folder for the CSV files of the results; by default that of the repository.

    Returns:
        dict from the method to its runs, dicts with the learning rate, the seed, the validation NDCG@10 and, for each
        of `MEASURES`, the values of the test queries.
    """
    out, results = pathlib.Path(out).expanduser(), pathlib.Path(results or RESULTS).expanduser()
    corpus, passages, queries = text_corpus.read(data)
    study = _Study(corpus, passages, queries, out / "runs", epochs)
    found = {}
    for method in methods:
        if method not in TRAINED:
            found[method] = [study.run(method, None, None)]
            continue
        search = [study.run(method, rate, seeds[0]) for rate in LEARNING_RATES[method]]
        best = max(search, key=lambda run: run["validation"])
        found[method] = [best, *(study.run(method, best["learning_rate"], seed) for seed in seeds[1:])]
    _report(Report(out), results, found)
    return found


class _Study:
    def __init__(self, corpus, passages, queries, folder, epochs):
        self.corpus, self.passages, self.queries = corpus, passages, queries
        self.folder, self.epochs = folder, epochs
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, method, learning_rate, seed):
        """Return one run, trained unless its file is there."""
        length = "" if self.epochs is None or method not in TRAINED else f"-{self.epochs}"
        path = self.folder / f"{method}-{learning_rate}-{seed}{length}.npz"
        if not path.exists():
            values = self._values(method, learning_rate, seed)
            np.savez(path, **values)
            print(f"{method} {learning_rate} seed {seed}: {values['ndcg_at_10'].mean():.4f}", flush=True)
        with np.load(path) as stored:
            values = {name: stored[name] for name in stored.files}
        return {"method": method, "learning_rate": learning_rate, "seed": seed, **values,
                "validation": float(values["validation"])}  # fmt: skip

    def _values(self, method, learning_rate, seed):
        if method == "bm25":
            return self._of_bm25()
        if method == "base":
            return self._of_embeddings(self.passages, lambda rows: self.queries[rows])
        keras.utils.set_random_seed(seed)
        inputs = ngram_ids if method == "ngrams" else None
        of_passages = inputs(self.corpus.passages) if inputs else self.passages
        of_queries = inputs(self.corpus.queries) if inputs else self.queries
        rows = self.corpus.splits["train"]
        # Training knows the passages of its own queries only.
        known, relevant = np.unique(self.corpus.relevant[rows], return_inverse=True)
        negatives = None
        if method == "hard":
            negatives = mine_hard_negatives(self.queries[rows], self.passages[known], relevant, seed=seed, **_MINING)
            print("skipped in mining:", negatives.skipped, flush=True)
        batches = query_item_batches(
            of_queries[rows], of_passages[known], relevant, negatives, batch_size=_BATCH_SIZE, seed=seed
        )
        towers = [ngram_tower()] if method == "ngrams" else [head(self.passages.shape[1]) for _ in range(2)]
        model = models.DualEncoder(*towers, temperature=_TEMPERATURE)
        model.compile(keras.optimizers.Adam(learning_rate))
        model.fit(batches, epochs=self.epochs or EPOCHS[method], verbose=0)
        return self._of_embeddings(model.embed_items(of_passages), lambda rows: model.embed_queries(of_queries[rows]))

    def _of_embeddings(self, passages, queries_of):
        test, validation = (
            metrics.ranking_metrics(queries_of(rows), passages, self.corpus.relevant[rows], ks=(10,), average=False)
            for rows in (self.corpus.splits[name] for name in ("test", "validation"))
        )
        return {"validation": validation["ndcg_at_10"].mean(), **{name: test[name] for name in MEASURES}}

    def _of_bm25(self):
        # It has nothing to choose on the validation queries.
        rows = self.corpus.splits["test"]
        rankings = bm25_rankings(self.corpus.passages, [self.corpus.queries[row] for row in rows])
        found = metrics.ranked_list_metrics(rankings, self.corpus.relevant[rows], ks=(10,), average=False)
        return {"validation": np.nan, **{name: found[name] for name in MEASURES}}


def words_of(text):
    """Split a text into words in lower case.

    Example:
        >>> words_of("Don't stop, 2 of us!")
        ["don't", 'stop', '2', 'of', 'us']
    """
    return re.findall(r"\w+(?:'\w+)?", text.lower())


def bm25_rankings(passages, queries, depth=10):
    """Return the `depth` best passages of each query by BM25, best first."""
    import rank_bm25

    index = rank_bm25.BM25Okapi([words_of(passage) for passage in passages])
    return [np.argsort(-index.get_scores(words_of(query)), kind="stable")[:depth] for query in queries]


def ngram_ids(texts):
    """Hash the words and the character n-grams (3 to 5) of texts.

    Args:
        texts: list of str.

    Returns:
        int32 array `(texts, LENGTH)`, 0 behind the last n-gram.
    """
    ids = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in enumerate(texts):
        grams = []
        for word in words_of(text):
            marked = f"<{word}>"
            grams.append(word)
            grams += [marked[at : at + size] for size in (3, 4, 5) for at in range(len(marked) - size + 1)]
        found = [1 + zlib.crc32(gram.encode()) % (BUCKETS - 1) for gram in grams[:LENGTH]]
        ids[row, : len(found)] = found
    return ids


def ngram_tower(size=128):
    """An encoder without pretraining: the mean of the vectors of hashed n-grams, and a dense layer."""
    inputs = keras.Input((LENGTH,), dtype="int32", name="ngrams")
    vectors = keras.layers.Embedding(BUCKETS, size, mask_zero=True)(inputs)
    mean = keras.layers.GlobalAveragePooling1D()(vectors)
    return keras.Model(inputs, L2Normalization()(keras.layers.Dense(size, use_bias=False)(mean)))


def head(size):
    """A linear head that starts as the identity, so that training starts from the base embedding."""
    inputs = keras.Input((size,), name="features")
    outputs = keras.layers.Dense(size, use_bias=False, kernel_initializer="identity", name="embedding")(inputs)
    return keras.Model(inputs, L2Normalization()(outputs))


def bootstrap_interval(differences, resamples=10_000, confidence=0.95, seed=0):
    """Return the mean of paired differences and its percentile interval over resampled queries.

    Args:
        differences: float array `(queries,)`.
        resamples: int.
        confidence: float.
        seed: int.

    Example:
        >>> bootstrap_interval(np.ones(5))
        (1.0, 1.0, 1.0)
    """
    rng, count = np.random.default_rng(seed), len(differences)
    means = [differences[rng.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(differences.mean()), float(low), float(high)


def _report(report, results, found):
    rows, runs, intervals = [], [], []
    for method, of_method in found.items():
        values = {name: np.mean([run[name] for run in of_method], axis=0) for name in MEASURES}
        cells = [method, "–" if of_method[0]["learning_rate"] is None else f"{of_method[0]['learning_rate']:g}"]
        cells += [mean_and_deviation([run[name].mean() for run in of_method], ddof=1) for name in MEASURES]
        for baseline in ("base", "in_batch"):
            if method == baseline or baseline not in found:
                cells.append("")
                continue
            for name in MEASURES:
                # A query has one difference, that of its means over the seeds.
                of_baseline = np.mean([run[name] for run in found[baseline]], axis=0)
                intervals.append([method, baseline, name, *bootstrap_interval(values[name] - of_baseline)])
            mean, low, high = next(row[3:] for row in intervals if row[:3] == [method, baseline, "ndcg_at_10"])
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−"))
        rows.append(cells)
        runs += [
            [method, run["learning_rate"], run["seed"], round(run["validation"], 5),
             *(round(float(run[name].mean()), 5) for name in MEASURES)]
            for run in of_method
        ]  # fmt: skip
    report.table(
        "text_retrieval",
        ["method", "learning rate", "NDCG@10", "MRR@10", "recall@10", "NDCG@10 − base", "NDCG@10 − in-batch"],
        rows,
        "Test queries: mean ± standard deviation over the seeds; paired differences with 95 % bootstrap intervals over "
        "queries.",
    )
    results.mkdir(parents=True, exist_ok=True)
    _write(results / "text_retrieval.csv", COLUMNS, runs)
    _write(
        results / "text_retrieval_differences.csv", ("method", "baseline", "measure", "difference", "low", "high"),
        [[*row[:3], *(round(value, 5) for value in row[3:])] for row in intervals],
    )  # fmt: skip


def _write(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    command(text_retrieval)
