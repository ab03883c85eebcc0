"""Folders of galleries: versioned, checksummed, and replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
_KEYS = frozenset({"count", "dim", "distance", "storage", "fingerprint", "preprocessing"})
_OWN = re.compile(r"(vectors|scales|items|positions|keys|index)-[0-9a-f]{8}\.(npy|json|faiss)")


def write_folder(folder, description, arrays, items, write_index=None, expected=None):
    """Write a gallery. A process killed at any time leaves the previous gallery, as does a machine that loses power.

    All files have new names; writing the manifest, which names them, is the single step from the old to the new.

    Args:
        folder: `pathlib.Path`; created if it is missing.
        description: dict that JSON holds.
        arrays: dict from names to arrays without objects.
        items: dict that JSON holds.
        write_index: Function that writes an index to a path, or `None`. Default `None`.
        expected: bytes. Manifest that the folder must contain, so that no change of another process is lost; `None`
            replaces any gallery. Default `None`.

    Returns:
        bytes of the manifest.
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
        if expected is not None and manifest_of(folder) != expected:
            raise FileExistsError(
                f"Another process has changed the gallery since it was opened. Received: {str(folder)!r}. Expected: "
                "the gallery that was opened. Nothing was written; give the command again."
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
        text = (json.dumps(manifest, indent=2) + "\n").encode()
        # The manifest must not reach the disk before the names of the files, nor their removal before the manifest.
        _sync_names(folder)
        with whole_file(previous) as file:
            file.write(text)
        _sync_names(folder)
        current = {entry["name"] for entry in files.values()}
        for path in folder.iterdir():
            if _OWN.fullmatch(path.name) and path.name not in current:
                with contextlib.suppress(OSError):
                    path.unlink()
    return text


def manifest_of(folder):
    """Return the bytes of the manifest of a folder; `None` if there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _sync_names(folder):
    # Not possible on Windows and some network file systems.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
    while True:
        content = manifest_of(folder)
        try:
            return _read(folder, content)
        except (ValueError, OSError):
            # Another process that saves the gallery meanwhile removes the files of the previous one.
            if manifest_of(folder) == content:
                raise


def _read(folder, content):
    if content is None:
        raise FileNotFoundError(
            f"There is no gallery. Received: {str(folder)!r} without {MANIFEST}. Expected: a folder written by "
            "Gallery.save."
        )
    try:
        manifest = json.loads(content.decode("utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
        names = {name: pathlib.Path(str(entry["name"])).name for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder / MANIFEST, f"{type(error).__name__}: {error}") from error
    if version not in FORMATS:
        raise ValueError(
            f"The gallery has another format. Received: format {version!r} in {str(folder)!r}. Expected: one of "
            f"{FORMATS}. Install the version of tfdml that wrote it, or build the gallery again."
        )
    missing = sorted(_KEYS - manifest.keys()) + ["items"] * ("items" not in files)
    if missing:
        raise _damaged(folder / MANIFEST, f"it lacks {missing[0]!r}")
    arrays, items = {}, None
    for name, entry in files.items():
        path = folder / names[name]
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
