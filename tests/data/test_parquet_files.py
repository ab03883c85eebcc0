"""Vectors in Parquet files, read as features."""

import json

import numpy as np
import pytest

from tfdml.data import features, parquet_files
from tfdml.data.parquet_files import ParquetVectors, VectorBlock

try:
    parquet_files.import_parquet()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)
import pyarrow
import pyarrow.parquet


def make_block(count, start=0, dtype="float32", texts=True, **columns):
    rng = np.random.default_rng(start)
    ids = [f"photos/{start + row}.jpg" if texts else start + row for row in range(count)]
    labels = (start + np.arange(count)) % 3
    names = [("oak", "ash", None)[label] for label in labels]
    block = VectorBlock(ids, names, labels, None, rng.normal(size=(count, 4)).astype(dtype))
    return block._replace(**columns)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("texts", [True, False])
def test_blocks_return_what_was_written(tmp_path, dtype, texts):
    roles = np.array([1, 2, 2, 1, 0], np.int8)
    block = make_block(5, dtype=dtype, texts=texts, roles=roles)
    parquet_files.write_vectors(tmp_path / "a.parquet", block, {"shard": 7})
    assert parquet_files.metadata_of(tmp_path / "a.parquet") == (5, {"shard": 7})
    files = ParquetVectors(tmp_path / "a.parquet")
    assert (len(files), files.dim, files.ids()) == (5, 4, block.ids)
    (read,) = files.blocks()
    assert read.ids == block.ids and read.classes == block.classes
    np.testing.assert_array_equal(read.vectors, block.vectors)
    assert read.vectors.dtype == dtype
    np.testing.assert_array_equal(read.labels, block.labels)
    np.testing.assert_array_equal(read.roles, roles)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_files_follow_each_other_and_may_be_empty(tmp_path):
    blocks = [make_block(3), make_block(0, 3), make_block(2, 3)]
    for number, block in enumerate(blocks):
        parquet_files.write_vectors(tmp_path / f"{number}.parquet", block, {})
    files = ParquetVectors(tmp_path)
    assert files.ids() == blocks[0].ids + blocks[2].ids
    got = np.concatenate([block.vectors for block in files.blocks()])
    np.testing.assert_array_equal(got, np.concatenate([block.vectors for block in blocks]))


def test_files_of_other_programs(tmp_path):
    vectors = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    table = pyarrow.table({"id": [5, 7, 9], "vector": vectors, "class_name": ["b", "a", "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet", row_group_size=2)
    assert [len(block.ids) for block in ParquetVectors(tmp_path).blocks()] == [2, 1]
    dataset = features(tmp_path)
    assert dataset.class_names == ("a", "b") and dataset.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(dataset.read([0, 2]), np.array([[1, 2], [5, 6]], "float32"))
    table = pyarrow.table({"id": [5, 7, 9], "vector": vectors, "label": [4, 2, 4]})
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    assert features(tmp_path).class_names == ("2", "4")
    pyarrow.parquet.write_table(table.drop(["label"]), tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="Features without labels"):
        features(tmp_path)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"id": [1, 2]}, "Columns are missing"),
        ({"id": [1, 2], "vector": [[1.0], [1.0, 2.0]]}, r"several sizes. Received: \[1, 2\]"),
        ({"id": [1, 2], "vector": [[1.0], None]}, "not lists of floats"),
        ({"id": [1, 2], "vector": [[1.0], [None]]}, "not lists of floats"),
        ({"id": [1, 2], "vector": [[1], [2]]}, "not lists of floats"),
        ({"id": [1, 2], "vector": ["a", "b"]}, "not lists of floats"),
        ({"id": [1, None], "vector": [[1.0], [2.0]]}, "Ids are missing"),
        ({"id": [1, 2], "vector": [[1.0], [2.0]], "label": [0, None]}, "1 empty values in 'label'"),
    ],
)
def test_wrong_columns(tmp_path, columns, message):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        list(ParquetVectors(tmp_path).blocks())


def test_damaged_missing_and_unfinished_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no Parquet files"):
        ParquetVectors(tmp_path)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert parquet_files.metadata_of(path) is None
    with pytest.raises(ValueError, match="Not a readable Parquet file"):
        ParquetVectors(tmp_path)
    parquet_files.write_vectors(path, make_block(2), {})
    (tmp_path / "source.json").write_text(json.dumps({"shards": 3}))
    with pytest.raises(ValueError, match="1 of 3 shards"):
        features(tmp_path)
    (tmp_path / "source.json").unlink()
    other = make_block(2, 2, vectors=np.zeros((2, 5), "float32"))
    parquet_files.write_vectors(tmp_path / "b.parquet", other, {})
    with pytest.raises(ValueError, match="several sizes"):
        ParquetVectors(tmp_path)


def test_features_that_cannot_be_used(tmp_path):
    block = make_block(3, classes=["a", "b", "a"], vectors=np.full((3, 2), np.nan, "float32"))
    parquet_files.write_vectors(tmp_path / "a.parquet", block, {})
    with pytest.raises(ValueError, match="not finite"):
        features(tmp_path)
    assert features(tmp_path, verify=False).feature_size == 2
    with pytest.raises(ValueError, match="labels does not apply to Parquet"):
        features(tmp_path, labels=tmp_path / "labels.npy")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"tfdml\[ray\]"):
        parquet_files.import_parquet()
