"""Runs on several devices and machines: `tf.distribute` strategies, shared folders, lost workers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.input_errors import InputError
from tfdml._utils.types import PathLike
from tfdml.experiments.errors import RecipeError
from tfdml.experiments.recipe import Recipe
from tfdml.experiments.run_folder import RunFolder
from tfdml.models import Workers, workers_of

# Network file systems show new files late.
_SECONDS_TO_APPEAR = 10
# Errors of an operation of several workers if one of them does not respond.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class WorkerLostError(RuntimeError):
    """Another worker has died, so training stops. The state saved by the first worker is kept."""


def worker_of_environment() -> int:
    """Return the index of this worker in the variable TF_CONFIG.

    Raises:
        InputError: If the variable is not set or not valid.
    """
    text = os.environ.get("TF_CONFIG")
    expected = (
        'Expected: the JSON of {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}, the '
        "same cluster and another index for each worker."
    )
    if not text:
        raise InputError(f"Several workers need the variable TF_CONFIG. Received: none. {expected}")
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if task["type"] != "worker" or set(content["cluster"]) != {"worker"} or not 0 <= index < len(workers):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The variable TF_CONFIG is not valid. Received: TF_CONFIG={text}. {expected}") from error
    return index


@functools.cache
def make_workers(name: str) -> Workers:
    """Create the strategy for `training.strategy` of a recipe, and the role of this process in it.

    A strategy of several workers can be created once per process, before TensorFlow has done anything.

    Args:
        name: `"single"`; `"mirrored"` for all GPUs of this machine, or its (virtual) CPU devices if it has no GPU;
            `"multi_worker"` for all devices of the workers in TF_CONFIG.

    Raises:
        InputError: If TF_CONFIG is needed and not valid.
    """
    if name == "single":
        return workers_of(tf.distribute.get_strategy())
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return workers_of(tf.distribute.MirroredStrategy([device.name for device in devices]))
    worker_of_environment()
    return workers_of(tf.distribute.MultiWorkerMirroredStrategy())


def check_recipe(recipe: Recipe, workers: Workers) -> None:
    """Raise a RecipeError if these workers cannot train the recipe."""
    replicas = workers.count * workers.replicas
    if recipe.training.jit_compile and replicas > 1:
        raise RecipeError(
            "jit_compile is not supported with more than one replica. Received: training.jit_compile=true with "
            f"{replicas} replicas. Expected: false."
        )
    if recipe.batches.size % replicas:
        raise RecipeError(
            f"Replicas need equal parts of a batch. Received: batches.classes={recipe.batches.classes}, "
            f"batches.samples_per_class={recipe.batches.samples_per_class}. Expected: a multiple of {replicas}."
        )


def distribute(batches: tf.data.Dataset, batch_size: int, workers: Workers) -> Any:
    """Distribute a worker's share of the training batches to its replicas."""
    if workers.count == 1:
        return batches
    # One batch for each of this worker's replicas, in turn.
    of_replicas = batches.rebatch(batch_size // (workers.count * workers.replicas))
    return workers.strategy.distribute_datasets_from_function(lambda context: of_replicas)


def worker_folder(folder: PathLike, workers: Workers) -> pathlib.Path:
    """Return the folder that a worker writes to: the run's for the first worker, one inside it for each other.

    The name is the one that Keras and `tf.distribute` use for workers that are not the chief.
    """
    folder = pathlib.Path(folder).expanduser()
    return folder if workers.is_chief else folder / f"workertemp_{workers.index}"


def share_folder(folder: PathLike, files: Sequence[str], workers: Workers) -> None:
    """Prepare each worker's folder inside the shared run folder. All workers must call it.

    Args:
        folder: path. The run's folder as this worker names it, which the first worker has created.
        files: sequence of str. Names of the files in it that each worker starts from, if they exist.
        workers: `Workers`.

    Raises:
        InputError: If a worker does not see the run's folder.
        RunFolderError: If another process writes to this worker's own folder.
    """
    if workers.count == 1:
        return
    folder = pathlib.Path(folder).expanduser()
    _check_shared(folder, workers)
    own = worker_folder(folder, workers)
    if not workers.is_chief:
        if own.exists():
            # A killed worker left it, unless that worker still runs and has the lock.
            with RunFolder(own).lock():
                pass
            shutil.rmtree(own)
        if files:
            own.mkdir()
        for name in files:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, own / name)
    # The first worker must not change a file before all have read it.
    wait_for_all(workers)


def leave_folder(folder: PathLike | None, workers: Workers) -> None:
    """Remove this worker's own folder. After an error it stays, with the worker's log, until the run is resumed."""
    if folder is not None and not workers.is_chief:
        shutil.rmtree(worker_folder(folder, workers), ignore_errors=True)


def _check_shared(folder, workers):
    # A random name, which no file system can have cached.
    mark = folder / f".shared-{int(workers.broadcast(np.int32(secrets.randbelow(2**31)))):08x}"
    if workers.is_chief:
        mark.touch()
    wait_for_all(workers)
    end = time.monotonic() + _SECONDS_TO_APPEAR
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.1)
    seen = workers.gather(np.array([mark.exists()], np.int32))
    if workers.is_chief:
        mark.unlink()
    if not seen.all():
        raise InputError(
            f"Not all workers see the run's folder. Received: {folder}, which is not the folder of the first worker "
            f"for the workers {np.flatnonzero(seen == 0).tolist()}. Expected: one folder on a file system that all "
            "workers share. Pass the same --out (or --resume) to each."
        )


def wait_for_all(workers: Workers) -> None:
    """Return when all workers have called it."""
    workers.broadcast(np.int32(0))


@contextlib.contextmanager
def lost_workers(workers: Workers, path: PathLike) -> Iterator[None]:
    """Re-raise failures of collective operations as WorkerLostError that names the run's folder `path`."""
    try:
        yield
    except _LOST as error:
        if workers.count == 1:
            raise
        raise WorkerLostError(
            f"Worker {workers.index} of {workers.count} has lost the others ({error.message.splitlines()[0][:200]}). "
            f"The state after the last validation is in {path}. Start all workers again with --resume."
        ) from error
