"""Scripts of this folder in processes of their own, as devices and workers are made before anything else."""

import json
import os
import pathlib
import socket
import subprocess
import sys

HELPERS = pathlib.Path(__file__).parent


def start(script, *arguments, worker=None):
    """Starts a script.

    Args:
        script: Its name.
        *arguments: Of the script.
        worker: `(index, port)`, to be one of two workers at this and the next port.
    """
    environment = {**os.environ, "PYTHONPATH": str(HELPERS.parents[1]), "CUDA_VISIBLE_DEVICES": "-1"}
    if worker is not None:
        index, port = worker
        cluster = {"worker": [f"localhost:{port}", f"localhost:{port + 1}"]}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    command = [sys.executable, str(HELPERS / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, timeout=300):
    """Waits for the end: exit code and what was printed."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output


def free_ports():
    """The first of two neighbouring ports that nobody listens on."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("localhost", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("localhost", port + 1))
                return port
            except (OSError, OverflowError):
                continue
