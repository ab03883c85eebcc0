"""A file is written as a whole or not at all."""

import pytest

from tfdml.files import whole_file


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with whole_file(path, "w", encoding="utf-8") as file:
        file.write("äfter")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_text(encoding="utf-8") == "äfter"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    for before in (None, b"before"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(OSError, match="No space left"), whole_file(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        assert (path.read_bytes() if path.exists() else None) == before
        assert not list(tmp_path.glob("*.partial"))
