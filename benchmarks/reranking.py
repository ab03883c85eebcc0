"""Measure how re-ranking changes retrieval metrics, and its time per query, on frozen features.

python benchmarks/reranking.py                    # scikit-learn's digits, pixels as features
tfdml-extract efficientnet_lite0 --backbone_options.weights imagenet --data emoji --size 96 --out features/emoji
python benchmarks/reranking.py features/emoji --limit 300   # a folder with features.npy and labels.npy

Features are normalized. The options of each method are those with the best MAP@R on the first half of the classes; the
table shows the second half, where each sample is a query and all others are its references.
"""

import argparse
import itertools
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from tfdml.gallery import expand_queries, k_reciprocal_distances  # noqa: E402
from tfdml.metrics import retrieval_metrics, retrieval_metrics_from_distances  # noqa: E402

GRIDS = {
    "none": [{}],
    "average query expansion": [{"neighbors": k, "alpha": 0.0} for k in (1, 2, 5)],
    "alpha query expansion": [{"neighbors": k, "alpha": a} for k, a in itertools.product((1, 2, 5, 10), (3.0, 10.0))],
    "k-reciprocal": [{"k1": k1, "k2": k2} for k1, k2 in itertools.product((4, 8, 20), (1, 3))],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="?", help="folder with features.npy and labels.npy (default: digits)")
    parser.add_argument("--limit", type=int, help="use only this number of classes of each half")
    options = parser.parse_args()

    features, labels = read(options.features)
    classes = np.unique(labels)
    half = len(classes) // 2
    tuning, testing = (some[: options.limit] for some in (classes[:half], classes[half:]))
    tuning, testing = (np.isin(labels, some) for some in (tuning, testing))
    print(f"{testing.sum()} samples x {features.shape[1]}, {len(np.unique(labels[testing]))} classes; "
          f"options chosen on {tuning.sum()} samples of {len(np.unique(labels[tuning]))} other classes")  # fmt: skip
    print(f"{'method':<26}{'MAP@R':>8}{'P@1':>8}{'ms/query':>10}  options")
    for method, grid in GRIDS.items():
        scores = [score(method, features[tuning], labels[tuning], choice)["map_at_r"] for choice in grid]
        best = grid[int(np.argmax(scores))]
        start = time.perf_counter()
        found = score(method, features[testing], labels[testing], best)
        milliseconds = 1e3 * (time.perf_counter() - start) / testing.sum()
        text = ", ".join(f"{name}={value}" for name, value in best.items())
        print(f"{method:<26}{found['map_at_r']:>8.4f}{found['precision_at_1']:>8.4f}{milliseconds:>10.2f}  {text}")


def read(folder):
    """Return normalized features and labels."""
    if folder is None:
        features, labels = load_digits(return_X_y=True)
    else:
        features, labels = (np.load(pathlib.Path(folder) / f"{name}.npy") for name in ("features", "labels"))
    features = features.astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def score(method, features, labels, options):
    """Return the metrics of all samples, each searched among the others."""
    if method == "none":
        return retrieval_metrics(features, labels)
    if method == "k-reciprocal":
        return retrieval_metrics_from_distances(k_reciprocal_distances(features, **options), labels)
    # An expanded query is not among the references, so it is excluded as a group of its own.
    own = np.arange(len(labels))
    expanded = expand_queries(features, **options)
    return retrieval_metrics(expanded, labels, features, labels, exclude=(own, own), exclude_rule="group")


if __name__ == "__main__":
    main()
