"""Evaluation of a trained embedder on any data."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from tfdml import data
from tfdml._utils.arguments import check_choice
from tfdml._utils.foreign_graphs import check_saved_model, load_keras_file
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.plain_files import write_json
from tfdml._utils.types import PathLike
from tfdml.data.datasets.features import FEATURES
from tfdml.data.parquet_files import holds_parquet
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
from tfdml.relations import Relation

_logger = logging.getLogger(__name__)

SPLITS = ("all", "train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        folder: path. Folder of its files.
        metrics: dict. Retrieval metrics.
        data: str. Name of the dataset.
        split: str. Which of its classes were evaluated.
        images: int. Number of images.
        classes: int. Number of classes.
    """

    folder: pathlib.Path
    metrics: dict[str, Any]
    data: str
    split: str
    images: int
    classes: int


def evaluate_embedder(
    embedder: Any,
    batches: tf.data.Dataset,
    ks: Sequence[int] = (1, 2, 4, 8),
    is_query: np.ndarray | None = None,
    search: Literal["exact", "faiss"] = "exact",
    relation: Relation | None = None,
    annotations: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Embed images and compute retrieval metrics.

    Args:
        embedder: Keras model or function from images to embeddings.
        batches: finite `tf.data.Dataset` of (images, labels).
        ks: sequence of int. The k of recall@k. Default: (1, 2, 4, 8).
        is_query: bool array (n,). Which images are queries; the others are the gallery. Default: None, each image is
            compared with all others.
        search: `"exact"` or `"faiss"`. Default: `"exact"`.
        relation: `Relation` of `annotations`, or None for classes. Default: None.
        annotations: array (n,) or (n, k). What the relation compares. Default: None.

    Returns:
        The embeddings (n, d), their labels (n,) and the metrics.

    Example:
        >>> images = tf.data.Dataset.from_tensor_slices(([[1.0], [1.1], [5.0]], [0, 0, 1])).batch(3)
        >>> _, labels, metrics = evaluate_embedder(lambda images, training: images, images)
        >>> labels, round(float(metrics["precision_at_1"]), 2)
        (array([0, 0, 1], dtype=int32), 1.0)
    """
    embeddings, labels = embed(embedder, batches)
    compared = labels if relation is None else annotations
    return embeddings, labels, ensemble_metrics([embeddings], compared, is_query, ks, search, relation)


def ensemble_metrics(
    embeddings: Sequence[np.ndarray],
    labels: Any,
    is_query: np.ndarray | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    search: Literal["exact", "faiss"] = "exact",
    relation: Relation | None = None,
) -> dict[str, Any]:
    """Return retrieval metrics of the concatenated embeddings of several networks, whose squared distances add up.

    Labels are classes, or what the relation compares.
    """
    return query_gallery_metrics(np.concatenate(embeddings, axis=1), labels, is_query, ks, search, relation=relation)


def evaluate(
    path: PathLike | Sequence[PathLike],
    data_name: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    *,
    split: Literal["all", "train", "validation", "test"] | None = None,
    splitting: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    figures: bool = True,
    search: Literal["exact", "faiss"] | None = None,
    trust: bool = False,
) -> Evaluation:
    """Evaluate a run, a SavedModel, or an ensemble, and write `metrics.json` and figures.

    The embeddings of an ensemble are concatenated, as in the fair protocol, so that squared distances add up. If the
    recipe of the (first) run has a relation and the data have annotations, the relation decides which images are
    relevant; otherwise classes do.

    Args:
        path: path, or list of paths for an ensemble. Folders of runs or of SavedModels that this package exported.
        data_name: str. Dataset name, folder of images or features, or CSV file. Default: the data of the (first) run.
        data_options: mapping. Options of the dataset.
        split: `"all"`, `"train"`, `"validation"` or `"test"` classes. Default: `"test"` for the run's own data, else
            `"all"`.
        splitting: mapping. Other values of `validation_classes`, `test_classes`, `split_seed`, `fold` or `folds` of
            `DataConfig`. Default: those of the run.
        out: path. Folder to create, which must not exist. Default: a new one in `evaluations` of the run or, for a
            SavedModel or an ensemble, of the current folder.
        figures: bool. Draw figures. Default: True.
        search: `"exact"`, or `"faiss"` for approximate search that reports its recall. Default: that of the (first)
            run.
        trust: bool. Import the modules that a run's recipe names, and accept SavedModels with operations that access
            files, processes or Python. Default: False, which executes no code from the folders.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: If a path is neither a run nor a SavedModel, a run has no weights yet, the data cannot be loaded,
            runs of an ensemble have different test classes, the folder exists, or Faiss is not installed.

    Example:
        >>> result = evaluate("runs/mine", "digits", split="all")  # doctest: +SKIP
        >>> result.metrics["map_at_r"]  # doctest: +SKIP
    """
    check_is_free(out)
    split = split or ("test" if data_name is None else "all")
    if split not in SPLITS:
        raise ValueError(f"Unknown split. Received: split={split!r}. Expected: one of {SPLITS}.")
    paths: list[Any] = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise ValueError("There is nothing to evaluate. Received: an empty list. Expected: runs or SavedModels.")
    with input_errors():
        networks = [open_network(pathlib.Path(one).expanduser(), trust) for one in paths]
        first, recipe = networks[0], networks[0].recipe
        _check_same_classes(networks, paths, split)
        images = _load(recipe, data_name, data_options or {}, split, splitting or {})
        relation = None if recipe is None or images.annotations is None else builders.make_relation(recipe)
        if relation is not None:
            builders.check_annotations(relation, images)
    config = recipe.evaluation if recipe is not None else EvaluationConfig()
    search = check_search(search or config.search)
    if relation is not None and search != "exact":
        raise InputError(
            f"A relation needs the exact search. Received: search={search!r} with {relation!r}. Expected: "
            "search='exact'."
        )
    try:
        embedded = [embed(network.embedder, network.batches(images, config.batch_size)) for network in networks]
    except tf.errors.OpError as error:
        raise InputError(f"Not every image goes through the network: {line_of(error)}") from error
    embeddings, labels = [one for one, _ in embedded], embedded[0][1]
    metrics = ensemble_metrics(
        embeddings, labels if relation is None else images.annotations, images.is_query, config.recall_at, search,
        relation,
    )  # fmt: skip
    is_single, name = len(networks) == 1, images.name or str(data_name)
    if out is not None:
        folder = new_folder(out)
    else:
        parent = RunFolder(paths[0]).evaluations if is_single and recipe is not None else "evaluations"
        folder = new_dated_folder(parent, f"{images.name or 'data'}-{split}" + "-ensemble" * (not is_single))
    if figures:
        draw_evaluation(
            folder / "figures", images, first.preprocessing, np.concatenate(embeddings, axis=1), labels, config,
            seed=recipe.seed if recipe is not None else 0,
            embedder=first.embedder if is_single and not first.is_saved_model else None, relation=relation,
        )  # fmt: skip
    facts = {"data": name, "split": split, "images": len(images), "classes": images.num_classes}
    given = {"model": str(paths[0])} if is_single else {"ensemble": [str(one) for one in paths]}
    write_json(folder / "metrics.json", {**given, **facts, "metrics": metrics})
    return Evaluation(folder=folder, metrics=metrics, **facts)


def check_search(search: Any) -> Any:
    """Return the search, or raise an InputError if it is unknown or not installed."""
    try:
        if check_choice("search", search, SEARCHES) == "faiss":
            import_faiss()
    except (ImportError, ValueError) as error:
        raise InputError(str(error)) from error
    return search


class OpenedNetwork(NamedTuple):
    """A network that was read from disk.

    Attributes:
        embedder: Keras model, or `SavedEmbedder`, which includes the preprocessing.
        preprocessing: Preprocessing of images. None for a head.
        feature_size: int. Size of the features that a head accepts. None for images.
        recipe: Recipe of a run. None for a SavedModel.
    """

    embedder: Any
    preprocessing: data.Preprocessing | None
    feature_size: int | None = None
    recipe: Recipe | None = None

    @property
    def is_saved_model(self) -> bool:
        """Whether it is a SavedModel."""
        return isinstance(self.embedder, SavedEmbedder)

    def batches(self, images: data.LabeledSamples, batch_size: int) -> tf.data.Dataset:
        """Return batches of a dataset as the network accepts them."""
        if getattr(images, "feature_size", None) != self.feature_size:
            expected = "images" if self.feature_size is None else f"features of {self.feature_size} numbers"
            raise InputError(f"The network does not accept these data. Received: {images!r}. Expected: {expected}.")
        if self.is_saved_model and self.feature_size is None:
            return self.embedder.batches(images, batch_size)
        return data.evaluation_batches(images, batch_size, self.preprocessing)


def open_network(path: pathlib.Path, trust: bool = False) -> OpenedNetwork:
    """Read the folder of a run or of a SavedModel of this package. `trust` is as in `evaluate`."""
    if not (path / "saved_model.pb").is_file():
        folder = RunFolder.open(path)
        with plugins.trusting(trust):
            recipe = folder.load_recipe()
        preprocessing = builders.make_preprocessing(recipe.data)
        return OpenedNetwork(_read_embedder(folder, recipe), preprocessing, recipe.model.head.input_size, recipe)
    check_saved_model(path, trust)
    try:
        saved = load_saved_model(path, trust=True)  # It is checked above.
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise InputError(f"The SavedModel cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return OpenedNetwork(saved, saved.preprocessing, saved.metadata["input_shape"][0] if saved.takes_features else None)


def _check_same_classes(networks, paths, split):
    """Raise an InputError if runs of an ensemble do not have the same classes in the split."""
    if split == "all":
        return
    kept = ("name", "options", "test_classes", "split_seed") + (("fold", "folds") if split != "test" else ())
    runs = [(path, network.recipe.data) for path, network in zip(paths, networks) if network.recipe is not None]
    for path, config in runs[1:]:
        differing = [key for key in kept if getattr(config, key) != getattr(runs[0][1], key)]
        # A seed that shuffles only the training classes does not change the test classes.
        if split == "test" and config.test_classes == "published":
            differing = [key for key in differing if key != "split_seed"]
        if differing:
            key = differing[0]
            raise InputError(
                f"Networks of an ensemble must have the same {split} classes. Received: {path} with data.{key}="
                f"{getattr(config, key)!r}, and {runs[0][0]} with {getattr(runs[0][1], key)!r}."
            )


def _load(recipe, name, options, split, splitting):
    """The classes of a split of a dataset, by default those of the run."""
    config = recipe.data if recipe is not None else DataConfig()
    if name is not None:
        images = load_dataset(name, options)
    elif recipe is not None:
        images = data.load(config.name, **{**config.options, **options})
    else:
        raise InputError(
            "A SavedModel has no data of its own. Received: no dataset. Expected: one of "
            f"{', '.join(data.names())}, or a folder of images."
        )
    if split == "all":
        return images
    if "validation_classes" in splitting:
        # It replaces the run's fold.
        splitting = {"fold": None, **splitting}
    return getattr(builders.split(dataclasses.replace(config, **splitting), images), split)


def load_dataset(name: str, options: Mapping[str, Any]) -> data.LabeledSamples:
    """Load a dataset by its name, or from the path of a CSV file or of a folder of images or features.

    Args:
        name: str. Name or path.
        options: mapping. Options of the dataset.
    """
    path = os.path.expanduser(name)
    if name not in data.names():
        if name.lower().endswith(".csv"):
            return data.get("csv", path=name, **options)
        if os.path.isdir(path) or os.path.basename(name) != name:
            has_features = os.path.isfile(os.path.join(path, FEATURES)) or holds_parquet(path)
            return data.load("features" if has_features else "folder", path=name, **options)
    return data.load(name, **options)


def _read_embedder(folder, recipe):
    """The network of a run, made by its recipe and weights, or else `embedder.keras`.

    The recipe and the weights can be read by both versions of Keras, `embedder.keras` by the one that wrote it.
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
            _logger.warning("%s cannot be read. Using embedder.keras instead.", folder.best_weights)
    if folder.embedder.is_file():
        return load_keras_file(folder.embedder)
    raise RunFolderError(f"The run has no weights yet. Received: {folder.path}, without a finished validation.")
