"""The folders of runs and protocols: where each file is, and how the folders are protected."""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfdml._utils import plain_files
from tfdml._utils.environment import environment
from tfdml._utils.files import FolderInUseError, lock_folder, remove_partial, whole_file
from tfdml._utils.foreign_files import check_h5, check_not_empty, check_zip, passes, read_npz
from tfdml._utils.plain_files import write_json, write_text
from tfdml._utils.typed_values import keys_of, to_mapping, value_of
from tfdml._utils.types import PathLike
from tfdml.experiments.errors import RecipeError, RunFolderError
from tfdml.experiments.recipe import ADDED_KEYS, Recipe
from tfdml.experiments.recipe_files import dump_recipe, load_recipe, read_yaml, with_present_keys


class Entry:
    """Descriptor with the path of a file or folder in a `WorkFolder`."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, folder: Any, kind: Any = None) -> pathlib.Path:
        return folder.path / self.name


class WorkFolder:
    """A folder that one process at a time writes to, with the recipe of its content.

    Args:
        path: path. The folder.
    """

    recipe = Entry("recipe.yaml")  # the whole recipe

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path).expanduser()

    @classmethod
    def create(cls, recipe: Recipe, path: PathLike | None = None) -> Any:
        """Create a new folder.

        Args:
            recipe: `Recipe`.
            path: path. The folder. Default: `runs/NAME-DATE-TIME`.

        Raises:
            RunFolderError: If the folder exists; it is not changed.
        """
        folder = cls(new_folder(path) if path is not None else new_dated_folder("runs", recipe.name))
        folder.prepare(recipe)
        # Last, because a folder with a recipe counts as a run.
        write_text(folder.recipe, dump_recipe(recipe))
        return folder

    def prepare(self, recipe: Recipe) -> None:
        """Write what a new folder contains in addition to its recipe."""

    def entries(self) -> list[pathlib.Path]:
        """Return the paths that must not be links to other places."""
        names = {name for kind in type(self).__mro__ for name, value in vars(kind).items() if isinstance(value, Entry)}
        return [getattr(self, name) for name in sorted(names)]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process during the block, and remove partial files of killed processes.

        Raises:
            RunFolderError: If another process has locked it, it cannot be written, or a file in it is a symbolic link.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_folder(self.path))
            except FolderInUseError as error:
                raise RunFolderError(str(error)) from error
            except OSError as error:
                raise RunFolderError(
                    f"The run folder cannot be written: {error.strerror}. Received: {self.path}. Expected: a folder "
                    "that this user may write to."
                ) from error
            links = [path for path in self.entries() if path.is_symlink()]
            if links:
                raise RunFolderError(
                    "A file of the run is a symbolic link, and a run does not write through links. Received: "
                    f"{links[0]}. Expected: a file or folder. Replace the link by its target."
                )
            remove_partial(self.path)
            yield


class RunFolder(WorkFolder):
    """The paths in a run's folder.

    Args:
        path: path. The folder.

    Example:
        >>> RunFolder("runs/mine").history.name
        'history.csv'
    """

    environment = Entry("environment.json")  # versions of Python and packages, seed, git commit
    log = Entry("train.log")  # log messages with times
    history = Entry("history.csv")  # one line per validation
    projections = Entry("projections.csv")  # under CCP, one row per solved proxy problem
    tensorboard = Entry("tensorboard")  # the history for TensorBoard
    untrained_metrics = Entry("untrained_metrics.json")  # metrics of the initial weights on the test classes
    untrained_validation = Entry("untrained_validation.json")  # the same on the validation classes
    best_weights = Entry("best.weights.h5")  # of the best validation, or the initial ones if none was better
    state = Entry("state.npz")  # everything that --resume needs
    test_embeddings = Entry("test_embeddings.npz")  # with labels, if evaluation.keep_embeddings
    embedder = Entry("embedder.keras")  # the trained network for Keras
    saved_model = Entry("saved_model")  # the trained network for TensorFlow without tfdml
    figures = Entry("figures")  # *.png
    test_metrics = Entry("test_metrics.json")  # the result; written last
    failure = Entry("failure.json")  # only if the loss became non-finite
    evaluations = Entry("evaluations")  # written by evaluate.py

    @property
    def needed_to_resume(self) -> list[pathlib.Path]:
        """The files from which a run is resumed."""
        return [
            self.recipe, self.environment, self.history, self.projections, self.untrained_metrics,
            self.untrained_validation, self.best_weights, self.state, self.failure, self.test_metrics,
        ]  # fmt: skip

    @property
    def has_begun(self) -> bool:
        """Whether the folder contains a run, finished or not."""
        return self.recipe.is_file() and self.environment.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return self.test_metrics.exists()

    @classmethod
    def open(cls, path: PathLike) -> RunFolder:
        """Open the folder of a run that has begun.

        Raises:
            RunFolderError: If there is no such folder, or it does not contain a run.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise RunFolderError(f"There is no run folder {folder.path}.")
        if not folder.has_begun:
            raise RunFolderError(
                f"The folder is not a run. Received: {folder.path}. Expected: recipe.yaml and environment.json in it."
            )
        return folder

    def load_recipe(self) -> Recipe:
        """Read the run's recipe.

        Raises:
            RunFolderError: If it cannot be read, lacks a key, or was changed after the run began.
        """
        recipe = read_whole_recipe(self.recipe)
        expected = self.read_environment().get("recipe_digest")
        # The version that wrote the recipe may not have had all keys: it computed the digest of what is in the file.
        if expected not in (None, _digest(to_mapping(recipe)), _digest(read_yaml(self.recipe))):
            found = _digest(to_mapping(recipe))
            raise RunFolderError(
                f"The run's recipe was changed after the run began. Received: {self.recipe} with the digest {found}. "
                f"Expected: {expected}, as in environment.json. Undo the change, or start another run; "
                "--resume RUN --training.max_validations N prolongs a run."
            )
        return recipe

    def prepare(self, recipe: Recipe) -> None:
        """Write the versions of all packages and a digest of the recipe."""
        write_json(self.environment, {**environment(recipe.seed), "recipe_digest": _digest(to_mapping(recipe))})

    def read_environment(self) -> dict[str, Any]:
        """Return the content of environment.json, or an empty dict if it is damaged."""
        try:
            return read_json(self.environment)
        except RunFolderError:
            return {}

    def entries(self) -> list[pathlib.Path]:
        folders = [folder for folder in (self.figures, self.tensorboard) if folder.is_dir()]
        return [*super().entries(), *(entry for folder in folders for entry in folder.iterdir())]

    def damaged_results(self) -> list[pathlib.Path]:
        """Return the paths of results that exist but cannot be read."""
        checks = {
            self.test_metrics: read_json,
            self.untrained_metrics: read_json,
            self.untrained_validation: read_json,
            self.best_weights: check_h5,
            self.embedder: check_zip,
            self.saved_model / "saved_model.pb": check_not_empty,
            self.test_embeddings: read_embeddings,
        }
        return [path for path, check in checks.items() if path.exists() and not passes(check, path)]


def read_whole_recipe(path: pathlib.Path) -> Recipe:
    """Read a recipe that a run or protocol wrote. It must have all keys, because defaults may differ from the run's.

    Raises:
        RunFolderError: If it cannot be read or lacks a key.
    """
    try:
        mapping, absent = with_present_keys(read_yaml(path)), object()
        missing = [key for key in keys_of(Recipe) if value_of(mapping, key, absent) is absent and key not in ADDED_KEYS]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise RunFolderError(
                f"The run's recipe lacks keys. Received: {path} without {', '.join(missing[:3])}{more}. Expected: "
                "every key. The file was cut off or edited, or an older version of tfdml wrote it. Add the keys; "
                "tfdml-train --print-recipe shows all with their defaults."
            )
        return load_recipe(path.resolve())
    except RecipeError as error:
        raise RunFolderError(f"The run's recipe is damaged: {error}") from error


# Changes of these leave a run the same: its length, its devices, and where files are.
_NOT_IN_DIGEST = (
    "imports", "training.max_validations", "training.strategy", "model.first_weights", "data.options.path",
    "data.options.root", "model.backbone_options.weights",
)  # fmt: skip


def _digest(mapping):
    mapping = copy.deepcopy(mapping)
    for key in _NOT_IN_DIGEST:
        *sections, name = key.split(".")
        section = value_of(mapping, ".".join(sections)) if sections else mapping
        if section is not None:
            section.pop(name, None)
    text = json.dumps(mapping, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_is_free(path: PathLike | None) -> None:
    """Raise a RunFolderError if the path exists."""
    if path is not None and os.path.lexists(os.path.expanduser(path)):
        raise RunFolderError(
            f"{path} exists already, and nothing is overwritten. Choose another folder or remove it."
        )


def new_folder(path: PathLike) -> pathlib.Path:
    """Create a folder that did not exist, with its parents.

    Raises:
        RunFolderError: If it exists or cannot be created.
    """
    check_is_free(path)
    folder = pathlib.Path(path).expanduser()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(
            f"The folder {folder} cannot be created: {error.strerror}. Pass another one as out (--out)."
        ) from error
    return folder


def new_dated_folder(parent: PathLike, name: str) -> pathlib.Path:
    """Create the folder `parent/name-DATE-TIME`, with a number appended if it exists."""
    stem = f"{name.replace('/', '-')}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        path = pathlib.Path(parent).expanduser() / (stem if number == 1 else f"{stem}-{number}")
        try:
            return new_folder(path)
        except RunFolderError:
            if not os.path.lexists(path):
                raise
    raise RunFolderError(f"All names for a folder {stem} in {parent} are taken.")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a file of `write_json`. Raise a RunFolderError if it does not exist or is damaged."""
    try:
        return plain_files.read_json(path)
    except ValueError as error:
        raise RunFolderError(str(error)) from error


def write_embeddings(
    path: pathlib.Path, embeddings: np.ndarray, labels: np.ndarray, is_query: np.ndarray | None = None
) -> None:
    """Write embeddings (n, d), labels (n,) and, if given, which are queries, completely or not at all."""
    arrays: dict[str, Any] = {"embeddings": embeddings, "labels": labels}
    if is_query is not None:
        arrays["is_query"] = is_query
    with whole_file(path) as file:
        np.savez(file, **arrays)


def read_embeddings(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read a file of `write_embeddings`: embeddings, labels, and which are queries or None.

    Raises:
        RunFolderError: If the file does not exist or is damaged.
    """
    try:
        arrays = read_npz(path)
        return arrays["embeddings"], arrays["labels"], arrays.get("is_query")
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"The embeddings {path} cannot be read: {error}") from error
