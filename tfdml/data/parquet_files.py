"""Read and write vectors with ids and labels in Parquet files."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tfdml._utils.files import whole_path

SOURCE = "source.json"
ID, CLASS, LABEL, ROLE, VECTOR = "id", "class_name", "label", "role", "vector"
_METADATA = b"tfdml"
_DTYPES = ("float16", "float32", "float64")


def import_parquet():
    """Import pyarrow and its module parquet, or raise an ImportError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f"Parquet files need pyarrow, which cannot be imported ({error}). Expected: pyarrow, before version 26 "
            "with NumPy 1. Run: pip install 'tfdml[ray]'."
        ) from error
    return pyarrow, parquet


class VectorBlock(NamedTuple):
    """Consecutive rows of Parquet files.

    Attributes:
        ids: List of int or str.
        classes: List with the names of the classes, `None` for rows without; or `None` without such a column.
        labels: int64 array `(n,)`, or `None`.
        roles: int8 array `(n,)`, or `None`.
        vectors: Array `(n, d)`, float16, float32 or float64.
    """

    ids: list
    classes: list | None
    labels: np.ndarray | None
    roles: np.ndarray | None
    vectors: np.ndarray


def write_vectors(path, block, metadata):
    """Write a block to a Parquet file, which appears when it is complete.

    Args:
        path: `pathlib.Path`.
        block: `VectorBlock`.
        metadata: dict that JSON can hold, returned by `metadata_of`.
    """
    arrow, parquet = import_parquet()
    dim = block.vectors.shape[1]
    columns = {ID: arrow.array(block.ids, arrow.string() if _are_texts(block.ids) else arrow.int64())}
    if block.classes is not None:
        columns[CLASS] = arrow.array(block.classes, arrow.string())
    if block.labels is not None:
        columns[LABEL] = arrow.array(block.labels, arrow.int64())
    if block.roles is not None:
        columns[ROLE] = arrow.array(block.roles, arrow.int8())
    numbers = arrow.array(np.ascontiguousarray(block.vectors).reshape(-1))
    columns[VECTOR] = arrow.FixedSizeListArray.from_arrays(numbers, dim)
    table = arrow.table(columns).replace_schema_metadata({_METADATA: json.dumps(metadata)})
    with whole_path(path) as partial:
        parquet.write_table(table, partial, use_dictionary=[CLASS])


def metadata_of(path):
    """Return the number of rows and the metadata of a Parquet file; `None` if it is damaged or has none."""
    arrow, parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            text = (file.schema_arrow.metadata or {}).get(_METADATA)
            return None if text is None else (file.metadata.num_rows, json.loads(text))
    except (OSError, ValueError, arrow.ArrowException):
        return None


def holds_parquet(folder):
    """Return whether a folder has Parquet files."""
    return os.path.isdir(folder) and any(_is_parquet(name) for name in os.listdir(folder))


class ParquetVectors:
    """Vectors in a Parquet file, or in the Parquet files of a folder in the order of their names.

    Files need the columns `id` (integers or text) and `vector` (lists of floats of one length). `class_name`, `label`
    (integers) and `role` are optional.

    Args:
        path: str or `os.PathLike`.

    Raises:
        FileNotFoundError: If there are no files.
        ValueError: If a file is damaged or lacks a column, or an extraction of the folder is unfinished.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()
        if self.path.is_dir():
            self.files = sorted(entry for entry in self.path.iterdir() if _is_parquet(entry.name))
        else:
            self.files = [self.path] if self.path.is_file() else []
        if not self.files:
            raise FileNotFoundError(
                f"There are no Parquet files. Received: {self.path}. Expected: a .parquet file, or a folder with some."
            )
        self.source = self._read_source()
        shards = self.source.get("shards")
        if isinstance(shards, int) and len(self.files) != shards:
            raise ValueError(
                f"The extraction of these vectors is not finished. Received: {self.path} with {len(self.files)} of "
                f"{shards} shards. Run the extraction again: it continues where it stopped."
            )
        # Files are opened one at a time: a collection can have more than a process may open.
        schemas = [self._schema(file) for file in self.files]
        self._count = sum(count for count, _ in schemas)
        self.columns = set(schemas[0][1].names)
        self.dim = self._dim([schema.field(VECTOR).type for _, schema in schemas])

    def __len__(self):
        return self._count

    def ids(self) -> list[Any]:
        """Return the ids of all rows, reading only their column."""
        ids = []
        for path in self.files:
            with self._open(path) as file:
                ids += file.read([ID]).column(ID).to_pylist()
        return ids

    def blocks(self, first_row: int = 0, with_vectors: bool = True) -> Iterator[VectorBlock]:
        """Yield the rows in order, one row group at a time, from the row group that begins with `first_row`.

        Without vectors, their column is not read, and the blocks have vectors of size 0.
        """
        names = [name for name in (ID, CLASS, LABEL, ROLE, VECTOR) if name in self.columns]
        names = names if with_vectors else names[:-1]
        for table, path in self._tables(names, first_row):
            yield self._block(table, path)

    def _tables(self, names, first_row=0):
        start = 0
        for path in self.files:
            with self._open(path) as file:
                for group in range(file.num_row_groups):
                    start += file.metadata.row_group(group).num_rows
                    if start <= first_row:
                        continue
                    table = file.read_row_group(group, columns=names)
                    if table.num_rows:
                        yield table, path

    def _read_source(self):
        try:
            source = json.loads((self.path / SOURCE).read_text(encoding="utf-8", errors="surrogateescape"))
        except (OSError, ValueError):
            return {}
        return source if isinstance(source, dict) else {}

    def _open(self, path):
        arrow, parquet = import_parquet()
        try:
            return parquet.ParquetFile(path)
        except (OSError, ValueError, arrow.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"Not a readable Parquet file. Received: {path} ({reason}).") from error

    def _schema(self, path):
        with self._open(path) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
        if not {ID, VECTOR} <= set(schema.names):
            raise ValueError(
                f"Columns are missing. Received: {path} with {schema.names}. Expected: {ID!r} and {VECTOR!r}."
            )
        return count, schema

    def _dim(self, kinds):
        sizes = {getattr(kind, "list_size", None) for kind in kinds}
        if None in sizes:
            # The schema does not have the size of such lists.
            sizes = {self._vectors(table, path).shape[1] for table, path in itertools.islice(self._tables([VECTOR]), 1)}
        if len(sizes) != 1:
            raise ValueError(
                f"Vectors have several sizes, or there are none. Received: {self.path} with "
                f"{sorted(set(map(str, kinds)))}. Expected: vectors of one size."
            )
        return sizes.pop()

    def _block(self, table, path):
        is_read = VECTOR in table.column_names
        vectors = self._vectors(table, path) if is_read else np.empty((table.num_rows, 0), np.float32)
        if is_read and vectors.shape[1] != self.dim:
            raise ValueError(
                f"Vectors have several sizes. Received: {vectors.shape[1]} in {path}. Expected: {self.dim}, as in "
                f"{self.files[0]}."
            )
        ids = table.column(ID).to_pylist()
        if any(item is None for item in ids):
            raise ValueError(f"Ids are missing. Received: {path} with empty values in {ID!r}. Expected: an id per row.")

        def numbers(name, dtype):
            if name not in self.columns:
                return None
            column = table.column(name)
            if column.null_count:
                raise ValueError(
                    f"Values are missing. Received: {path} with {column.null_count} empty values in {name!r}. "
                    "Expected: an integer per row, or no such column."
                )
            return column.to_numpy().astype(dtype)

        classes = table.column(CLASS).to_pylist() if CLASS in self.columns else None
        return VectorBlock(ids, classes, numbers(LABEL, np.int64), numbers(ROLE, np.int8), vectors)

    def _vectors(self, table, path):
        column = table.column(VECTOR).combine_chunks()
        column = column.chunk(0) if hasattr(column, "chunk") else column
        lengths = getattr(column.type, "list_size", None)
        flat: Any = column.flatten() if hasattr(column, "flatten") else None
        dtype = None if flat is None else _numpy_name(flat.type)
        if dtype not in _DTYPES or column.null_count or flat.null_count:
            raise ValueError(
                f"Vectors are not lists of floats. Received: {path} with {column.type} and {column.null_count} empty "
                f"rows. Expected: lists of {', '.join(_DTYPES)}."
            )
        if lengths is None:
            sizes = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
            if len(sizes) != 1:
                raise ValueError(f"Vectors have several sizes. Received: {sizes.tolist()[:10]} in {path}.")
            lengths = int(sizes[0])
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), lengths)


def _are_texts(ids):
    return bool(ids) and isinstance(ids[0], str)


def _is_parquet(name):
    return name.endswith(".parquet") and not name.startswith(".")


def _numpy_name(kind):
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind))

