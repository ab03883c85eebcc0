"""Adds MathJax to the site from the package `django-static-mathjax`, which is nothing but its files."""

import importlib.util
import pathlib

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

SCRIPT = "javascripts/tex-svg.js"


def on_files(files: Files, *, config) -> Files:
    package = importlib.util.find_spec("mathjax")
    if package is None:
        raise PluginError("MathJax is missing. Install the extra 'docs': pip install -e '.[docs]'.")
    folder = pathlib.Path(package.submodule_search_locations[0])
    source = folder / "static" / "mathjax" / "es5" / "tex-svg.js"
    files.append(File.generated(config, SCRIPT, abs_src_path=str(source)))
    return files
