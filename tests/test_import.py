"""Modules that `import tfdml` imports, in a process that begins with none."""

import subprocess
import sys

import pytest

CODE = """
import sys, tensorflow, keras
keras.layers.Layer, keras.saving.register_keras_serializable
before = set(sys.modules)
import tfdml
# An import by other programs than the commands brings all parts.
assert {"tfdml.layers", "tfdml.losses", "tfdml.models"} <= set(sys.modules)
added = {module.partition(".")[0] for module in set(sys.modules) - before}
assert not added & {"matplotlib", "sklearn", "jsonargparse", "yaml", "tqdm", "faiss"}, added
import tfdml.data, tfdml.metrics, tfdml.experiments
added = {"tensorflow_addons", "faiss", "optuna", "mlxtend"} & set(sys.modules)
assert not added, added
"""


@pytest.mark.integration
def test_import_adds_no_heavy_packages_and_no_extras(request):
    root = request.config.rootpath
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
