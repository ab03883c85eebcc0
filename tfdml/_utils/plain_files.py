"""Read text, JSON and CSV files, and write them atomically."""

import csv
import io
import json
import math

from tfdml._utils.files import whole_file


def write_text(path, text):
    """Write a text file; file names that are not UTF-8 keep their bytes."""
    with whole_file(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def csv_text(rows):
    """Format rows of values as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path, header, rows):
    """Write a CSV file with a header and rows of values."""
    write_text(path, csv_text([header, *rows]))


def read_csv(path):
    """Return the rows of a CSV file, each a dict of str by column."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_json(path, content):
    """Write numbers and text as JSON; values that are not finite become null."""
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path):
    """Return the dict written by `write_json`.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        reason = None if isinstance(content, dict) else "not the JSON that was written"
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not the JSON that was written"
    if reason is not None:
        raise ValueError(f"A file of the run cannot be read: {reason}. Received: {path}.")
    return content
