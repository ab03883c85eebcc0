"""Measure time and memory of a computation step on a machine that runs other work."""

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

# With these, TensorFlow and malloc return freed memory, so that the allocations of a step can be measured.
_FRUGAL = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
_CALLS = 3


def in_mode(step, mode, inputs):
    """Return the step as it is (`"eager"`), as a graph (`"graph"`) or compiled by XLA (`"xla"`) for such inputs."""
    if mode == "eager":
        return step
    # Traced here, so that TensorFlow does not mistake many variants of a step for one that is retraced.
    return tf.function(step, jit_compile=MODES[mode]).get_concrete_function(inputs)


def interleaved_times(steps, inputs, repeats):
    """Time steps alternately, so that other work on the machine slows all of them alike.

    Args:
        steps: dict from names to functions of `inputs` that return a list of tensors.
        inputs: Input of the steps.
        repeats: int. Number of rounds.

    Returns:
        dict from names to the seconds per call in each round, `(repeats,)`. Equal indices are close in time, so ratios
        of two steps should be computed round by round.
    """
    for step in steps.values():
        for _ in range(_CALLS):
            step(inputs)
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step(inputs)[0].numpy()  # Not timed: fills the caches again after the previous step.
            start = time.perf_counter()
            for _ in range(_CALLS):
                step(inputs)[0].numpy()
            times[name].append((time.perf_counter() - start) / _CALLS)
    return {name: np.array(values) for name, values in times.items()}


def peak_memory(step, inputs, repeats=9):
    """Measure the peak memory of a call beyond what the process uses before it, in bytes. Linux only.

    Call it through `in_fresh_process`, where malloc returns freed memory.

    Args:
        step: function of `inputs`.
        inputs: Input of the step.
        repeats: int. Number of measured calls, after three unmeasured ones. The median is returned. Default: 9.

    Raises:
        OSError: If the system does not report peak memory.
    """
    reset = pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        raise OSError(f"Peak memory can only be measured on Linux. Received: a system without {reset}.")
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
    """Memory of this process in bytes: `"VmRSS"` is the current amount, `"VmHWM"` the peak. Linux only.

    Raises:
        OSError: If the system does not report it.
    """
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no entry {key}.")


def in_fresh_process(function, *arguments):
    """Call a function in a new process that is set up for `peak_memory`.

    Args:
        function: function that can be imported.
        *arguments: Its arguments. They and the result must be picklable.

    Returns:
        The result of the function, or None if the system does not report memory or the process died.
    """
    context = multiprocessing.get_context("spawn")
    with _environment(_FRUGAL), ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (OSError, BrokenProcessPool):
            return None


@contextlib.contextmanager
def _environment(changes):
    """Set environment variables for processes started in this context."""
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
