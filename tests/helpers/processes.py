"""Run scripts of this folder in separate processes, because devices and workers must be created first."""

import json
import os
import pathlib
import socket
import subprocess
import sys

HELPERS = pathlib.Path(__file__).parent


def start(script, *arguments, worker=None):
    """Start a script.

    Args:
        script: str. Name of the script.
        *arguments: Arguments of the script.
        worker: tuple `(index, port)`, to run as one of two workers at this and the next port. Default: none.
    """
    environment = {**os.environ, "PYTHONPATH": str(HELPERS.parents[1]), "CUDA_VISIBLE_DEVICES": "-1"}
    if worker is not None:
        index, port = worker
        cluster = {"worker": [f"localhost:{port}", f"localhost:{port + 1}"]}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    command = [sys.executable, str(HELPERS / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, timeout=300):
    """Wait for a process; returns its exit code and output."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output


def free_ports():
    """First of two consecutive free ports."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("localhost", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("localhost", port + 1))
                return port
            except (OSError, OverflowError):
                continue
