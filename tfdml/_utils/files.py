"""Write files atomically, and lock folders."""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shutil
import socket

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL_PREFIX = ".partial-"
LOCK = ".lock"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class FolderInUseError(OSError):
    """Raised if another process is writing to a folder."""


@contextlib.contextmanager
def whole_file(path, mode="wb", **options):
    """Open a file that gets its name only after the block has written it completely, and it is on the disk.

    Until then it has a unique temporary name in the same folder. A process killed at any time leaves the previous file;
    a block that fails leaves nothing.

    Args:
        path: str or `os.PathLike`. File to write; an existing file or symbolic link is replaced.
        mode: `"wb"` or `"w"`. Default `"wb"`.
        **options: Arguments of `open`.

    Yields:
        Open file.
    """
    with whole_path(path) as partial:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
        descriptor = os.open(partial, flags, 0o666)
        with open(descriptor, mode, **options) as file:
            yield file


@contextlib.contextmanager
def whole_path(path):
    """Yield a temporary path for a file, which is renamed to `path` when the block ends and the file is on the disk.

    Args:
        path: As for `whole_file`.

    Yields:
        Unused path in the same folder with the same extension.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(8)}.{path.name}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _sync(path):
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder):
    """Remove temporary files of `whole_file`, `whole_path` and `export_saved_model` that killed processes have left.

    Call it only if no other process writes to the folder.

    Args:
        folder: str or `os.PathLike`.
    """
    for entry in pathlib.Path(folder).iterdir():
        is_export = entry.name.startswith(".") and entry.name.endswith(".unfinished")
        with contextlib.suppress(OSError):
            if is_export and entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif is_export or entry.name.startswith(PARTIAL_PREFIX):
                entry.unlink()


@contextlib.contextmanager
def lock_folder(path):
    """Lock a folder for this process while the block runs.

    The lock ends with the process, however that ends. The file `.lock` in the folder names the process. On systems
    without file locks (Windows, some network file systems) nothing is locked.

    Args:
        path: str or `os.PathLike`. Folder to lock.

    Raises:
        FolderInUseError: If another process has locked the folder; the message names it.
        OSError: If the folder is not writable.
    """
    path = pathlib.Path(path)
    if fcntl is None:
        yield
        return
    descriptor = _locked_file(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        yield
    finally:
        # Only the owner removes the file.
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
        os.close(descriptor)


def _locked_file(path):
    while True:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 1000)
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return descriptor
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise FolderInUseError(
                f"Another process is writing to {path}. Received: {_holder(holder)}. Expected: no other process. Wait "
                "until it ends, or stop it."
            ) from error
        # The previous owner may have removed the file after it was opened and before it was locked.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path / LOCK)):
                return descriptor
        os.close(descriptor)


def _holder(content):
    try:
        holder = json.loads(content)
        return f"process {int(holder['process'])} on {str(holder['host'])[:100]}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


# The disk is full, or the folder is not writable.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def reason_of_machine(error):
    """Return the cause of an error if it is the machine's, such as a full disk, else `None`.

    HDF5 and TensorFlow report the cause only as text.
    """
    text = str(error)
    for number in _OF_THE_MACHINE:
        reason = os.strerror(number)
        if getattr(error, "errno", None) == number or reason in text or f"errno = {number}," in text:
            name = getattr(error, "filename", None)
            return reason if name is None else f"{reason}: {name}"
    return None
