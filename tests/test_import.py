"""What `import tfdml` brings."""

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
