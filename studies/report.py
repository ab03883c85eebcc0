"""Tables and figures that a study writes to a folder."""

from __future__ import annotations

import csv
import os
import pathlib
import sys

import jsonargparse
import numpy as np
from scipy import stats

from tfdml._utils.markdown import markdown_table
from tfdml.experiments.errors import InputError
from tfdml.plots import save


class Report:
    """Writes the tables and figures of a study to a folder.

    Args:
        folder: str or path. Created if it does not exist. Files of the same names are replaced.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)

    def table(self, name, header, rows, caption=""):
        """Print a table and write it as `name.md` and `name.csv`.

        Args:
            name: str. File name without suffix.
            header: list of str. Titles of the columns.
            rows: list of lists of str or numbers, printed as they are.
            caption: str. Line above the table. Default: none.
        """
        text = (f"{caption}\n\n" if caption else "") + markdown_table(header, rows)
        print(text, flush=True)
        (self.folder / f"{name}.md").write_text(text, encoding="utf-8")
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    def figure(self, name, figure):
        """Write a figure as `name.png`."""
        save(figure, self.folder / f"{name}.png")


def read_rows(path):
    """Return the rows of a CSV file with a header as a list of dicts of str, empty if the file does not exist."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path, columns, rows):
    """Add rows to a CSV file, with a header if it is new. A run is worth minutes, so they are on the disk afterwards.

    Args:
        path: `pathlib.Path`.
        columns: Sequence of str.
        rows: Sequence of dicts by column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def mean_and_deviation(values, digits=3, ddof=0):
    """Format the mean of several runs with their standard deviation, or the value of a single run.

    Args:
        values: float array `(runs,)`.
        digits: int. Digits after the decimal point. Default: 3.
        ddof: int. As for `numpy.std`: 1 for the deviation of a sample. Default: 0.

    Example:
        >>> mean_and_deviation([0.5, 0.7]), mean_and_deviation([0.5])
        ('0.600 ± 0.100', '0.500')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=ddof):.{digits}f}" if len(values) > 1 else mean


def paired_interval(differences, confidence=0.95, digits=3):
    """Format the mean of paired differences and its t interval, or the only difference.

    Args:
        differences: float array `(runs,)`. Differences of two methods with the same seed.
        confidence: float. Probability that the interval covers the true mean. Default: 0.95.
        digits: int. Digits after the decimal point. Default: 3.

    Example:
        >>> paired_interval(np.array([0.01, 0.02, 0.03]))
        '+0.020 [−0.005, +0.045]'
    """
    mean = np.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.{digits}f}".replace("-", "−")
    half = stats.t.ppf(0.5 + confidence / 2, len(differences) - 1) * stats.sem(differences)
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]".replace("-", "−")


def command(study):
    """Run a study from the command line, with the arguments of its function. `--quick` needs no value.

    Args:
        study: callable with typed arguments, whose docstring describes them.
    """
    arguments = ["--quick=true" if argument == "--quick" else argument for argument in sys.argv[1:]]
    try:
        jsonargparse.auto_cli(study, args=arguments, as_positional=False)
    except InputError as error:
        sys.exit(f"error: {error}")
