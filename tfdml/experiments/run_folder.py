"""The folders of runs and protocols: where each file is, and what must not happen to it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import pathlib

import numpy as np

from tfdml._utils import plain_files
from tfdml._utils.environment import environment
from tfdml._utils.files import FolderInUseError, lock_folder, remove_partial, whole_file
from tfdml._utils.foreign_files import check_h5, check_not_empty, check_zip, passes, read_npz
from tfdml._utils.plain_files import write_json, write_text
from tfdml._utils.typed_values import keys_of, to_mapping, value_of
from tfdml.experiments.errors import RecipeError, RunFolderError
from tfdml.experiments.recipe import ADDED_KEYS, Recipe
from tfdml.experiments.recipe_files import dump_recipe, load_recipe, read_yaml, with_present_keys


class Entry:
    """The path of a file or folder in a `WorkFolder`, as an attribute of it."""

    def __init__(self, name):
        self.name = name

    def __get__(self, folder, kind=None) -> pathlib.Path:
        return folder.path / self.name


class WorkFolder:
    """A folder that one process at a time writes to, with the recipe of what it does.

    Args:
        path: The folder.
    """

    recipe = Entry("recipe.yaml")  # the whole recipe

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()

    @classmethod
    def create(cls, recipe, path=None):
        """Makes the folder of something new.

        Args:
            recipe: Its recipe.
            path: The folder; by default `runs/NAME-DATE-TIME`.

        Raises:
            RunFolderError: If there is such a folder; it is left as it is.
        """
        folder = cls(new_folder(path) if path is not None else new_dated_folder("runs", recipe.name))
        folder.prepare(recipe)
        # The last one: a folder with a recipe is a run.
        write_text(folder.recipe, dump_recipe(recipe))
        return folder

    def prepare(self, recipe):
        """Writes what a new folder holds in addition to its recipe."""

    def entries(self):
        """The paths that must not be links to somewhere else."""
        names = {name for kind in type(self).__mro__ for name, value in vars(kind).items() if isinstance(value, Entry)}
        return [getattr(self, name) for name in sorted(names)]

    @contextlib.contextmanager
    def lock(self):
        """Keeps the folder for this process as long as the block lasts, and removes what a killed one left half done.

        Raises:
            RunFolderError: If another process has it, it cannot be written, or a file in it is a symbolic link.
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
                    f"A file of the run is a symbolic link, and a run does not write through links. Received: "
                    f"{links[0]}. Expected: a file or folder of its own. Put what it points to in its place."
                )
            remove_partial(self.path)
            yield


class RunFolder(WorkFolder):
    """Paths in a run's folder.

    Args:
        path: The folder.
    """

    environment = Entry("environment.json")  # versions of Python and of the packages, seed, git commit
    log = Entry("train.log")  # what happened, with times
    history = Entry("history.csv")  # a line for each validation
    projections = Entry("projections.csv")  # under CCP, a row for each proxy problem that has ended
    tensorboard = Entry("tensorboard")  # the history for TensorBoard
    untrained_metrics = Entry("untrained_metrics.json")  # metrics of the first weights on the test classes
    untrained_validation = Entry("untrained_validation.json")  # the same on the validation classes
    best_weights = Entry("best.weights.h5")  # those of the best validation, or the first if none was better
    state = Entry("state.npz")  # all that --resume needs
    test_embeddings = Entry("test_embeddings.npz")  # if evaluation.keep_embeddings, with their labels
    embedder = Entry("embedder.keras")  # the finished network for Keras
    saved_model = Entry("saved_model")  # the finished network for TensorFlow without tfdml
    figures = Entry("figures")  # figures, *.png
    test_metrics = Entry("test_metrics.json")  # the result; the last file to be written
    failure = Entry("failure.json")  # only if the training ended with a loss that is not a number
    evaluations = Entry("evaluations")  # what evaluate.py adds

    @property
    def needed_to_resume(self):
        """The files that a run goes on from."""
        return [
            self.recipe, self.environment, self.history, self.projections, self.untrained_metrics,
            self.untrained_validation, self.best_weights, self.state, self.failure, self.test_metrics,
        ]  # fmt: skip

    @property
    def has_begun(self):
        """Whether there is a run in the folder, finished or not."""
        return self.recipe.is_file() and self.environment.is_file()

    @property
    def is_finished(self):
        """Whether nothing is left to do."""
        return self.test_metrics.exists()

    @classmethod
    def open(cls, path):
        """The folder of a run that has begun.

        Raises:
            RunFolderError: If there is no such folder, or it is no run's.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise RunFolderError(f"There is no run folder {folder.path}.")
        if not folder.has_begun:
            raise RunFolderError(
                f"{folder.path} is no run: it lacks the recipe.yaml and environment.json of a run."
            )
        return folder

    def load_recipe(self):
        """The run's recipe.

        Raises:
            RunFolderError: If it cannot be read, lacks a key, or was changed after the run began.
        """
        recipe = read_whole_recipe(self.recipe)
        expected = self.read_environment().get("recipe_digest")
        if expected not in (None, _digest(recipe)):
            raise RunFolderError(
                f"The run's recipe was changed after the run began. Received: {self.recipe} with the digest "
                f"{_digest(recipe)}. Expected: {expected}, as environment.json says. Undo the change, or start another "
                "run; --resume RUN --training.max_validations N prolongs a run."
            )
        return recipe

    def prepare(self, recipe):
        """Writes the versions that the run depends on, and a digest of its recipe."""
        write_json(self.environment, {**environment(recipe.seed), "recipe_digest": _digest(recipe)})

    def read_environment(self):
        """The content of environment.json, nothing if it is damaged."""
        try:
            return read_json(self.environment)
        except RunFolderError:
            return {}

    def entries(self):
        folders = [folder for folder in (self.figures, self.tensorboard) if folder.is_dir()]
        return [*super().entries(), *(entry for folder in folders for entry in folder.iterdir())]

    def damaged_results(self):
        """Paths of results that are there and cannot be read."""
        checks = {
            self.test_metrics: read_json,
            self.untrained_metrics: read_json,
            self.best_weights: check_h5,
            self.embedder: check_zip,
            self.saved_model / "saved_model.pb": check_not_empty,
            self.test_embeddings: read_embeddings,
        }
        return [path for path, check in checks.items() if path.exists() and not passes(check, path)]


def read_whole_recipe(path):
    """A recipe that a run or a protocol wrote, which has all keys; a file without some would be another recipe.

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
                "every key, as it was written: the file was cut off or edited, or an older version of tfdml wrote it. "
                "Add them; tfdml-train --print-recipe shows every key with its default."
            )
        return load_recipe(path.resolve())
    except RecipeError as error:
        raise RunFolderError(f"The run's recipe is damaged: {error}") from error


# What may be changed in a recipe while it stays the same run: how long it takes, and where files lie.
_NOT_IN_DIGEST = (("training", "max_validations"), ("training", "strategy"), ("model", "first_weights"))


def _digest(recipe):
    mapping = to_mapping(recipe)
    for section, key in _NOT_IN_DIGEST:
        del mapping[section][key]
    del mapping["imports"]
    for location in ("path", "root"):
        mapping["data"]["options"].pop(location, None)
    mapping["model"]["backbone_options"].pop("weights", None)
    text = json.dumps(mapping, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_is_free(path):
    """Raises RunFolderError if there is something at the path."""
    if path is not None and os.path.lexists(os.path.expanduser(path)):
        raise RunFolderError(
            f"{path} exists already, and nothing is written over. Choose another folder or remove it."
        )


def new_folder(path):
    """Makes a folder that did not exist, with its parents.

    Raises:
        RunFolderError: If it exists (nothing is ever written over) or cannot be made.
    """
    check_is_free(path)
    path = pathlib.Path(path).expanduser()
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(f"The folder {path} cannot be made: {error.strerror}.") from error
    return path


def new_dated_folder(parent, name):
    """Makes the folder `parent/name-DATE-TIME`, with a number behind it if two begin in the same second."""
    stem = f"{name.replace('/', '-')}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        path = pathlib.Path(parent).expanduser() / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                continue
            except OSError as error:
                raise RunFolderError(
                    f"The folder {path} cannot be made: {error.strerror}. Pass another one as out (--out)."
                ) from error
    raise RunFolderError(f"No free name for a folder {stem} in {parent}.")


def read_json(path):
    """What `write_json` wrote; a RunFolderError if the file is not there or damaged."""
    try:
        return plain_files.read_json(path)
    except ValueError as error:
        raise RunFolderError(str(error)) from error


def write_embeddings(path, embeddings, labels, is_query=None):
    """Writes embeddings `(n, d)` and labels `(n,)`, and which are queries, as a whole or not at all."""
    arrays = {"embeddings": embeddings, "labels": labels}
    if is_query is not None:
        arrays["is_query"] = is_query
    with whole_file(path) as file:
        np.savez(file, **arrays)


def read_embeddings(path):
    """What `write_embeddings` wrote: embeddings, labels, and which are queries or None.

    Raises:
        RunFolderError: If the file is not there or damaged.
    """
    try:
        arrays = read_npz(path)
        return arrays["embeddings"], arrays["labels"], arrays.get("is_query")
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"The embeddings {path} cannot be read: {error}") from error
