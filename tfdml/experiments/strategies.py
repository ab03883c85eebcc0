"""Runs on several devices and machines: which `tf.distribute` strategy, who writes the files, who tells whom what."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pathlib
import tempfile
import zipfile

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.keras_compat import IS_KERAS_2
from tfdml.experiments.errors import InputError, RecipeError
from tfdml.models import Crew, crew_of

STRATEGIES = ("single", "mirrored", "multi_worker")


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
def make_crew(name):
    """The strategy of a recipe's `training.strategy`, and the part of this process in it.

    A strategy of several workers can be made once in a process, and before TensorFlow has done anything.

    Args:
        name: `"single"`; `"mirrored"`: all GPUs of this machine, or where there is none its (virtual) CPU devices;
            `"multi_worker"`: all devices of the workers that TF_CONFIG names.

    Raises:
        InputError: If there is no TF_CONFIG, or Keras 3 is to train with several workers.
    """
    if name == "single":
        return crew_of(tf.distribute.get_strategy())
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return crew_of(tf.distribute.MirroredStrategy([device.name for device in devices]))
    worker_of_environment()
    if not IS_KERAS_2:
        raise InputError(
            "The training loop of Keras 3 does not support several workers of tf.distribute. Received: "
            f"training.strategy='multi_worker' with Keras {keras.__version__}; expected Keras 2.15, or 'mirrored'."
        )
    return crew_of(tf.distribute.MultiWorkerMirroredStrategy())


def check_recipe(recipe, crew: Crew):
    """Raises a RecipeError if the recipe cannot be trained by a crew."""
    replicas = crew.workers * crew.replicas
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


def distribute(batches, batch_size, crew: Crew):
    """A worker's share of the training batches as its strategy takes them."""
    if crew.workers == 1:
        return batches
    # A batch for each of this worker's replicas, one after the other.
    of_replicas = batches.rebatch(batch_size // (crew.workers * crew.replicas))
    return crew.strategy.distribute_datasets_from_function(lambda context: of_replicas)


@contextlib.contextmanager
def folder_of_worker(crew: Crew):
    """A folder for what a worker writes that is not the first: for as long as it lasts."""
    with tempfile.TemporaryDirectory(prefix=f"tfdml-worker-{crew.index}-") as folder:
        yield pathlib.Path(folder) / "run"


def send_files(paths, folder, crew: Crew):
    """Brings files of the first worker into a folder of each other worker. All workers must call it.

    Args:
        paths: Files of the first worker; those that do not exist are left out. Others' are ignored.
        folder: Where the others put them, which is made; ignored by the first worker.
        crew: The crew.
    """
    content = b""
    if crew.is_chief:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in paths:
                if path.is_file():
                    archive.write(path, path.name)
        content = buffer.getvalue()
    # Collective operations carry 32-bit integers; the zeros that fill up the last one are not the archive's.
    words = np.frombuffer(content + bytes(-len(content) % 4), np.int32)
    received = crew.gather(words).tobytes()
    if crew.is_chief:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(received)) as archive:
        archive.extractall(folder)


@contextlib.contextmanager
def lost_workers(crew: Crew, path):
    """Takes the failure of what workers do together for the death of one of them.

    Args:
        crew: The crew.
        path: The run's folder, which the message names.
    """
    try:
        yield
    except _LOST as error:
        if crew.workers == 1:
            raise
        raise WorkerLostError(
            f"Worker {crew.index} of {crew.workers} has lost the others ({error.message.splitlines()[0][:200]}). "
            f"What was saved after the last validation is in {path}: start all workers again with --resume."
        ) from error
