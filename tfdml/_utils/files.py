"""Files that are written as a whole or not at all, by one process at a time."""

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
    """A folder that another process writes to."""


@contextlib.contextmanager
def whole_file(path, mode="wb", **options):
    """Opens a file that has its name only when the block has written all of it, and it is on the disk.

    Until then it has a name of its own next to its place, which no other process uses and which is not a link to
    something else. A kill at any time leaves the file that was there before, if there was one; a block that fails
    leaves nothing of its own.

    Args:
        path: Where to; a file or a symbolic link that is there is replaced.
        mode: `"wb"` or `"w"`.
        **options: As for `open`.

    Yields:
        The open file.
    """
    with whole_path(path) as partial:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
        descriptor = os.open(partial, flags, 0o666)
        with open(descriptor, mode, **options) as file:
            yield file


@contextlib.contextmanager
def whole_path(path):
    """A path for others to write a file to, which gets its own name when the block ends and the file is on the disk.

    Args:
        path: As for `whole_file`.

    Yields:
        A path in the same folder at which there is nothing; it ends as the given one does.
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
    """Removes what killed processes have left of `whole_file`, `whole_path` and `export_saved_model` in a folder.

    Only who knows that no other process writes there may call it.

    Args:
        folder: The folder.
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
    """Keeps a folder for this process as long as the block lasts.

    The lock belongs to the process: it ends with it, however it ends. The file `.lock` in the folder says who has it.
    Without locks of the operating system (Windows, some network file systems) the block just runs.

    Args:
        path: The folder.

    Raises:
        FolderInUseError: If another process has it; the message says which.
        OSError: If the folder cannot be written.
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
        # Only its owner removes it.
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
                f"Another process writes to {path}. Received: {_holder(holder)}. Expected: nobody. Wait until it ends, "
                "or stop it."
            ) from error
        # Who had it before may have removed the file between the two lines above.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path / LOCK)):
                return descriptor
        os.close(descriptor)


def _holder(content):
    try:
        holder = json.loads(content)
        return f"process {int(holder['process'])} on {str(holder['host'])[:100]}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said which"


# The disk is full, or the folder must not be written.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def reason_of_machine(error):
    """What of the machine's is the cause of an error, or None; HDF5 and TensorFlow give it as text alone."""
    text = str(error)
    for number in _OF_THE_MACHINE:
        reason = os.strerror(number)
        if getattr(error, "errno", None) == number or reason in text or f"errno = {number}," in text:
            name = getattr(error, "filename", None)
            return reason if name is None else f"{reason}: {name}"
    return None
