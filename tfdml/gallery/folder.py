"""Folders of galleries: versioned, checksummed, and replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import re
import secrets

import numpy as np

from tfdml._utils.files import LOCK, lock_folder, remove_partial, whole_file, whole_path
from tfdml.version import __version__

# Format 2 has an index or a backend, which versions that know only format 1 would ignore.
FORMATS = (1, 2)
MANIFEST = "gallery.json"
_HASHED_BYTES = 2**22
_OWN = re.compile(r"(vectors|scales|items|positions|keys|index)-[0-9a-f]{8}\.(npy|json|faiss)")


def write_folder(folder, description, arrays, items, write_index=None):
    """Write a gallery. A process killed at any time leaves the previous gallery.

    All files have new names; writing the manifest, which names them, is the single step from the old to the new.

    Args:
        folder: `pathlib.Path`; created if it is missing.
        description: dict that JSON holds.
        arrays: dict from names to arrays without objects.
        items: dict that JSON holds.
        write_index: Function that writes an index to a path, or `None`. Default `None`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        remove_partial(folder)
        previous = folder / MANIFEST
        foreign = [entry.name for entry in folder.iterdir() if entry.name != LOCK and not _OWN.fullmatch(entry.name)]
        if foreign and not previous.exists():
            raise FileExistsError(
                f"The folder contains other files. Received: {str(folder)!r} with {foreign[0]!r}. Expected: a new or "
                "empty folder, or a gallery."
            )
        token = secrets.token_hex(4)
        files = {}
        for name, array in arrays.items():
            path = folder / f"{name}-{token}.npy"
            with whole_file(path) as file:
                np.save(file, array, allow_pickle=False)
            files[name] = _described(path)
        if write_index is not None:
            path = folder / f"index-{token}.faiss"
            with whole_path(path) as partial:
                write_index(partial)
            files["index"] = _described(path)
        path = folder / f"items-{token}.json"
        with whole_file(path, "w", encoding="utf-8") as file:
            json.dump(items, file, allow_nan=False)
        files["items"] = _described(path)
        version = 1 if description["index"] == "exact" and description["backend"] is None else 2
        manifest = {"format": version, "tfdml_version": __version__, **description, "files": files}
        text = json.dumps(manifest, indent=2)
        with whole_file(previous, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        current = {entry["name"] for entry in files.values()}
        for path in folder.iterdir():
            if _OWN.fullmatch(path.name) and path.name not in current:
                with contextlib.suppress(OSError):
                    path.unlink()


def read_folder(folder):
    """Read a gallery and check it.

    Args:
        folder: `pathlib.Path`.

    Returns:
        (manifest, arrays mapped from files, items). In place of the index stands its path.

    Raises:
        FileNotFoundError: If there is no gallery.
        ValueError: If a file is damaged or missing, or a later version has written the gallery.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"There is no gallery. Received: {str(folder)!r} without {MANIFEST}. Expected: a folder written by "
            "Gallery.save."
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / MANIFEST, f"{type(error).__name__}: {error}") from error
    if version not in FORMATS:
        raise ValueError(
            f"The gallery has another format. Received: format {version!r} in {str(folder)!r}. Expected: one of "
            f"{FORMATS}. Install the version of tfdml that wrote it, or build the gallery again."
        )
    arrays, items = {}, None
    for name, entry in files.items():
        path = folder / pathlib.Path(str(entry["name"])).name
        if not path.is_file():
            raise _damaged(path, "it is missing")
        if _described(path) != entry:
            raise _damaged(path, "its checksum differs")
        if name == "items":
            items = json.loads(path.read_text(encoding="utf-8"))
        elif name == "index":
            arrays[name] = path
        else:
            # Files without data cannot be mapped.
            arrays[name] = np.load(path, mmap_mode="r" if manifest["count"] else None, allow_pickle=False)
    return manifest, arrays, items


def _described(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _damaged(path, reason):
    return ValueError(
        f"The gallery is damaged. Received: {str(path)!r}, but {reason}. Expected: the files that Gallery.save wrote. "
        "Restore a copy, or build the gallery again."
    )
