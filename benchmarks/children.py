"""Measurements in a process of their own, whose memory nothing else has touched."""

import json
import pathlib
import subprocess
import sys


def result_of(script, *arguments):
    """Runs a script by the same Python and gives the JSON of the last line that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def high_water_mark():
    """MiB; what the system tells of usage (ru_maxrss) would count the process that started this one."""
    lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
