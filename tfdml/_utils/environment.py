"""Record the environment that results depend on: versions, processors, threads."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess

from tfdml.version import __version__

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "matplotlib", "h5py", "tensorflow-addons")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def environment(seed):
    """Return the versions, processors and threads of this process, and a seed, as a dict for JSON."""
    # Imported here so that commands can show their help without TensorFlow.
    import tensorflow as tf

    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    # Wheels without GPU support have another name.
    packages["tensorflow"] = tf.__version__
    threading = tf.config.threading
    return {
        "tfdml": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "machine": platform.machine(),
        # Number of CPUs that this process may use, which is TensorFlow's default number of threads.
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        # Numbers of threads requested by the user; 0 or None if TensorFlow chooses.
        "threads": {
            "intra_op": threading.get_intra_op_parallelism_threads(),
            "inter_op": threading.get_inter_op_parallelism_threads(),
            **{name: os.environ.get(name) for name in _THREAD_VARIABLES},
        },
        "seed": seed,
    }


def _git_commit():
    """Return the commit of the package's own repository, with `+` if files differ, or `None` without a repository."""
    here = pathlib.Path(__file__).parent

    def git(*arguments):
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # A package installed inside another project's repository has no commit of its own.
        commit = git("log", "-1", "--format=%H", "--", ".") and git("rev-parse", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--", "..") else "") if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
