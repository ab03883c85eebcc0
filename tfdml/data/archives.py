"""Download, check and extract archives atomically: a partial file never has its final name."""

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
# Errors raised if an archive contains a file and a folder of the same name.
_CLASHES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def check_md5(path, expected, url=None):
    """Raise a ValueError unless a file has this MD5 checksum.

    Args:
        path: `pathlib.Path` of the file.
        expected: str. Expected checksum in hexadecimal digits.
        url: str. Where to download the file again, for the message. Default `None`.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, _bar(os.path.getsize(path), f"checking {path.name}") as bar:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
            bar.update(len(chunk))
    _compare(digest, expected, path, url)


def download(url, target, md5=None):
    """Download a file; it gets its final name only when it is complete.

    Args:
        url: str. Address of the file.
        target: `pathlib.Path` to write to.
        md5: str. Expected checksum, or `None` if none is known. Default `None`.

    Raises:
        ConnectionError: If the server does not answer or the download is incomplete.
        ValueError: If the checksum is wrong.
        OSError: If the disk is full; the partial file is removed.
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
            raise ConnectionError(f"the download ended after {received:,} of {size:,} bytes")
        if md5 is not None:
            _compare(digest, md5, partial, url)
        os.replace(partial, target)
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{target.name} cannot be downloaded. Received: {url} ({error}). Download it in another way, and put it "
            f"into the folder {target.parent}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def extract(archive, target):
    """Extract from an archive the top-level folder with the name of `target`.

    Other members are ignored. Files are extracted to a temporary folder next to the target, which is renamed at the
    end; a temporary folder left by a killed attempt is removed.

    Args:
        archive: ZIP file, or TAR file compressed with gzip.
        target: Folder to create.

    Raises:
        ValueError: If the archive is truncated, damaged or password-protected, lacks the folder, has members outside
            of it, or uses an unsupported compression; the message names the archive.
        OSError: If the disk is full; partial files are removed.
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
            raise ValueError(
                f"The archive lacks a folder. Received: {archive}, which holds no folder {target.name!r}. Expected: an "
                "archive with this folder."
            )
        os.replace(partial / target.name, target)
    except _DAMAGE as error:
        raise _damage(archive, error) from error
    except NotImplementedError as error:
        raise ValueError(
            f"Unsupported compression. Received: {archive} ({error}). Extract it with another program to the folder "
            f"{target}."
        ) from error
    except OSError as error:
        # Python's decompressors raise OSError without errno.
        if error.errno is None:
            raise _damage(archive, error) from error
        if error.errno in _CLASHES and str(partial) in str(error.filename):
            raise ValueError(
                f"Damaged archive. Received: {archive}, in which "
                f"{os.path.relpath(error.filename, partial)!r} is a file and a folder. Remove it and download it again."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _damage(archive, error):
    return ValueError(
        f"Truncated or damaged archive. Received: {archive} of {archive.stat().st_size:,} bytes ({error}). "
        "Remove it and download it again."
    )


def _members(archive, file):
    """Yield each member's name with an open file of its contents, or `None` for a folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(file) as members:
            for member in members.infolist():
                if member.flag_bits & 1:
                    raise ValueError(
                        f"The archive needs a password. Received: {archive}. Extract it yourself with the password "
                        "from the owners of the dataset."
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
                    raise ValueError(
                        f"The archive holds a link. Received: {archive} with the link {member.name!r}. "
                        "Expected: files and folders."
                    )
                yield member.name, None if member.isdir() else members.extractfile(member)
        # Read the gzip stream to its end, which contains the checksum: the tar file ends before it.
        while stream.read(_CHUNK):
            pass


def _parts(name, archive):
    """Return the folders and the file in the name of a member."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or any(":" in part for part in parts):
        raise ValueError(
            f"Unsafe archive. Received: {archive} with the member {name!r}, which lies outside of it. Expected: "
            "relative names."
        )
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
            f"Wrong checksum. Received: {path} of {os.path.getsize(path):,} bytes with md5 {digest.hexdigest()}. "
            f"Expected: {expected}. It is truncated, damaged or another file: remove it and download it again{source}."
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
        message = "The disk is full; partial files have been removed. Free some space, and prepare the dataset again"
        raise OSError(error.errno, message, str(path)) from error
