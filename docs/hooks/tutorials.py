"""Turns the scripts in docs/tutorials into pages. Each is executed as a notebook; a failing cell fails the build."""

import base64
import concurrent.futures
import os
import pathlib
import re
import tempfile

import jupytext
import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = pathlib.Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
# Seconds for a cell.
TIMEOUT = 300
log = get_plugin_logger("tutorials")


def on_files(files: Files, *, config) -> Files:
    mode = config.extra["tutorials"]
    if mode not in ("execute", "skip"):
        raise PluginError(f"TFDML_TUTORIALS is wrong. Received: {mode!r}. Expected: 'execute' or 'skip'.")
    sources = sorted(TUTORIALS.glob("*.py"))
    notebooks = [jupytext.read(source) for source in sources]
    if mode == "execute":
        # Each runs in a process of its own, most of the time on one core.
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(execute, notebooks, sources))
    for notebook, source in zip(notebooks, sources):
        for name, content in pages(notebook, source.stem).items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def execute(notebook: nbformat.NotebookNode, source: pathlib.Path) -> None:
    """Run the cells of a notebook in an empty folder, with this checkout's package."""
    log.info(f"Executing {source.name}")
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": folder}})
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise PluginError(f"{source.name} fails.\n{error}") from error


def pages(notebook: nbformat.NotebookNode, name: str) -> dict[str, str | bytes]:
    """Return the files of a tutorial: the page, its figures and the notebook to download."""
    files: dict[str, str | bytes] = {f"{name}.ipynb": nbformat.writes(notebook)}
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code" and cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```")
            for output in cell.get("outputs", []):
                parts.append(rendered(output, name, files))
    parts.append(f"[Download this page as a notebook]({name}.ipynb)")
    files[f"{name}.md"] = "\n\n".join(filter(None, parts)) + "\n"
    return files


def rendered(output: nbformat.NotebookNode, name: str, files: dict[str, str | bytes]) -> str:
    """Return one output of a cell as Markdown. A figure becomes a file of its own."""
    if output.output_type == "stream":
        # What goes to stderr is warnings and progress bars.
        return _text(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        figure = f"{name}_{len(files)}.png"
        files[figure] = base64.b64decode(data["image/png"])
        return f"![Figure drawn by the cell above]({figure})"
    if "text/markdown" in data:
        return data["text/markdown"]
    return _text(data.get("text/plain", ""))


def _text(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).rstrip()
    return f"``` {{.text .output}}\n{text}\n```" if text.strip() else ""
