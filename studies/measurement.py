"""Time and memory of a step of computation, in ways that a busy machine does not spoil."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import tensorflow as tf

MODES = {"eager": None, "graph": False, "xla": True}

# With these, TensorFlow and malloc give back what is freed, so a step's allocations show.
_FRUGAL = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
_CALLS = 3


def in_mode(step, mode, inputs):
    """The step for inputs like these: as it is (`"eager"`), as a graph (`"graph"`), or compiled by XLA (`"xla"`)."""
    if mode == "eager":
        return step
    # Traced here, so that TensorFlow does not take many variants of a step for one that is traced again and again.
    return tf.function(step, jit_compile=MODES[mode]).get_concrete_function(inputs)


def interleaved_times(steps, inputs, repeats):
    """Times of steps that take turns, so that a busy machine slows all of them alike.

    Args:
        steps: From names to functions of `inputs` that return a list of tensors.
        inputs: What the steps are given.
        repeats: Turns of each step.

    Returns:
        From names to the seconds of a call in each turn, `(repeats,)`. The same index is the same time of day: the
        quotient of two steps' times is best taken turn by turn.
    """
    for step in steps.values():
        for _ in range(_CALLS):
            step(inputs)
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step(inputs)[0].numpy()  # Not timed: brings the caches back after the step before.
            start = time.perf_counter()
            for _ in range(_CALLS):
                step(inputs)[0].numpy()
            times[name].append((time.perf_counter() - start) / _CALLS)
    return {name: np.array(values) for name, values in times.items()}


def peak_memory(step, inputs, repeats=9):
    """What a call of the step needs at its peak beyond what the process holds, in bytes; Linux alone can tell.

    To be called `in_fresh_process`, whose malloc gives back what is freed.

    Args:
        step: A function of `inputs`.
        inputs: What the step is given.
        repeats: Calls of which the median is taken, after three that are not measured.

    Raises:
        OSError: If the system does not tell.
    """
    reset = pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        raise OSError(f"Peak memory needs Linux, whose {reset} resets it.")
    for _ in range(_CALLS):
        step(inputs)
    peaks = []
    for _ in range(repeats):
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")
        before = process_memory("VmRSS")
        step(inputs)
        peaks.append(process_memory("VmHWM") - before)
    return max(0, int(np.median(peaks)))


def process_memory(key):
    """What Linux tells of this process' memory, in bytes: `"VmRSS"`, what it holds, or `"VmHWM"`, the most it has held.

    Raises:
        OSError: If the system does not tell.
    """
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def in_fresh_process(function, *arguments):
    """What a function of a module returns in a new process that is made for `peak_memory`.

    Args:
        function: A function that can be imported.
        *arguments: Its arguments; they and the result can be pickled.

    Returns:
        The function's result, or None if the system does not tell memory, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    with _environment(_FRUGAL), ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (OSError, BrokenProcessPool):
            return None


@contextlib.contextmanager
def _environment(changes):
    """Variables that a process which is started meanwhile sees."""
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
