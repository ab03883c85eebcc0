"""Measurements in a separate process, whose memory nothing else has used."""

import json
import subprocess
import sys

from studies.measurement import process_memory


def result_of(script, *arguments):
    """Run a script with the same Python and parse the last line of its output as JSON."""
    command = [sys.executable, script, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def high_water_mark():
    """Peak memory of this process in MiB. `ru_maxrss` would include the parent process."""
    return process_memory("VmHWM") / 2**20
