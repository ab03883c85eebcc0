"""Text, JSON and CSV files that are written as a whole or not at all, and read again."""

import csv
import io
import json
import math

from tfdml._utils.files import whole_file


def write_text(path, text):
    """Writes a text file; names of files that are not UTF-8 keep their bytes."""
    with whole_file(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def csv_text(rows):
    """Rows of values as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path, header, rows):
    """Writes a CSV file: its header and rows of values."""
    write_text(path, csv_text([header, *rows]))


def read_csv(path):
    """The rows of a CSV file, each a dict of texts by column."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_json(path, content):
    """Writes numbers and text as JSON; what is not finite becomes null."""
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
    """What `write_json` wrote, a dict.

    Raises:
        ValueError: If the file is not there or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        reason = None if isinstance(content, dict) else "not the JSON that was written"
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not the JSON that was written"
    if reason is not None:
        raise ValueError(f"A file of the run cannot be read: {reason}. Received: {path}.")
    return content
