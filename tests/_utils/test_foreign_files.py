"""Files that claim more than they hold are refused before anything is allocated."""

import io
import os
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from tfdml._utils.foreign_files import check_h5, read_npz, size_limit

ARRAYS = {
    "layer/kernel": np.arange(6.0).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "text": np.array(["a", "bcd"]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    arrays = read_npz(tmp_path / "a.npz")
    assert list(arrays) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype and arrays[name].flags.writeable
        np.testing.assert_array_equal(arrays[name], expected)
    assert list(read_npz(tmp_path / "a.npz", ["scalar"])) == ["scalar"]
    with pytest.raises(ValueError, match=r"a\.npz\. Expected: an array named 'other'"):
        read_npz(tmp_path / "a.npz", ["other"])


def header_of(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**30,), (2**40, 2**40), (-1, 4), (3,)])
@pytest.mark.parametrize("dtype", ["<f4", "<U0"])
def test_header_that_claims_more_than_there_is(shape, dtype, tmp_path):
    path = tmp_path / "a.npz"
    write_zip(path, a=header_of(shape, dtype))

    def read():
        with pytest.raises(ValueError, match=rf"Not a readable \.npz\. Received: {path} \(ValueError: .*shape"):
            read_npz(path)

    assert peak_of(read) < 2**20


def test_zip_bomb(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(header_of((25 * 2**20,)))
        for _ in range(100):
            member.write(bytes(2**20))
    assert path.stat().st_size < 200_000

    def read():
        with pytest.raises(ValueError, match=rf"Received: {path}.* claims 104,857,\d+ bytes\. Expected: at most 6"):
            read_npz(path)

    assert peak_of(read) < 2**20


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", header_of((2,), "|O") + bytes(16), b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
     b"\x93NUMPY\x01\x00\x0a\x00" + b"(" * 10, b"\x93NUMPY\x03\x00"],
)  # fmt: skip
def test_damaged_members(content, tmp_path):
    write_zip(tmp_path / "a.npz", a=content)
    with pytest.raises(ValueError, match=rf"Not a readable \.npz\. Received: {tmp_path}/a\.npz") as raised:
        read_npz(tmp_path / "a.npz")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04"])
def test_damaged_archives(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"Received: {tmp_path}/a\.npz"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=rf"Received: {tmp_path}/a\.npz"):
        check_h5(tmp_path / "a.npz")


def test_missing_files(tmp_path):
    for read in (read_npz, check_h5):
        with pytest.raises(FileNotFoundError, match="none"):
            read(tmp_path / "none")


def test_h5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/b"] = np.zeros((3, 4))
        file["c"] = file["a"]  # A second name of the same group.
        file["a/round"] = file["a"]
        file["text"] = "words"
        file.create_dataset("nothing", data=h5py.Empty("f4"))
    check_h5(path)
    with h5py.File(path, "a") as file:
        file.create_dataset("d", (2**20, 2**10), "f4")
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match=rf"Received: {path}.* claims 4,294,967,\d+ bytes\. Expected: at most 67,"):
        check_h5(path)


@pytest.mark.parametrize("kind", ["soft", "external", "external data", "virtual"])
def test_h5_that_points_elsewhere(kind, tmp_path):
    path, other = tmp_path / "a.h5", tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["d"] = np.zeros(4, "f4")
    with h5py.File(path, "w") as file:
        if kind == "soft":
            file["a"] = h5py.SoftLink("/b")
        elif kind == "external":
            file["a"] = h5py.ExternalLink(other.name, "/d")
        elif kind == "external data":
            file.create_dataset("a", (4,), "f4", external=[(os.fspath(other), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(other.name, "d", (4,))
            file.create_virtual_dataset("a", layout)
    with pytest.raises(ValueError, match=rf"Received: {path} .*'a' (is a link to|lies in) another"):
        check_h5(path)


def test_limit(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    assert size_limit(tmp_path / "a") == 64 * 2**20 + 16_000
