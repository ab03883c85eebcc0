"""Judging a trained embedder on any data."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdml import data
from tfdml._utils.arguments import check_choice
from tfdml._utils.foreign_graphs import check_saved_model, load_keras_file
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.plain_files import write_json
from tfdml.data.datasets.features import FEATURES
from tfdml.experiments import builders, plugins
from tfdml.experiments.errors import RunFolderError, line_of
from tfdml.experiments.figures import draw_evaluation
from tfdml.experiments.recipe import DataConfig, EvaluationConfig, Recipe
from tfdml.experiments.run_folder import RunFolder, check_is_free, new_dated_folder, new_folder
from tfdml.export.saved_model import SavedEmbedder, load_saved_model
from tfdml.metrics import query_gallery_metrics
from tfdml.metrics.approximate import import_faiss
from tfdml.metrics.retrieval import SEARCHES
from tfdml.models import embed

_logger = logging.getLogger(__name__)

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


def evaluate_embedder(embedder, batches, ks=(1, 2, 4, 8), is_query=None, search="exact"):
    """Embeds images and compares each with all others, or the queries with the gallery.

    Args:
        embedder: A model from images to embeddings.
        batches: A finite `tf.data.Dataset` of (images, labels).
        ks: The k of recall@k.
        is_query: Whether each image is a query or in the gallery, `(n,)` bools; `None` for both.
        search: `"exact"` or `"faiss"`.

    Returns:
        The embeddings `(n, d)`, their labels `(n,)` and the retrieval metrics.
    """
    embeddings, labels = embed(embedder, batches)
    return embeddings, labels, ensemble_metrics([embeddings], labels, is_query, ks, search)


def ensemble_metrics(embeddings, labels, is_query=None, ks=(1, 2, 4, 8), search="exact"):
    """Retrieval metrics of the embeddings of several networks side by side, so that squared distances add up."""
    return query_gallery_metrics(np.concatenate(embeddings, axis=1), labels, is_query, ks, search)


def evaluate(
    path,
    data_name=None,
    data_options=None,
    *,
    split=None,
    splitting=None,
    out=None,
    figures=True,
    search=None,
    trust=False,
):
    """Judges a run or a SavedModel, or several of them as one, and leaves a folder with `metrics.json` and figures.

    Several are an ensemble: their embeddings are laid side by side, as the fair protocol does with the models of its
    folds, so that squared distances add up.

    Args:
        path: A run's folder, or a SavedModel that this package exported; or a list of these, for an ensemble.
        data_name: A data set of the registry, or a folder of images; by default the (first) run's own.
        data_options: What the data set takes.
        split: `"all"`, `"train"`, `"validation"` or `"test"` classes; by default test for the run's own data,
            else all.
        splitting: Changes of how classes are split: `validation_classes`, `test_classes`, `split_seed`, `fold` or
            `folds`; by default the run's, else those of `DataConfig`.
        out: The folder, which must not exist; by default a new one in the run's folder `evaluations`, or, for
            a SavedModel or an ensemble, in `evaluations` where the program runs.
        figures: Whether to draw figures.
        search: `"exact"`, or `"faiss"` for an approximate search that tells its recall; by default the (first) run's.
        trust: Whether a SavedModel may have operations that reach files, processes or Python, and modules that a run's
            recipe names are imported. Otherwise nothing in a run's folder is executed.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If a path is neither a run nor a SavedModel, a run has no weights yet, the data cannot
            be had, runs of an ensemble keep other classes for the test, or the folder exists, or
            Faiss is asked for and not installed.
    """
    check_is_free(out)
    split = split or ("test" if data_name is None else "all")
    if split not in SPLITS:
        raise ValueError(f"Unknown split. Received: split={split!r}; expected one of {SPLITS}.")
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise ValueError("There is nothing to evaluate. Received: no run and no SavedModel.")
    with input_errors():
        models = [open_network(pathlib.Path(one).expanduser(), trust) for one in paths]
        recipe = models[0].recipe
        _check_same_classes(models, paths, split)
        images = _load(recipe, data_name, data_options or {}, split, splitting or {})
    config = recipe.evaluation if recipe is not None else EvaluationConfig()
    search = check_search(search or config.search)
    try:
        embedded = [embed(model.embedder, model.batches(images, config.batch_size)) for model in models]
    except tf.errors.OpError as error:
        raise InputError(f"Not every image goes through the network: {line_of(error)}") from error
    embeddings, labels = [embeddings for embeddings, _ in embedded], embedded[0][1]
    metrics = ensemble_metrics(embeddings, labels, images.is_query, config.recall_at, search)
    name = f"{images.name or 'data'}-{split}" + ("-ensemble" if len(models) > 1 else "")
    if out is not None:
        folder = new_folder(out)
    else:
        # Of a run they are kept with it.
        run = None if recipe is None or len(models) > 1 else RunFolder(paths[0])
        folder = new_dated_folder("evaluations" if run is None else run.evaluations, name)
    if figures:
        # The pooling of an ensemble is that of each of its networks.
        draw_evaluation(
            folder / "figures", images, models[0].preprocessing, np.concatenate(embeddings, axis=1), labels, config,
            seed=recipe.seed if recipe is not None else 0,
            embedder=None if len(models) > 1 or models[0].is_saved_model else models[0].embedder,
        )  # fmt: skip
    name = images.name or str(data_name)
    facts = {"data": name, "split": split, "images": len(images), "classes": images.num_classes}
    # The paths as they were given: the file may be read elsewhere.
    given = {"model": str(paths[0])} if len(paths) == 1 else {"ensemble": [str(one) for one in paths]}
    write_json(folder / "metrics.json", {**given, **facts, "metrics": metrics})
    return Evaluation(folder=folder, metrics=metrics, **facts)


def check_search(search):
    """Gives the search if it is there to be used, before images are embedded for it; else raises an InputError."""
    try:
        if check_choice("search", search, SEARCHES) == "faiss":
            import_faiss()
    except (ImportError, ValueError) as error:
        raise InputError(str(error)) from error
    return search


class OpenedNetwork(NamedTuple):
    """A network that was read.

    Attributes:
        embedder: A Keras model, or a `SavedEmbedder`, which does the preprocessing itself.
        preprocessing: How images come in; `None` for a head, which takes features of `feature_size` numbers.
        recipe: The recipe of a run.
    """

    embedder: object
    preprocessing: data.Preprocessing | None
    feature_size: int | None = None
    recipe: Recipe | None = None

    @property
    def is_saved_model(self):
        return isinstance(self.embedder, SavedEmbedder)

    def batches(self, images, batch_size):
        """Batches of a dataset, as the network takes them."""
        if getattr(images, "feature_size", None) != self.feature_size:
            takes = "images" if self.feature_size is None else f"features of {self.feature_size} numbers"
            raise InputError(f"The network takes {takes}. Received: {images!r}.")
        if self.is_saved_model and self.feature_size is None:
            return self.embedder.batches(images, batch_size)
        return data.evaluation_batches(images, batch_size, self.preprocessing)


def open_network(path, trust=False):
    """Reads a run's folder or a SavedModel of this package, as an `OpenedNetwork`; `trust` is that of `evaluate`."""
    if not (path / "saved_model.pb").is_file():
        folder = RunFolder.open(path)
        with plugins.trusting(trust):
            recipe = folder.load_recipe()
        preprocessing = builders.make_preprocessing(recipe.data)
        return OpenedNetwork(_read_embedder(folder, recipe), preprocessing, recipe.model.head.input_size, recipe)
    check_saved_model(path, trust)
    try:
        # The line above has checked it.
        saved = load_saved_model(path, trust=True)
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise InputError(f"The SavedModel cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return OpenedNetwork(saved, saved.preprocessing, saved.metadata["input_shape"][0] if saved.takes_features else None)


def _check_same_classes(models, paths, split):
    """Raises an InputError if runs of an ensemble do not agree on what they were not trained with."""
    if split == "all":
        return
    kept = ("name", "options", "test_classes", "split_seed") + (("fold", "folds") if split != "test" else ())
    runs = [(path, model.recipe.data) for path, model in zip(paths, models) if model.recipe is not None]
    for path, config in runs[1:]:
        differing = [key for key in kept if getattr(config, key) != getattr(runs[0][1], key)]
        # A seed that shuffles the training classes alone leaves the test classes what they are.
        if split == "test" and config.test_classes == "published":
            differing = [key for key in differing if key != "split_seed"]
        if differing:
            key = differing[0]
            raise InputError(
                f"Networks of an ensemble must have the same {split} classes. Received: {path} with data.{key}="
                f"{getattr(config, key)!r}, and {runs[0][0]} with {getattr(runs[0][1], key)!r}."
            )


def _load(recipe, name, options, split, splitting):
    """The classes of a split of a data set, by default those of the run."""
    config = recipe.data if recipe is not None else DataConfig()
    if name is not None:
        images = load_dataset(name, options)
    elif recipe is not None:
        images = data.load(config.name, **{**config.options, **options})
    else:
        raise InputError(
            "A SavedModel does not know its data. Received: no data set; expected one of "
            f"{', '.join(data.names())}, or a folder of images."
        )
    if split == "all":
        return images
    if "validation_classes" in splitting:
        # Which takes the place of the run's fold.
        splitting = {"fold": None, **splitting}
    return getattr(builders.split(dataclasses.replace(config, **splitting), images), split)


def load_dataset(name, options):
    """Loads a data set by its name, or a folder of images or of features by its path."""
    if name not in data.names() and name.lower().endswith(".csv"):
        return data.get("csv", path=name, **options)
    if name not in data.names() and (
        os.path.isdir(os.path.expanduser(name)) or os.path.basename(name) != name
    ):
        is_of_features = os.path.isfile(os.path.join(os.path.expanduser(name), FEATURES))
        return data.load("features" if is_of_features else "folder", path=name, **options)
    return data.load(name, **options)


def _read_embedder(folder, recipe):
    """The network of a run: its recipe makes it, under either line of Keras, and the file of the weights fills it.

    Without that file, it is what `embedder.keras` holds.
    """
    has_validated = folder.history.is_file() or folder.test_metrics.is_file() or folder.embedder.is_file()
    if folder.best_weights.is_file() and has_validated:
        try:
            return builders.restore_embedder(recipe, folder.best_weights)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if not folder.embedder.is_file():
                reason = " ".join(str(error).split())[:300]
                raise RunFolderError(
                    f"The weights of the run cannot be read: {reason}. Received: {folder.best_weights}."
                ) from error
            _logger.warning("%s cannot be read; embedder.keras is taken for it.", folder.best_weights)
    if folder.embedder.is_file():
        return load_keras_file(folder.embedder)
    raise RunFolderError(f"{folder.path} has no weights yet: no validation was reached.")
