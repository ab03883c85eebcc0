"""What a study leaves: tables and figures in a folder."""

from __future__ import annotations

import csv
import pathlib
import sys

import jsonargparse
import numpy as np

from tfdml._utils.markdown import markdown_table
from tfdml.experiments.errors import InputError
from tfdml.plots import save


class Report:
    """A folder that a study fills.

    Args:
        folder: Where to; made if it does not exist. Files of the same names are replaced.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)

    def table(self, name, header, rows, caption=""):
        """Prints a table, and writes it as `name.md` and `name.csv`.

        Args:
            name: Of the files, without suffix.
            header: Names of the columns.
            rows: Lists of strings or numbers, as they are to be read.
            caption: A line above the table.
        """
        text = (f"{caption}\n\n" if caption else "") + markdown_table(header, rows)
        print(text, flush=True)
        (self.folder / f"{name}.md").write_text(text, encoding="utf-8")
        with open(self.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    def figure(self, name, figure):
        """Writes a figure as `name.png`."""
        save(figure, self.folder / f"{name}.png")


def mean_and_deviation(values, digits=3, ddof=0):
    """The mean of a few runs with their standard deviation, or the value of one.

    Args:
        values: Of the runs, `(runs,)`.
        digits: After the point.
        ddof: As for `numpy.std`: 1 for the deviation of a sample.

    Example:
        >>> mean_and_deviation([0.5, 0.7]), mean_and_deviation([0.5])
        ('0.600 ± 0.100', '0.500')
    """
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=ddof):.{digits}f}" if len(values) > 1 else mean


def command(study):
    """Runs a study from the command line; its arguments are those of the function, and `--quick` needs no value.

    Args:
        study: A function with typed arguments and a docstring that tells them.
    """
    arguments = ["--quick=true" if argument == "--quick" else argument for argument in sys.argv[1:]]
    try:
        jsonargparse.auto_cli(study, args=arguments, as_positional=False)
    except InputError as error:
        sys.exit(f"error: {error}")
