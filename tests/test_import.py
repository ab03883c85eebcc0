"""Modules that `import tfdml` imports."""

import subprocess
import sys

import pytest

CODE = """
import sys, tensorflow, keras
keras.layers.Layer, keras.saving.register_keras_serializable
before = set(sys.modules)
import tfdml
added = {module.partition(".")[0] for module in set(sys.modules) - before}
sys.exit(", ".join(added & {"matplotlib", "sklearn", "jsonargparse", "yaml", "tqdm", "faiss"}) or 0)
"""


@pytest.mark.integration
def test_import_adds_no_heavy_packages():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

LAZY = """
import sys
sys.argv = ["tfdml-prepare"]
import tfdml.data.prepare
from tfdml.data import archives
assert "tensorflow" not in sys.modules
from tfdml.data import *
from tfdml.data import datasets
assert LabeledImages is tfdml.data.LabeledImages and cub is datasets.cub
assert {*tfdml.data.__all__} <= {*dir(tfdml.data)} and {*tfdml.__all__} <= {*dir(tfdml)}
assert not hasattr(tfdml.data, "missing") and not hasattr(tfdml, "missing")
"""


@pytest.mark.integration
def test_public_names_are_imported_when_they_are_used():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
