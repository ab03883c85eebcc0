"""Fetching, checking and extracting archives, so that nothing half-written is ever taken for whole."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import http.client
import lzma
import os
import pathlib
import shutil
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib

from tfdml._utils.progress import progress_bar

_CHUNK = 1 << 20
_TIMEOUT = 30.0
_DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeDecodeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
)
# What happens where members clash: a file and a folder of one name.
_CLASHES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def check_md5(path, expected, url=None):
    """Raises a ValueError unless a file has this MD5 checksum.

    Args:
        path: The file.
        expected: The checksum in hexadecimal digits.
        url: Where to get the file anew, for the message.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, _bar(os.path.getsize(path), f"checking {path.name}") as bar:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
            bar.update(len(chunk))
    _compare(digest, expected, path, url)


def download(url, target, md5=None):
    """Fetches a file; it has its name only when it is whole.

    Args:
        url: Its address.
        target: Where to put it.
        md5: Its checksum, or `None` if none is known.

    Raises:
        ConnectionError: If the address does not answer, or stops before the end.
        ValueError: If the checksum is wrong.
        OSError: If the disk is full; what was written is removed.
    """
    partial = target.with_name(f"{target.name}.partial")
    digest, received = hashlib.md5(usedforsecurity=False), 0
    try:
        with _told_when_full(partial):
            target.parent.mkdir(parents=True, exist_ok=True)
            request = urllib.request.Request(url, headers={"User-Agent": "tfdml"})
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, open(partial, "wb") as file:
                size = response.headers.get("Content-Length")
                size = None if size is None else int(size)
                with _bar(size, f"fetching {target.name}") as bar:
                    for chunk in iter(lambda: response.read(_CHUNK), b""):
                        file.write(chunk)
                        digest.update(chunk)
                        received += len(chunk)
                        bar.update(len(chunk))
        if size is not None and received != size:
            raise ConnectionError(f"it ended after {received:,} of {size:,} bytes")
        if md5 is not None:
            _compare(digest, md5, partial, url)
        os.replace(partial, target)
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{target.name} cannot be fetched. Received: {url} ({error}). Get it in another way, and put it into the "
            f"folder {target.parent}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def extract(archive, target):
    """Extracts the folder of an archive that is called as `target`; it is there only when it is whole.

    Other things in the archive are passed over. They are written into a folder beside the target, which is renamed in
    the end. What a killed attempt left there is removed by the next one.

    Args:
        archive: A ZIP file, or a TAR file compressed with gzip.
        target: The folder to be made.

    Raises:
        ValueError: If the archive is truncated or damaged, needs a password, holds no such folder, or would write
            outside of it, or its compression is unsupported; the message names the archive.
        OSError: If the disk is full; what was written is removed.
    """
    archive, target = pathlib.Path(archive), pathlib.Path(target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _told_when_full(target), open(archive, "rb") as file:
            size = archive.stat().st_size
            with _bar(size, f"extracting {archive.name}") as bar:
                for name, contents in _members(archive, file):
                    parts = _parts(name, archive)
                    if parts and parts[0] == target.name:
                        _write(partial.joinpath(*parts), contents)
                    bar.update(min(file.tell(), size) - bar.n)
        if not (partial / target.name).is_dir():
            raise ValueError(f"Received: {archive}, which holds no folder {target.name!r}; expected it in the archive.")
        os.replace(partial / target.name, target)
    except _DAMAGE as error:
        raise _damage(archive, error) from error
    except NotImplementedError as error:
        raise ValueError(
            f"Unsupported compression. Received: {archive} ({error}). Extract it with another program, so that the "
            f"folder {target} is there."
        ) from error
    except OSError as error:
        # Python's decompressors raise bare ones.
        if error.errno is None:
            raise _damage(archive, error) from error
        if error.errno in _CLASHES and str(partial) in str(error.filename):
            raise ValueError(
                f"Damaged archive. Received: {archive}, in which "
                f"{os.path.relpath(error.filename, partial)!r} is a file and a folder. Remove it and get it again."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _damage(archive, error):
    return ValueError(
        f"Truncated or damaged archive. Received: {archive} of {archive.stat().st_size:,} bytes ({error}). "
        "Remove it and get it again."
    )


def _members(archive, file):
    """Names in an archive, each with the open file of its contents, or `None` for a folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(file) as members:
            for member in members.infolist():
                if member.flag_bits & 1:
                    raise ValueError(
                        f"Received: {archive}, which needs a password; extract it yourself, with the one that its "
                        "owners give out."
                    )
                if member.is_dir():
                    yield member.filename, None
                else:
                    with members.open(member) as contents:
                        yield member.filename, contents
        return
    with gzip.GzipFile(fileobj=file) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"Received: {archive} with the link {member.name!r}; expected files and folders.")
                yield member.name, None if member.isdir() else members.extractfile(member)
        # A tar ends before its gzip stream, whose own end holds the checksum.
        while stream.read(_CHUNK):
            pass


def _parts(name, archive):
    """The folders and the file in the name of a member."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or any(":" in part for part in parts):
        raise ValueError(f"Received: {archive} with the member {name!r}, which lies outside of it; expected none.")
    return parts


def _write(place, contents):
    if contents is None:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "wb") as file:
        shutil.copyfileobj(contents, file)


def _compare(digest, expected, path, url):
    if digest.hexdigest() != expected:
        source = "" if url is None else f" from {url}"
        raise ValueError(
            f"Wrong checksum. Received: {path} of {os.path.getsize(path):,} bytes with md5 {digest.hexdigest()}; "
            f"expected {expected}. It is truncated, damaged or another file: remove it and get it again{source}."
        )


def _bar(total, description):
    return progress_bar(total=total, desc=description, unit="B", unit_scale=True, disable=None)


@contextlib.contextmanager
def _told_when_full(path):
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "The disk is full; what was written has been removed. Make room, and prepare it again"
        raise OSError(error.errno, message, str(path)) from error
