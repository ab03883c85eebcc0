"""The benchmarks run, with sizes too small for meaningful numbers."""

import pathlib
import shlex
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "backbones.py": "resnet50 --frozen all --batch 4 --side 32 --repeats 1",
    "retrieval.py": "--samples 500 --classes 50 --dim 8 --repeats 1 --part 100 --intrinsic-dim 4 --probes 0.5",
    "retrieval.py, profile": "--samples 500 --classes 50 --dim 8 --profile",
    "gallery.py": "--count 600 --queries 20 --dim 8 --repeats 1",
    "losses.py": "c2 --batch 16 32 --dense-batch 16 --repeats 1",
    "gsp.py": "--batch 2 --size 2 --channels 4 --prototypes 3 --repeats 1 --modes graph --iterations 5",
    "k_center.py": "--classes 20",
    "reranking.py": "--limit 1",
    "linear.py": "--samples 60 --dim 3 --rounds 1",
    "extraction.py": "--backbone resnet20v2 --size 32 --photo 40 40 --images 16 --shard-size 4 --workers",
    "release_figures.py": (
        "runs --recipes gap gsp --seeds 0 1 --train-options '--data.name digits --data.size 28 --data.split_seed 3 "
        "--batches.classes 5 --model.gsp.prototypes 8 --training.max_validations 1 --training.steps_per_validation 2'"
    ),
    "training_step.py": "c2 memory ccp gsp_zero_shot --modes graph --turns 1 --batch 8 --side 16",
    "training_step.py, profile": "c2 --profile --batch 8 --side 16",
    "input_pipeline.py": "--size 260 240 --images 40 --batches 1 --rounds 1 --warm-up 0 --only files",
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SMALL)
def test_a_benchmark_runs(benchmark, tmp_path):
    command = [sys.executable, FOLDER / benchmark.split(",")[0], *shlex.split(SMALL[benchmark])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 2 or benchmark == "k_center.py"


# It needs trained runs.
NOT_RUN = {"exports.py"}


def test_every_benchmark_is_run():
    helpers = {path.name for path in FOLDER.glob("*.py") if "__main__" not in path.read_text(encoding="utf-8")}
    scripts = {path.name for path in FOLDER.glob("*.py")} - helpers
    assert scripts == {name.split(",")[0] for name in SMALL} | NOT_RUN
