"""Files that are written as a whole or not at all."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def whole_file(path, mode="wb", **options):
    """Opens a file that has its name only when the block has written all of it, and it is on the disk.

    Until then it is beside its place, with `.partial` behind its name. A kill at any time leaves the file that was
    there before, if there was one; a block that fails leaves nothing of its own.

    Args:
        path: Where to; a file that is there is replaced.
        mode: `"wb"` or `"w"`.
        **options: As for `open`.

    Yields:
        The open file.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
