"""Read CSV files of image paths, labels and annotations."""

from __future__ import annotations

import csv
import math
import os
import pathlib

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.naming import suggestion
from tfdml.data.image_files import check_reading_options, listed, unreadable
from tfdml.data.list_files import missing_files
from tfdml.data.related_sampler import encode_tags

_FEWEST_CLASSES = 2


def read_image_table(
    path, image_column, label_column, root, delimiter, verify, on_unreadable, max_pixels, annotation_columns=(),
    tag_column=None, tag_separator="|",
):  # fmt: skip
    """Read paths, labels and annotations from a CSV file, and check that the images exist and are readable.

    Args:
        path, image_column, label_column, root, delimiter, verify, on_unreadable, max_pixels, annotation_columns,
        tag_column, tag_separator: As for `LabeledImages.from_csv`.

    Returns:
        Tuple (paths, labels, annotations) of two lists and a float64 array `(n, columns)` or an int64 array
        `(n, tags)`, or `None` without columns of annotations. Labels are integers if all of them are integer literals,
        else str.
    """
    if isinstance(annotation_columns, str):
        annotation_columns = (annotation_columns,)
    annotation_columns = tuple(annotation_columns)
    if tag_column is not None and annotation_columns:
        raise ValueError(
            f"Annotations are numbers or tags. Received: annotation_columns={list(annotation_columns)} and tag_column="
            f"{tag_column!r}. Expected: one of the two."
        )
    if not isinstance(tag_separator, str) or not tag_separator:
        raise ValueError(f"Invalid separator of tags. Received: {tag_separator!r}. Expected: text, such as '|'.")
    of_annotations = annotation_columns if tag_column is None else (tag_column,)
    if label_column is None and not of_annotations:
        raise ValueError(
            "Images have neither labels nor annotations. Received: label_column=None, no annotation_columns and no "
            "tag_column. Expected: at least one of them."
        )
    check_reading_options(verify, on_unreadable)
    max_pixels = check_whole_number("max_pixels", max_pixels, minimum=1)
    file = pathlib.Path(os.fsdecode(path)).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"The file does not exist. Received: path={str(file)!r}. Expected: a CSV file.")
    columns = [image_column, *([] if label_column is None else [label_column]), *of_annotations]
    images, *values = read_columns(file, columns, delimiter)
    labels = [0] * len(images) if label_column is None else values.pop(0)
    annotations = (
        _annotations(file, annotation_columns, values)
        if tag_column is None
        else _tags(file, tag_column, values[0], tag_separator)
    )
    folder = file.parent if root is None else pathlib.Path(os.fsdecode(root)).expanduser()
    paths = [os.path.join(folder, os.path.expanduser(image)) for image in images]
    missing = dict.fromkeys(missing_files(paths))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(set(paths))} image files are missing. Received: {listed(missing)}. Expected: the "
            f"files listed in {file}. Pass `root`, the folder that its paths are relative to; now it is {folder}."
        )
    if verify:
        problems = unreadable(list(dict.fromkeys(paths)), on_unreadable, max_pixels)
        kept = [index for index, path in enumerate(paths) if path not in problems]
        paths, labels = [paths[index] for index in kept], [labels[index] for index in kept]
        annotations = None if annotations is None else annotations[kept]
    if label_column is None:
        return paths, labels, annotations
    if len(set(labels)) < _FEWEST_CLASSES and annotations is None:
        raise ValueError(
            f"Images need at least {_FEWEST_CLASSES} classes. Received: {len(labels)} rows of {file}, with the labels "
            f"{sorted(set(labels))} in the column {label_column!r}. Check that label_column is the right column."
        )
    return paths, _numbers(labels), annotations


def _annotations(file, columns, values):
    """Return columns of numbers as an array `(n, columns)`, or `None` without columns."""
    if not columns:
        return None
    wrong = {
        f"row {row}": f"{value!r} as {column!r}"
        for column, texts in zip(columns, values)
        for row, value in enumerate(texts, start=1)
        if not _is_finite(value)
    }
    if wrong:
        raise ValueError(
            f"{len(wrong)} annotations are not numbers. Received: {listed(wrong, 5)} of {file}. Expected: finite "
            f"numbers in the columns {list(columns)}; leave images of unknown position out."
        )
    return np.array(values, np.float64).T.copy()


def _tags(file, column, values, separator):
    """Return a multi-hot matrix of the tags in a column, int64 `(n, tags)`; tags are in sorted order."""
    tags = [sorted({tag.strip() for tag in value.split(separator)} - {""}) for value in values]
    without = {f"row {row}": repr(value) for row, (value, some) in enumerate(zip(values, tags), start=1) if not some}
    if without:
        raise ValueError(
            f"{len(without)} images have no tags. Received: {listed(without, 5)} of {file}. Expected: tags separated "
            f"by {separator!r} in the column {column!r}; leave images without tags out."
        )
    return encode_tags(tags)[0]


def _is_finite(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_columns(file, columns, delimiter):
    """Return a list of values for each of the columns; each row must have all of them.

    Args:
        file: `pathlib.Path` of the CSV file.
        columns: Sequence of str.
        delimiter: str.
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(
            f"Invalid delimiter. Received: delimiter={delimiter!r}. Expected: one character, such as ',' or ';'."
        )
    rows, wrong = [], {}
    try:
        # Accept the byte order mark that Excel writes; preserve bytes in paths that are not UTF-8.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(file, header, columns, delimiter)
            places = [header.index(column) for column in columns]
            for row in reader:
                if not row:
                    continue
                values = [row[place].strip() if place < len(row) else "" for place in places]
                if len(row) != len(header):
                    wrong[f"line {reader.line_num}"] = f"{len(row)} values"
                elif not all(values):
                    wrong[f"line {reader.line_num}"] = f"no {columns[values.index('')]}"
                rows.append(values)
    except csv.Error as error:
        raise ValueError(f"The CSV file is damaged. Received: {file}, line {reader.line_num}: {error}.") from error
    if wrong:
        raise ValueError(
            f"{len(wrong)} rows of the CSV file are incomplete. Received: {listed(wrong, 5)} of {file}. Expected: "
            f"{len(header)} values in each row, with {' and '.join(map(repr, columns))}."
        )
    if not rows:
        raise ValueError(
            f"The CSV file is empty. Received: {file} with a header only. Expected: one row per image."
        )
    return [list(column) for column in zip(*rows)]


def _check_header(file, header, columns, delimiter):
    if not any(header):
        raise ValueError(
            f"The CSV file is empty. Received: {file}. Expected: a header such as '{delimiter.join(columns)}', and one "
            "row per image."
        )
    for column in columns:
        if header.count(column) > 1:
            raise ValueError(f"Duplicate column. Received: {column!r} twice in {file}. Expected: distinct names.")
        if column not in header:
            hint = suggestion(column, header)
            raise ValueError(
                f"The CSV file lacks a column. Received: {column!r}; {file} has the columns {header}.{hint} Pass "
                "image_column and label_column, and delimiter if it is not a comma."
            )


def _numbers(labels):
    """Convert labels to integers if all are integer literals, so that 10 sorts after 9."""
    try:
        numbers = [int(label) for label in labels]
    except ValueError:
        return labels
    return numbers if all(str(number) == label for number, label in zip(numbers, labels)) else labels
