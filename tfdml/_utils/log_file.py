"""A file that takes what the package logs."""

import contextlib
import logging
import os


class _LogFile(logging.FileHandler):
    """A log file that is no link to another file, and whose errors do not end a run."""

    def _open(self):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding)

    def handleError(self, record):
        # On a full disk, what follows fails as well and says so.
        pass


@contextlib.contextmanager
def log_file(path):
    """Adds what the package logs to a file for as long as the block lasts, and the error that ends the block.

    Args:
        path: The file.
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
        # The file is all that is left of a run on a machine that nobody watches.
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
