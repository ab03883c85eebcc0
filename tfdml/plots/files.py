"""Save figures to files."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from matplotlib.figure import Figure

from tfdml._utils.types import PathLike


def save(figure: Figure, path: PathLike, dpi: int = 200) -> PathLike:
    """Save a figure to a file; the extension selects the format (`.png`, `.pdf`, `.svg`, …).

    Unlike `figure.savefig`, it creates missing folders, and replaces an existing file atomically.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: str or `os.PathLike`. File to write. `~` is the home folder.
        dpi: int. Pixels per inch. At 200, a figure of 7 × 3 inches has 1400 × 600 pixels. Default 200.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: If matplotlib does not support the format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Figure(), os.path.join(folder, "figures", "empty.png")).name
        'empty.png'
    """
    path = Path(path).expanduser()
    file_format = path.suffix[1:].lower()
    known = figure.canvas.get_supported_filetypes()
    if file_format not in known:
        raise ValueError(
            f"Unknown figure format. Received: path={str(path)!r}. Expected: one of the extensions {sorted(known)}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        figure.savefig(unfinished, dpi=dpi, format=file_format)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
