"""Figures to files."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from matplotlib.figure import Figure

from tfdml._utils.types import PathLike


def save(figure: Figure, path: PathLike, dpi: int = 200) -> PathLike:
    """Writes a figure to a file whose suffix names the format (`.png`, `.pdf`, `.svg`, …).

    The file appears whole or not at all: it is written beside its place and then moved there. Missing folders
    are made; an older figure of that name is replaced.

    Args:
        figure: A `matplotlib.figure.Figure`.
        path: Where to. `~` is the home folder.
        dpi: Pixels per inch; a figure of 7 × 3 inches has 1400 × 600 pixels at 200.

    Returns:
        The path, as `pathlib.Path`.

    Raises:
        ValueError: If the suffix names no format that matplotlib can write.
    """
    path = Path(path).expanduser()
    file_format = path.suffix[1:].lower()
    known = figure.canvas.get_supported_filetypes()
    if file_format not in known:
        raise ValueError(f"Unknown figure format. Received: path={str(path)!r}; expected a suffix of {sorted(known)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        figure.savefig(unfinished, dpi=dpi, format=file_format)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
