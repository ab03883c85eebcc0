"""Progress bars, if tqdm is installed."""

import contextlib


def progress_bar(iterable=None, **options):
    """Return `tqdm(iterable, **options)`, or an equivalent without a bar if tqdm (extra `commands`) is not installed.

    Args:
        iterable: Iterable, or `None` for a bar that is advanced by `update`. Default `None`.
        **options: Options of tqdm.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return _Nothing(iterable)
    return tqdm(iterable, **options)


class _Nothing(contextlib.nullcontext):
    """Progress bar that shows nothing."""

    n = 0

    def __init__(self, iterable):
        super().__init__(self)
        self._iterable = iterable

    def __iter__(self):
        return iter(self._iterable)

    def update(self, count=1):
        self.n += count

    def set_postfix(self, *args, **kwargs):
        pass

    close = set_description = set_postfix
