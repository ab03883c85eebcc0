import gzip
import struct

import numpy as np
import pytest

from tfdml.data.idx import read_idx


def idx_bytes(array, code):
    """An IDX file made by hand."""
    header = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    "code, dtype", [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3)])
def test_reads_all_types(tmp_path, code, dtype, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(idx_bytes(array, code))
    zipped = tmp_path / "some-idx3-ubyte.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for result in (read_idx(path), read_idx(str(zipped))):
        assert result.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(result, array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 8)


@pytest.mark.parametrize(
    "contents, message",
    [
        (GOOD[:-1], "Truncated IDX.*39 bytes. Expected: 40"),
        (GOOD[:10], "Truncated IDX.*header of 16"),
        (GOOD + b"x", "after its end.*41 bytes. Expected: 40"),
        (b"\x01" + GOOD[1:], "Not an IDX file"),
        (b"\0\0\x07\x01" + GOOD[4:], "Not an IDX file"),
        (b"\0\0\x08\x00", "Not an IDX file"),
        (b"", "Not an IDX file.*nothing"),
    ],
)
def test_refuses_damaged_files_by_name(tmp_path, contents, message):
    path = tmp_path / "damaged-idx3-ubyte"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("contents", [gzip.compress(GOOD)[:-9], b"no gzip at all"], ids=["cut off", "no gzip"])
def test_refuses_damaged_gzip_by_name(tmp_path, contents):
    path = tmp_path / "damaged-idx3-ubyte.gz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="gzip") as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")
