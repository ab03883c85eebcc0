"""A file is written as a whole or not at all."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from tfdml._utils.files import FolderInUseError, lock_folder, remove_partial, whole_file, whole_path


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
        assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["a.bin"])


def test_an_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_links_are_replaced_rather_than_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in ("a.txt", "a.txt.partial"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    with whole_file(tmp_path / "a.txt", "w") as file:
        file.write("other")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "other" and not (tmp_path / "a.txt").is_symlink()


def test_writers_at_the_same_time_leave_whole_files(tmp_path):
    path, contents = tmp_path / "a.bin", [bytes([number]) * 50_000 for number in range(4)]
    path.write_bytes(contents[0])

    def write(content):
        for _ in range(20):
            with whole_file(path) as file:
                file.write(content[:20_000])
                file.flush()
                file.write(content[20_000:])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_others_write(tmp_path):
    with whole_path(tmp_path / "best.weights.h5") as partial:
        assert partial.name.endswith(".best.weights.h5") and partial.parent == tmp_path
        partial.write_text("weights")
    assert (tmp_path / "best.weights.h5").read_text() == "weights"
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.weights.h5"]


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / ".saved_model.0a.unfinished" / "variables").mkdir(parents=True)
    (tmp_path / ".partial-0a.state.npz").write_text("half")
    (tmp_path / ".other.unfinished").symlink_to(tmp_path / "mine")
    remove_partial(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "file").exists()


def test_a_folder_is_locked_and_says_by_whom(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            with lock_folder(tmp_path):
                pass
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_broken(tmp_path):
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('files', sys.argv[1]); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); lock = m.lock_folder(sys.argv[2]); lock.__enter__(); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, sys.modules[lock_folder.__module__].__file__, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(FolderInUseError, match=f"process {process.pid} "), lock_folder(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / ".lock").read_text())["process"] == process.pid
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_lock_does_not_follow_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError), lock_folder(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
