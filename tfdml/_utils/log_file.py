"""Write the package's log messages to a file."""

import contextlib
import logging
import os


class _LogFile(logging.FileHandler):
    """Log file that does not follow links, and whose errors do not end a run."""

    def _open(self):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding)

    def handleError(self, record):
        # On a full disk, later writes of the run fail, too, and report it.
        pass


@contextlib.contextmanager
def log_file(path):
    """Append the package's log messages to a file while the block runs, and the error that ends the block.

    Args:
        path: str or `os.PathLike`. File to append to.
    """
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package_logger = logging.getLogger("tfdml")
    level = package_logger.level
    if not package_logger.isEnabledFor(logging.INFO):
        package_logger.setLevel(logging.INFO)
    package_logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        # On an unattended machine, the file is the only record of the error.
        what, exc_info = (type(error).__name__, error), (type(error), error, error.__traceback__)
        record = package_logger.makeRecord(
            "tfdml", logging.ERROR, __file__, 0, "The run ends with %s: %s", what, exc_info
        )
        handler.handle(record)
        raise
    finally:
        package_logger.removeHandler(handler)
        package_logger.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()
