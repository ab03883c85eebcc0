"""The folder that a run leaves: where each file is, and what must not happen to it."""

from __future__ import annotations

import contextlib
import csv
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import zipfile

import h5py
import numpy as np

from tfdml._utils.files import FolderInUseError, lock_folder, remove_partial, whole_file
from tfdml.experiments.errors import RecipeError, RunFolderError
from tfdml.experiments.parsing import missing_keys, parse_yaml, to_mapping
from tfdml.experiments.recipe_files import dump_recipe, load_recipe
from tfdml.version import __version__

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "matplotlib", "h5py", "tensorflow-addons")


class RunFolder:
    """Paths in a run's folder.

    ```
    recipe.yaml            the whole recipe
    environment.json       versions of Python and of the packages, seed, git commit
    train.log              what happened, with times
    history.csv            a line for each validation
    projections.csv        under CCP, a row for each proxy problem that has ended
    tensorboard/           the history for TensorBoard
    untrained_metrics.json  metrics of the first weights on the test classes
    untrained_validation.json  the same on the validation classes
    best.weights.h5        the embedder's weights at the best validation, or the first ones if none was better
    state.npz              all that --resume needs
    test_embeddings.npz    if evaluation.keep_embeddings, the embeddings of the test pictures with their labels
    embedder.keras         the finished network for Keras
    saved_model/           the finished network for TensorFlow without tfdml
    pictures/*.png
    test_metrics.json      the result; the last file to be written
    failure.json           only if the training ended with a loss that is no number
    evaluations/           what evaluate.py adds
    ```

    Args:
        path: The folder.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.log = self.path / "train.log"
        self.history = self.path / "history.csv"
        self.projections = self.path / "projections.csv"
        self.tensorboard = self.path / "tensorboard"
        self.best_weights = self.path / "best.weights.h5"
        self.state = self.path / "state.npz"
        self.untrained_metrics = self.path / "untrained_metrics.json"
        self.untrained_validation = self.path / "untrained_validation.json"
        self.test_embeddings = self.path / "test_embeddings.npz"
        self.embedder = self.path / "embedder.keras"
        self.saved_model = self.path / "saved_model"
        self.pictures = self.path / "pictures"
        self.test_metrics = self.path / "test_metrics.json"
        self.failure = self.path / "failure.json"
        self.evaluations = self.path / "evaluations"

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
    def create(cls, recipe, path=None):
        """Makes the folder of a new run.

        Args:
            recipe: Its recipe.
            path: The folder; by default `runs/NAME-DATE-TIME`.

        Raises:
            RunFolderError: If there is such a folder; it is left as it is.
        """
        folder = cls(new_folder(path) if path is not None else new_dated_folder("runs", recipe.name))
        folder.write_environment(recipe)
        # The last one: a folder with a recipe is a run.
        write_text(folder.recipe, dump_recipe(recipe))
        return folder

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

    def write_environment(self, recipe):
        """Writes the versions that the run depends on, and a digest of its recipe."""
        content = {**environment(recipe.seed), "recipe_digest": _digest(recipe)}
        write_text(self.environment, json.dumps(content, indent=2) + "\n")

    def read_environment(self):
        """The content of environment.json, nothing if it is damaged."""
        try:
            return read_json(self.environment)
        except RunFolderError:
            return {}

    @contextlib.contextmanager
    def lock(self):
        """Keeps the folder for this process as long as the block lasts, and removes what a killed one left half done.

        Raises:
            RunFolderError: If another process has it, it cannot be written, or a file of the run is a symbolic link.
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
            self._check_no_links()
            remove_partial(self.path)
            yield

    def _check_no_links(self):
        """Raises a RunFolderError if writing to the run would write somewhere else."""
        own = [value for value in vars(self).values() if value != self.path]
        folders = [folder for folder in (self.pictures, self.tensorboard) if folder.is_dir()]
        for path in [*own, *(entry for folder in folders for entry in folder.iterdir())]:
            if path.is_symlink():
                raise RunFolderError(
                    f"A file of the run is a symbolic link, and a run does not write through links. Received: {path}. "
                    "Expected: a file or folder of its own. Put what it points to in its place."
                )

    def damaged_results(self):
        """Paths of results that are there and cannot be read."""
        checks = {
            self.test_metrics: read_json,
            self.untrained_metrics: read_json,
            self.best_weights: _check_weights,
            self.embedder: _check_zip,
            self.saved_model / "saved_model.pb": _check_not_empty,
            self.test_embeddings: read_embeddings,
        }
        damaged = []
        for path, check in checks.items():
            if path.exists():
                try:
                    check(path)
                except (RunFolderError, OSError, ValueError, KeyError, zipfile.BadZipFile):
                    damaged.append(path)
        return damaged


def _check_weights(path):
    with h5py.File(path, "r") as file:
        if not len(file):
            raise ValueError("no weights")


def _check_zip(path):
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("damaged archive")


def _check_not_empty(path):
    if not path.stat().st_size:
        raise ValueError("empty")


def read_whole_recipe(path):
    """A recipe that a run or a protocol wrote, which has all keys; a file without some would be another recipe.

    Raises:
        RunFolderError: If it cannot be read or lacks a key.
    """
    try:
        mapping = parse_yaml(path.read_text(encoding="utf-8"), path)
        missing = missing_keys(mapping)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise RunFolderError(
                f"The run's recipe lacks keys. Received: {path} without {', '.join(missing[:3])}{more}. Expected: "
                "every key, as it was written: the file was cut off or edited, or an older version of tfdml wrote it. "
                "Add them; tfdml-train --print-recipe shows every key with its default."
            )
        return load_recipe(path.resolve())
    except (OSError, UnicodeDecodeError, RecipeError) as error:
        raise RunFolderError(f"The run's recipe is damaged: {error}") from error


# What may be changed in a recipe while it stays the same run: how long it takes, and where files lie.
_NOT_IN_DIGEST = (("training", "max_validations"), ("training", "strategy"), ("model", "first_weights"))


def _digest(recipe):
    mapping = to_mapping(recipe)
    for section, key in _NOT_IN_DIGEST:
        del mapping[section][key]
    mapping["data"]["options"].pop("path", None)
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


def write_text(path, text):
    """Writes a file as a whole or not at all."""
    with whole_file(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path, content):
    """Writes numbers and text as JSON, as a whole or not at all; what is not finite becomes null."""
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")


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
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["embeddings"], arrays["labels"], arrays["is_query"] if "is_query" in arrays else None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"The embeddings {path} cannot be read: {error}") from error


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path):
    """What `write_json` wrote, a dict.

    Raises:
        RunFolderError: If the file is not there or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not the JSON that was written"
        raise RunFolderError(f"A file of the run cannot be read: {reason}. Received: {path}.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"A file of the run cannot be read: not the JSON that was written. Received: {path}.")
    return content


def read_csv(path):
    """The rows of a run's CSV file, each a dict of texts by column."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def environment(seed):
    """The versions that a run depends on."""
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    # The wheels without GPU support are called otherwise.
    import tensorflow as tf

    packages["tensorflow"] = tf.__version__
    return {
        "tfdml": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": _num_cpus(),
        "threads": _num_threads(tf),
        "seed": seed,
    }


def _num_cpus():
    """The CPUs that this process may use, which TensorFlow makes as many threads for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _num_threads(tf):
    """The threads that the user asked for; 0 or None where TensorFlow chooses."""
    threading = tf.config.threading
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {
        "intra_op": threading.get_intra_op_parallelism_threads(),
        "inter_op": threading.get_inter_op_parallelism_threads(),
        **{name: os.environ.get(name) for name in names},
    }


def _git_commit():
    """The commit of the package's own repository, with `+` behind it if files differ; None outside of one."""
    here = pathlib.Path(__file__).parent

    def git(*arguments):
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # A package installed below some other project's repository has no commit there.
        commit = git("log", "-1", "--format=%H", "--", ".") and git("rev-parse", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", "..") else "") if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
