"""Measurements in a process of their own, whose memory nothing else has touched."""

import json
import subprocess
import sys

from studies.measurement import process_memory


def result_of(script, *arguments):
    """Runs a script by the same Python and gives the JSON of the last line that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def high_water_mark():
    """MiB; what the system tells of usage (ru_maxrss) would count the process that started this one."""
    return process_memory("VmHWM") / 2**20
