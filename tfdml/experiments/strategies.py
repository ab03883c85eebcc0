"""Runs on several devices and machines: which `tf.distribute` strategy, who writes the files, who tells whom what."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import secrets
import shutil
import time

import numpy as np
import tensorflow as tf

from tfdml.experiments.errors import InputError, RecipeError
from tfdml.experiments.run_folder import RunFolder
from tfdml.models import Workers, workers_of

STRATEGIES = ("single", "mirrored", "multi_worker")
# Network file systems show a new file late.
_SECONDS_TO_APPEAR = 10


# What an operation of several workers fails with when one of them does not answer.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class WorkerLostError(RuntimeError):
    """A training that cannot go on because another worker has died; what the first worker has saved is kept."""


def worker_of_environment():
    """Which worker this process is to be, from 0, by the variable TF_CONFIG.

    Raises:
        InputError: If it is not set, or says nothing of the kind.
    """
    text = os.environ.get("TF_CONFIG")
    expected = (
        'expected the JSON of {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}, the '
        "same cluster and another index for each worker"
    )
    if not text:
        raise InputError(f"Several workers find each other by the variable TF_CONFIG. Received: none; {expected}.")
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if task["type"] != "worker" or set(content["cluster"]) != {"worker"} or not 0 <= index < len(workers):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"Received: TF_CONFIG={text}; {expected}.") from error
    return index


@functools.cache
def make_workers(name):
    """The strategy of a recipe's `training.strategy`, and the part of this process in it.

    A strategy of several workers can be made once in a process, and before TensorFlow has done anything.

    Args:
        name: `"single"`; `"mirrored"`: all GPUs of this machine, or where there is none its (virtual) CPU devices;
            `"multi_worker"`: all devices of the workers that TF_CONFIG names.

    Raises:
        InputError: If there is no TF_CONFIG.
    """
    if name == "single":
        return workers_of(tf.distribute.get_strategy())
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return workers_of(tf.distribute.MirroredStrategy([device.name for device in devices]))
    worker_of_environment()
    return workers_of(tf.distribute.MultiWorkerMirroredStrategy())


def check_recipe(recipe, workers: Workers):
    """Raises a RecipeError if the recipe cannot be trained by these workers."""
    replicas = workers.count * workers.replicas
    if recipe.training.jit_compile and replicas > 1:
        raise RecipeError(
            "XLA does not compile what gathers the batch of several replicas. Received: training.jit_compile=true with "
            f"{replicas} replicas; expected false."
        )
    if recipe.batches.size % replicas:
        raise RecipeError(
            f"Replicas have equal parts of a batch. Received: batches.classes={recipe.batches.classes}, "
            f"batches.samples_per_class={recipe.batches.samples_per_class}; expected a product that {replicas} divides."
        )


def distribute(batches, batch_size, workers: Workers):
    """A worker's share of the training batches as its strategy takes them."""
    if workers.count == 1:
        return batches
    # A batch for each of this worker's replicas, one after the other.
    of_replicas = batches.rebatch(batch_size // (workers.count * workers.replicas))
    return workers.strategy.distribute_datasets_from_function(lambda context: of_replicas)


def worker_folder(folder, workers: Workers):
    """The folder that a worker writes to: the run's for the first worker, one inside it for each other.

    It has the name that Keras and `tf.distribute` give the folder of a worker that does not save for all.
    """
    folder = pathlib.Path(folder).expanduser()
    return folder if workers.is_chief else folder / f"workertemp_{workers.index}"


def share_folder(folder, files, workers: Workers):
    """Gives each worker its own folder in the shared run folder. All workers must call it.

    Args:
        folder: The run's folder as this worker names it; the first worker has made it.
        files: Names of files in it that each worker starts from. Those that do not exist are left out.
        workers: The workers.

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
            # Left by a worker that was killed, unless it is still there.
            with RunFolder(own).lock():
                pass
            shutil.rmtree(own)
        if files:
            own.mkdir()
        for name in files:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, own / name)
    # The first worker changes no file before all have read it.
    wait_for_all(workers)


def leave_folder(folder, workers: Workers):
    """Removes this worker's own folder. After an error it stays, with the worker's log, until the run goes on."""
    if not workers.is_chief:
        shutil.rmtree(worker_folder(folder, workers), ignore_errors=True)


def _check_shared(folder, workers):
    # A name that no file system has in a cache.
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


def wait_for_all(workers: Workers):
    """Returns when all workers have called it."""
    workers.broadcast(np.int32(0))


@contextlib.contextmanager
def lost_workers(workers: Workers, path):
    """Takes the failure of what workers do together for the death of one of them.

    Args:
        workers: The workers.
        path: The run's folder, which the message names.
    """
    try:
        yield
    except _LOST as error:
        if workers.count == 1:
            raise
        raise WorkerLostError(
            f"Worker {workers.index} of {workers.count} has lost the others ({error.message.splitlines()[0][:200]}). "
            f"What was saved after the last validation is in {path}: start all workers again with --resume."
        ) from error
