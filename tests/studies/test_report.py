"""Tables and figures of the studies, and their command line."""

import sys

import pytest

from studies import plots
from studies.report import Report, command
from tfdml.experiments.errors import InputError


def test_tables_and_images(tmp_path, capsys):
    report = Report(tmp_path / "new" / "folder")
    report.table("scores", ["loss", "MAP@R"], [["c2", 0.5], ["a, b", "0.25"]], "Both.")
    printed = capsys.readouterr().out
    assert printed.strip() == (report.folder / "scores.md").read_text().strip()
    assert printed.startswith("Both.\n\n| loss | MAP@R |\n")
    assert (report.folder / "scores.csv").read_text().splitlines() == ["loss,MAP@R", "c2,0.5", '"a, b",0.25']
    report.figure("ranks", plots.ranking(["a"], [[1.0]]))
    assert (report.folder / "ranks.png").stat().st_size > 1000


def test_command(monkeypatch, capsys):
    called = {}

    def study(out: str, sizes: list[int] = (1, 2), quick: bool = False):
        """A study.

        Args:
            out: Folder.
            sizes: Sizes.
            quick: Less.
        """
        called.update(out=out, sizes=list(sizes), quick=quick)
        if out == "wrong":
            raise InputError("There is no such folder.")

    monkeypatch.setattr(sys, "argv", ["study", "--out", "here", "--sizes", "[3,4]", "--quick"])
    command(study)
    assert called == {"out": "here", "sizes": [3, 4], "quick": True}
    monkeypatch.setattr(sys, "argv", ["study", "--out", "wrong"])
    with pytest.raises(SystemExit, match="error: There is no such folder."):
        command(study)
    monkeypatch.setattr(sys, "argv", ["study", "--out", "here", "--sizes", "many"])
    with pytest.raises(SystemExit):
        command(study)
    assert "sizes" in capsys.readouterr().err
