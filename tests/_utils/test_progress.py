"""Progress bars, with tqdm and without."""

import sys

from tfdml._utils.progress import progress_bar


def test_without_tqdm_there_is_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress_bar([1, 2], total=2, desc="reading")) == [1, 2]
    with progress_bar(total=3) as bar:
        bar.update(2)
    assert bar.n == 2


def test_with_tqdm():
    assert list(progress_bar([1, 2], disable=True)) == [1, 2]
