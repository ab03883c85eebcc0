"""Compare exported files of trained embedders: size, numbers, neighbors, retrieval and time.

Each run of tfdml-train is exported to TFLite (float32, float16, int8 weights, int8) and ONNX. The images are those of
the run's test classes; int8 measures the ranges of activations on images of its training classes. "difference" is the
largest difference between values of embeddings of the file and of the embedder, "recall" the share of the 10 nearest
neighbors that both have in common, "P@1" and "MAP@R" the retrieval of the file's embeddings.

    python benchmarks/exports.py RUN [RUN ...]
    python benchmarks/exports.py RUN --images 500 --representative 100
"""

import argparse
import os
import pathlib
import sys
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfdml import export, metrics  # noqa: E402
from tfdml.data import evaluation_batches  # noqa: E402
from tfdml.experiments import builders  # noqa: E402
from tfdml.experiments.evaluation import open_network  # noqa: E402
from tfdml.export import portable  # noqa: E402

TFLITE = (None, "float16", "int8-weights", "int8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run of tfdml-train")
    parser.add_argument("--images", type=int, default=2000, help="images of test classes (default: %(default)s)")
    parser.add_argument(
        "--representative", type=int, default=100, help="images of training classes for int8 (default: %(default)s)"
    )
    options = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {len(os.sched_getaffinity(0))} cores")
    for run in options.runs:
        measure(pathlib.Path(run), options)


def measure(run, options):
    network = open_network(run)
    embedder, recipe = network.embedder, network.recipe
    splits = builders.load_data(recipe)
    images, labels = read(splits.test, network.preprocessing, options.images)
    representative, _ = read(splits.train, network.preprocessing, options.representative)
    print(
        f"\n{recipe.model.backbone}, {recipe.model.pooling}, {recipe.data.name} {recipe.data.size}x{recipe.data.size}: "
        f"{len(images)} images of {len(np.unique(labels))} test classes"
    )
    print(f"{'file':22s} {'MB':>6s} {'difference':>10s} {'recall':>7s} {'P@1':>7s} {'MAP@R':>7s}")
    embedded = np.concatenate([np.asarray(embedder(part, training=False)) for part in parts(images)])
    line("embedder", None, None, None, metrics.retrieval_metrics(embedded, labels))
    with tempfile.TemporaryDirectory() as folder:
        for quantization in TFLITE:
            name, path = f"TFLite {quantization or 'float32'}", pathlib.Path(folder, f"{quantization}.tflite")
            more = {"representative_images": representative} if quantization == "int8" else {}
            try:
                report = export.export_tflite(embedder, path, quantization, images=images, **more)
            except ValueError as error:
                print(f"{name:22s} {str(error).split('.')[0]}")
                continue
            embed = portable._run_tflite(portable._tflite_interpreter(), path.read_bytes())
            show(name, report, embed, images, labels)
        try:
            report = export.export_onnx(embedder, pathlib.Path(folder, "model.onnx"), images=images)
        except ImportError as error:
            print(f"{'ONNX float32':22s} {error}")
            return
        show("ONNX float32", report, onnx_session(report.path), images, labels)


def read(dataset, preprocessing, count):
    """Images in 0–1 of whole classes, at least `count` of them, and their labels."""
    order = np.random.default_rng(0).permutation(dataset.num_classes)
    enough = 1 + int(np.searchsorted(np.cumsum(dataset.class_counts[order]), count))
    some = dataset.subset(order[:enough])
    batches = list(evaluation_batches(some, 64, preprocessing))
    return np.concatenate([batch for batch, _ in batches]), np.concatenate([labels for _, labels in batches])


def parts(images):
    return [images[start : start + 64] for start in range(0, len(images), 64)]


def onnx_session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {session.get_inputs()[0].name: batch})[0]


def show(name, report, embed, images, labels):
    embedded = np.concatenate([np.array(embed(part)) for part in parts(images)])
    line(
        name,
        report.file_bytes / 1e6,
        report.largest_difference,
        report.neighbor_recall,
        metrics.retrieval_metrics(embedded, labels),
    )


def line(name, megabytes, difference, recall, retrieval):
    def text(value, form):
        return "" if value is None else format(value, form)

    print(
        f"{name:22s} {text(megabytes, '.2f'):>6s} {text(difference, '.1e'):>10s} {text(recall, '.3f'):>7s} "
        f"{retrieval['precision_at_1']:7.3f} {retrieval['map_at_r']:7.3f}",
        flush=True,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*LiteRT")
    main()
