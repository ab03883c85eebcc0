"""Progress bars, where tqdm is installed."""

import contextlib


def progress_bar(iterable=None, **options):
    """`tqdm(iterable, **options)`; without tqdm, which comes with the extra `commands`, the same without a bar.

    Args:
        iterable: What to go through, or `None` for a bar that `update` moves.
        **options: Options of tqdm.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return _Nothing(iterable)
    return tqdm(iterable, **options)


class _Nothing(contextlib.nullcontext):
    """A bar that shows nothing."""

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
