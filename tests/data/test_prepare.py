"""Preparing published datasets: archives, checksums, counts, images, and all that can go wrong."""

import errno
import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile

import miniatures
import pytest

from tfdml.data import archives, load
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.prepare import main, preparable_names, prepare

NAMES = sorted(PUBLISHED)


@pytest.fixture
def packed(request, tmp_path):
    """`pack(name, **options)`: a miniature whose archives lie where they are to be put; (path, archives)."""

    def pack(name, **options):
        path = miniatures.make(name, tmp_path / "data", **options)
        root = PUBLISHED[name].root(path)
        parts = PUBLISHED[name].layout(root).parts
        return path, [miniatures.pack(part.place(root), part.archive) for part in parts if part.archive is not None]

    return pack


def everything_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names():
    assert preparable_names() == ["cars196", "cifar10", "cifar100", "cifar_collage", "cub", "emoji", "in_shop", "sop"]
    with pytest.raises(ValueError, match="Unknown published dataset. Received: 'cup'.*Did you mean 'cub'"):
        prepare("cup", "nowhere")
    with pytest.raises(ValueError, match="counts='some'"):
        prepare("cub", "nowhere", counts="some")


@pytest.mark.parametrize("name", sorted({*preparable_names()} - {"emoji"}))
def test_an_extracted_folder_is_checked_and_left_alone(tmp_path, name):
    path = miniatures.make(name, tmp_path)
    before = everything_in(path)
    found = prepare(name, str(path), counts="any")
    assert found["classes"] == {"cifar10": 10, "cifar100": 100, "cifar_collage": 100}.get(name, 8)
    if name == "in_shop":
        assert (found["query images"], found["gallery images"]) == (8, 8)
    assert everything_in(path) == before


@pytest.mark.parametrize("name", NAMES)
def test_archives_are_extracted(tmp_path, name, packed):
    expected = everything_in(miniatures.make(name, tmp_path / "expected"))
    path, files = packed(name)
    with pytest.raises((FileNotFoundError, ValueError)):
        load(name, path=path)
    prepare(name, path, counts="any")
    found = everything_in(path)
    assert {name for name in found if name not in expected} == {file.relative_to(path) for file in files}
    for file in expected:
        # SciPy writes the time into its files.
        assert file.suffix == ".mat" or found[file] == expected[file]
    assert all(pathlib.Path(file).exists() for file in files)


def test_the_second_form_of_cars196(packed):
    path, files = packed("cars196", devkit=True)
    assert {file.name for file in files} == {"cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"}
    assert prepare("cars196", path, counts="any")["images"] == 32


def test_an_archive_in_a_folder_of_its_own_name(tmp_path):
    miniatures.make_cub(tmp_path)
    (tmp_path / "inner").mkdir()
    archive = miniatures.pack(tmp_path / "CUB_200_2011", "CUB_200_2011.tgz")
    folder = tmp_path / "CUB_200_2011"
    folder.mkdir()
    archive.rename(folder / archive.name)
    assert prepare("cub", folder, counts="any")["images"] == 32
    assert len(load("cub", path=folder, counts="any")) == 32


def test_published_counts_and_checksums(packed, tmp_path):
    whole = miniatures.make_sop(tmp_path / "whole")
    path, (archive,) = packed("sop")
    with pytest.raises(ValueError, match="Expected: 7f73d41a2f44250d4779881525aea32e.*file: remove it") as error:
        prepare("sop", path)
    assert str(archive) in str(error.value)
    assert [entry.name for entry in path.iterdir()] == [archive.name]
    with miniatures.expected_counts_of("sop", whole, md5={archive.name: miniatures.md5_of(archive)}):
        assert prepare("sop", path)["images"] == 32
    with pytest.raises(ValueError, match="with 8 classes, 32 images.*Expected: 22,634 classes, 120,053 images"):
        prepare("sop", path)


def test_the_checksum_of_a_list_that_is_no_archive(tmp_path):
    path = miniatures.make_cars196(tmp_path)
    place = path / "cars_annos.mat"
    with miniatures.expected_counts_of("cars196", path, md5={place.name: "0" * 32}):
        with pytest.raises(ValueError, match=f"Wrong checksum. Received: {place} of .* Expected: 0000"):
            prepare("cars196", path)
    with miniatures.expected_counts_of("cars196", path, md5={place.name: miniatures.md5_of(place)}):
        prepare("cars196", path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_numbers_of_cifar(tmp_path, name):
    path = miniatures.make(name, tmp_path)
    with pytest.raises(ValueError, match="Expected: 50,000 images in the training files, 10,000 images in the test"):
        prepare(name, path)
    with miniatures.expected_counts_of(name, path):
        prepare(name, path)
    files = sorted(path.rglob("*.bin"))
    files[0].write_bytes(files[0].read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"Damaged file. Received: {files[0]}"):
        prepare(name, path, counts="any")


@pytest.mark.parametrize("name", NAMES)
def test_says_what_to_put_where(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"was not found. Received: path=.*Put \S+, from .*Then run") as error:
        prepare(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(error.value)
    assert not (tmp_path / "nowhere").exists()


def test_the_images_of_in_shop_are_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with pytest.raises(FileNotFoundError, match="Put img.zip, .*license"):
        prepare("in_shop", tmp_path, download=True)


def test_corrupt_images_are_named(tmp_path):
    path = miniatures.make_cub(tmp_path)
    victims = [pathlib.Path(image) for image in load("cub", path=path, counts="any").images[[2, 17]]]
    victims[0].write_bytes(victims[0].read_bytes()[:-60])
    victims[1].write_bytes(b"")
    with pytest.raises(ValueError, match="Unreadable images") as error:
        prepare("cub", path, counts="any")
    assert all(str(victim) in str(error.value) for victim in victims)


def test_a_missing_list_is_named(packed):
    path, (archive,) = packed("cub")
    prepare("cub", path, counts="any")
    (path / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classes.txt. The content of .*CUB_200_2011 is incomplete: remove it"):
        prepare("cub", path, counts="any")


@pytest.mark.parametrize("name", ["cub", "sop", "in_shop", "cifar10"])
@pytest.mark.parametrize("kept", [0, 0.5, -1, -12])
def test_truncated_archives_are_named(name, kept, packed):
    path, (archive,) = packed(name)
    contents = archive.read_bytes()
    archive.write_bytes(contents[: int(len(contents) * kept) if 0 <= kept < 1 else kept])
    before = everything_in(path)
    with pytest.raises(ValueError, match=f"Truncated or damaged archive. Received: {archive} of .* download it again"):
        prepare(name, path, counts="any")
    assert everything_in(path) == before
    assert not [entry for entry in archive.parent.iterdir() if "partial" in entry.name]


@pytest.mark.parametrize("name", ["cub", "sop"])
def test_damage_inside_an_archive_is_found(name, packed):
    path, (archive,) = packed(name)
    contents = bytearray(archive.read_bytes())
    contents[len(contents) // 3] ^= 0xFF
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match=f"Truncated or damaged archive. Received: {archive}"):
        prepare(name, path, counts="any")
    assert [entry.name for entry in path.iterdir()] == [archive.name]


class FullDisk:
    """A file that takes so many bytes, and then no more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, contents):
        self.room -= len(contents)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(contents)


@pytest.fixture
def full_disk(monkeypatch):
    """Whatever is written by `tfdml.data.archives` finds room for 1,000 bytes a file."""

    def open_file(path, mode="r"):
        return FullDisk(open(path, mode), room=1_000) if "w" in mode else open(path, mode)

    monkeypatch.setattr(archives, "open", open_file, raising=False)


@pytest.mark.parametrize("name", ["cifar10", "sop"])
def test_a_full_disk_while_extracting(name, packed, monkeypatch, full_disk):
    path, (archive,) = packed(name, **({"size": (300, 200)} if name == "sop" else {}))
    with pytest.raises(OSError, match="The disk is full; partial files have been removed") as error:
        prepare(name, path, counts="any")
    assert error.value.errno == errno.ENOSPC
    assert str(PUBLISHED[name].root(path)) in str(error.value)
    assert [entry.name for entry in path.iterdir()] == [archive.name]


def test_what_a_killed_attempt_left_is_not_taken_for_whole(packed):
    path, (archive,) = packed("cub")
    left = path / ".CUB_200_2011.partial" / "CUB_200_2011" / "images"
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="exists, but is not extracted. Run: .* cub "):
        load("cub", path=path, counts="any")
    prepare("cub", path, counts="any")
    assert sorted(entry.name for entry in path.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]
    assert not list(path.rglob("half.jpg"))


def test_an_interruption_leaves_nothing(packed, monkeypatch):
    path, (archive,) = packed("sop")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("sop", path, counts="any")
    assert [entry.name for entry in path.iterdir()] == [archive.name]


@pytest.mark.parametrize("member", ["../outside", "CUB_200_2011/../../outside", "/outside", "CUB_200_2011\\..\\o"])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_nothing_is_written_outside_of_the_folder(tmp_path, member, kind):
    archive = tmp_path / "data" / f"archive.{kind}"
    archive.parent.mkdir()
    write_archive(archive, {"CUB_200_2011/images.txt": b"", member: b"outside"})
    with pytest.raises(ValueError, match="which lies outside of it") as error:
        archives.extract(archive, tmp_path / "data" / "CUB_200_2011")
    assert str(archive) in str(error.value)
    assert everything_in(tmp_path).keys() == {archive.relative_to(tmp_path)}


def test_links_are_refused(tmp_path):
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as file:
        link = tarfile.TarInfo("CUB_200_2011")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(ValueError, match="archive.tgz with the link 'CUB_200_2011'"):
        archives.extract(archive, tmp_path / "CUB_200_2011")


def test_unsupported_compression_is_named(tmp_path):
    archive = tmp_path / "archive.zip"
    write_archive(archive, {"CUB_200_2011/images.txt": b"list"})
    contents = bytearray(archive.read_bytes())
    # The method in the member's header and in the directory: 97 is WavPack.
    contents[8] = contents[contents.index(b"PK\1\2") + 10] = 97
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match=f"Unsupported compression. Received: {archive}.*Extract it with another"):
        archives.extract(archive, tmp_path / "CUB_200_2011")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_damaged_compression_is_named(tmp_path, method):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("CUB_200_2011/images.txt", bytes(range(256)) * 40)
    contents = bytearray(archive.read_bytes())
    for place in range(80, 120):
        contents[place] ^= 0xFF
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match=f"Truncated or damaged archive. Received: {archive}"):
        archives.extract(archive, tmp_path / "CUB_200_2011")
    assert not (tmp_path / "CUB_200_2011").exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("members", [("x", "x/y"), ("x/y", "x")])
def test_files_and_folders_of_one_name(tmp_path, kind, members):
    archive = tmp_path / f"archive.{kind}"
    write_archive(archive, {f"CUB_200_2011/{name}": b"list" for name in members})
    with pytest.raises(ValueError, match=f"Received: {archive}, in which 'CUB_200_2011/x(/y)?' is a file and a folder"):
        archives.extract(archive, tmp_path / "CUB_200_2011")
    assert everything_in(tmp_path).keys() == {pathlib.Path(archive.name)}


def test_other_things_in_an_archive_are_passed_over(tmp_path):
    archive = tmp_path / "archive.tgz"
    write_archive(archive, {"attributes.txt": b"more", "./CUB_200_2011/images.txt": b"list", "__MACOSX/x": b""})
    archives.extract(archive, tmp_path / "CUB_200_2011")
    assert everything_in(tmp_path).keys() == {pathlib.Path("archive.tgz"), pathlib.Path("CUB_200_2011/images.txt")}
    with pytest.raises(ValueError, match="archive.tgz, which holds no folder 'cars_train'"):
        archives.extract(archive, tmp_path / "cars_train")


def test_an_archive_with_a_password(packed):
    path, (archive,) = packed("in_shop")
    # The flags of each file in the directory at the end: the lowest bit says that it is encrypted.
    entry = b"PK\x01\x02\x14\x03\x14\x00"
    archive.write_bytes(archive.read_bytes().replace(entry + b"\x00", entry + b"\x01"))
    with pytest.raises(ValueError, match=f"needs a password. Received: {archive}. Extract it yourself"):
        prepare("in_shop", path, counts="any")


def write_archive(path, members):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, contents in members.items():
                file.writestr(name, contents)
        return
    with tarfile.open(path, "w:gz") as file:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            file.addfile(info, io.BytesIO(contents))


@pytest.fixture
def host(tmp_path, packed):
    """The archive at an "official address" on this machine for CUB, whose published counts and checksum it has."""
    whole = miniatures.make_cub(tmp_path / "whole")
    _, (archive,) = packed("cub")
    with miniatures.expected_counts_of("cub", whole, md5={archive.name: miniatures.md5_of(archive)}) as published:
        (layout,) = published.layouts
        parts = (layout.parts[0]._replace(url=archive.as_uri()),)
        # The `with` puts back what was there before.
        PUBLISHED["cub"] = published._replace(layouts=(layout._replace(parts=parts),))
        yield archive


def test_what_is_missing_is_fetched_if_asked_for(tmp_path, host):
    path = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError, match=r"\(with --download it downloads missing files\)"):
        prepare("cub", path)
    assert prepare("cub", path, download=True)["images"] == 32
    assert sorted(entry.name for entry in path.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]
    # What is there is not fetched again.
    host.unlink()
    prepare("cub", path, download=True)


def test_a_wrong_checksum_of_what_was_fetched(tmp_path, host):
    host.write_bytes(host.read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"Wrong checksum.*CUB_200_2011.tgz.*download it again from {host.as_uri()}"):
        prepare("cub", tmp_path / "new", download=True)
    assert not list((tmp_path / "new").iterdir())


def test_an_address_that_does_not_answer(tmp_path, host):
    host.unlink()
    message = rf"CUB_200_2011.tgz cannot be downloaded. Received: {host.as_uri()} \(.*put it into the folder"
    with pytest.raises(ConnectionError, match=message) as error:
        prepare("cub", tmp_path / "new", download=True)
    assert str(tmp_path / "new") in str(error.value)
    assert not list((tmp_path / "new").iterdir())


def test_a_connection_that_ends_too_early(tmp_path, host, monkeypatch):
    contents = host.read_bytes()

    class Response(io.BytesIO):
        headers = {"Content-Length": str(len(contents))}

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(contents[:1000]))
    with pytest.raises(ConnectionError, match=f"the download ended after 1,000 of {len(contents):,} bytes"):
        prepare("cub", tmp_path / "new", download=True)
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_while_fetching(tmp_path, host, full_disk):
    with pytest.raises(OSError, match="The disk is full") as error:
        prepare("cub", tmp_path / "new", download=True)
    assert error.value.errno == errno.ENOSPC
    assert "CUB_200_2011.tgz" in str(error.value)
    assert not list((tmp_path / "new").iterdir())


def test_command(tmp_path, capsys):
    path = miniatures.make_sop(tmp_path)
    assert main(["sop", str(path), "--counts", "any"]) == 0
    assert capsys.readouterr().out == (
        "sop: 8 classes, 32 images, 4 training classes, 16 training images; all are readable.\n"
    )
    assert main(["sop", str(path)]) == 1
    assert main(["sop", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert "tfdml-prepare: These are not the published images" in error
    assert "nowhere'. Put Stanford_Online_Products.zip, from ftp://" in error
    with pytest.raises(SystemExit):
        main(["sop"])


@pytest.mark.integration
def test_the_command_in_a_process_of_its_own(tmp_path, request):
    run = [sys.executable, "-m", "tfdml.data.prepare", "sop", str(miniatures.make_sop(tmp_path)), "--counts", "any"]
    done = subprocess.run(run, cwd=request.config.rootpath, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sop: 8 classes, 32 images")


def test_a_terminal_sees_how_far_it_is(tmp_path, packed, monkeypatch, capsys):
    path, (archive,) = packed("cub")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    prepare("cub", path, counts="any")
    shown = capsys.readouterr().err
    assert "extracting CUB_200_2011.tgz: 100%" in shown
    assert "reading: 100%" in shown and "32/32" in shown
