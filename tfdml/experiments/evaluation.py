"""Judging a trained embedder on any data."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import keras
import tensorflow as tf

from tfdml import data
from tfdml.experiments import assembly
from tfdml.experiments.drawing import draw_evaluation
from tfdml.experiments.errors import InputError, RunFolderError, input_errors
from tfdml.experiments.recipe import DataConfig, EvaluationConfig
from tfdml.experiments.run_folder import RunFolder, check_is_free, new_dated_folder, new_folder, write_json
from tfdml.export import load_saved_model
from tfdml.metrics import retrieval_metrics
from tfdml.models import embed

SPLITS = ("all", "train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives.

    Attributes:
        folder: Where its files are.
        metrics: Retrieval metrics.
        data: Name of the data set.
        split: Which classes of it.
        images, classes: How many there were.
    """

    folder: pathlib.Path
    metrics: dict
    data: str
    split: str
    images: int
    classes: int


def judge(embedder, batches, ks=(1, 2, 4, 8)):
    """Embeds pictures and compares each with all others.

    Args:
        embedder: A model from images to embeddings.
        batches: A finite `tf.data.Dataset` of (images, labels).
        ks: The k of recall@k.

    Returns:
        The embeddings `(n, d)`, their labels `(n,)` and the retrieval metrics.
    """
    embeddings, labels = embed(embedder, batches)
    return embeddings, labels, retrieval_metrics(embeddings, labels, ks=ks)


def evaluate(
    path,
    data_name=None,
    data_options=None,
    *,
    split=None,
    splitting=None,
    out=None,
    pictures=True,
):
    """Judges a run or a SavedModel and leaves a folder with `metrics.json` and pictures.

    Args:
        path: A run's folder, or a SavedModel that this package exported.
        data_name: A data set of the registry, or a folder of pictures; by default the run's own.
        data_options: What the data set takes.
        split: `"all"`, `"train"`, `"validation"` or `"test"` classes; by default test for the run's own data,
            else all.
        splitting: Changes of the class shares: `validation_classes`, `test_classes`, `split_seed`; by default
            the run's, else those of `DataConfig`.
        out: The folder, which must not exist; by default a new one in the run's folder `evaluations`, or, for
            a SavedModel, in `evaluations` where the program runs.
        pictures: Whether pictures are drawn.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If the path is neither a run nor a SavedModel, the run has no weights yet, the data cannot
            be had, or the folder exists.
    """
    check_is_free(out)
    split = split or ("test" if data_name is None else "all")
    if split not in SPLITS:
        raise ValueError(f"Unknown split. Received: split={split!r}; expected one of {SPLITS}.")
    path = pathlib.Path(path).expanduser()
    with input_errors():
        open_model = _open_saved_model if (path / "saved_model.pb").is_file() else _open_run
        recipe, preprocessing, embedder, keras_embedder = open_model(path)
        images = _load(recipe, data_name, data_options or {}, split, splitting or {})
    config = recipe.evaluation if recipe is not None else EvaluationConfig()
    if keras_embedder is None:
        # A SavedModel does the preprocessing itself.
        batches = _raw_batches(images, config.batch_size)
    else:
        batches = data.evaluation_batches(images, config.batch_size, preprocessing)
    embeddings, labels, metrics = judge(embedder, batches, ks=config.recall_at)
    name = f"{images.name or 'data'}-{split}"
    if out is not None:
        folder = new_folder(out)
    else:
        folder = new_dated_folder(path / "evaluations" if recipe is not None else "evaluations", name)
    if pictures:
        draw_evaluation(
            folder / "pictures", images, preprocessing, embeddings, labels, config,
            seed=recipe.seed if recipe is not None else 0, embedder=keras_embedder,
        )  # fmt: skip
    facts = {
        "data": images.name or str(data_name),
        "split": split,
        "images": len(images),
        "classes": images.num_classes,
    }
    # The model's path as it was given: the file may be read elsewhere.
    write_json(folder / "metrics.json", {"model": str(path), **facts, "metrics": metrics})
    return Evaluation(folder=folder, metrics=metrics, **facts)


def _load(recipe, name, options, split, splitting):
    """The classes of a split of a data set, by default those of the run."""
    config = recipe.data if recipe is not None else DataConfig()
    if name is not None:
        images = _load_any(name, options)
    elif recipe is not None:
        images = data.load(config.name, **{**config.options, **options})
    else:
        raise InputError(
            "A SavedModel does not know its data. Received: no data set; expected one of "
            f"{', '.join(data.dataset_names())}, or a folder of pictures."
        )
    if split == "all":
        return images
    config = dataclasses.replace(config, **splitting)
    splits = data.split_classes(
        images, validation=config.validation_classes, test=config.test_classes, seed=config.split_seed
    )
    return getattr(splits, split)


def _load_any(name, options):
    if name not in data.dataset_names() and (
        os.path.isdir(os.path.expanduser(name)) or os.path.basename(name) != name
    ):
        return data.load("folder", path=name, **options)
    return data.load(name, **options)


def _raw_batches(pictures, batch_size):
    """Batches of (uint8 images or bytes of picture files, labels)."""
    if pictures.holds_paths:
        images = tf.data.Dataset.from_tensor_slices(pictures.images).map(tf.io.read_file)
    else:
        images = tf.data.Dataset.from_tensor_slices(pictures.images)
    labels = tf.data.Dataset.from_tensor_slices(pictures.labels)
    return tf.data.Dataset.zip((images, labels)).batch(batch_size).prefetch(2)


def _open_saved_model(path):
    saved = load_saved_model(path)
    config = saved.metadata["preprocessing"]
    if config is None:
        # Of another preprocessing, which is inside the model, the pictures need only the shape.
        height, width, channels = saved.metadata["input_shape"]
        config = {"size": (height, width), "channels": channels}
    return None, data.Preprocessing.from_config(config), saved, None


def _open_run(path):
    folder = RunFolder.open(path)
    recipe = folder.load_recipe()
    if folder.embedder.is_file():
        embedder = keras.models.load_model(folder.embedder, compile=False)
    elif folder.best_weights.is_file():
        # An interrupted run, or one that ended with a loss that is no number.
        embedder = assembly.restore_embedder(recipe, folder.best_weights)
    else:
        raise RunFolderError(f"{folder.path} has no weights yet: no validation was reached.")
    return recipe, assembly.make_preprocessing(recipe.data), embedder, embedder
