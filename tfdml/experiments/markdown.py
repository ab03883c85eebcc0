"""Tables as text."""

from __future__ import annotations


def markdown_table(header, rows):
    """A table in Markdown, its columns aligned for the reader of the text, too.

    Example:
        >>> print(markdown_table(["loss", "MAP@R"], [["c2", "0.71"]]))
        | loss | MAP@R |
        |------|-------|
        | c2   | 0.71  |
        <BLANKLINE>
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
