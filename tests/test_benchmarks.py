"""The benchmarks run, on sizes at which they tell nothing."""

import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "backbones.py": "resnet50 --frozen all --batch 4 --side 32 --repeats 1",
    "retrieval.py": "--samples 500 --classes 50 --dim 8 --repeats 1 --part 100 --intrinsic-dim 4 --probes 0.5",
    "retrieval.py, profile": "--samples 500 --classes 50 --dim 8 --profile",
    "losses.py": "c2 --batch 16 32 --dense-batch 16 --repeats 1",
    "gsp.py": "--batch 2 --size 2 --channels 4 --prototypes 3 --repeats 1 --modes graph --iterations 5",
    "k_center.py": "--classes 20",
    "training_step.py": "c2 memory ccp gsp_zero_shot --modes graph --turns 1 --batch 8 --side 16",
    "training_step.py, profile": "c2 --profile --batch 8 --side 16",
    "input_pipeline.py": "--size 260 240 --images 40 --batches 1 --rounds 1 --warm-up 0 --only files",
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SMALL)
def test_a_benchmark_runs(benchmark):
    command = [sys.executable, FOLDER / benchmark.split(",")[0], *SMALL[benchmark].split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 2 or benchmark == "k_center.py"


def test_every_benchmark_is_run():
    helpers = {path.name for path in FOLDER.glob("*.py") if "__main__" not in path.read_text(encoding="utf-8")}
    scripts = {path.name for path in FOLDER.glob("*.py")} - helpers
    assert scripts == {name.split(",")[0] for name in SMALL}
