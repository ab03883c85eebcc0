import json
import os
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
from mean_color import MeanColor
from PIL import Image

from tfdml import Gallery
from tfdml.data import Preprocessing
from tfdml.data.parquet_files import VectorBlock, write_vectors
from tfdml.experiments import InputError, gallery_build, gallery_main, gallery_search
from tfdml.experiments.gallery_embedder import open_embedder
from tfdml.experiments.gallery_files import SOURCE
from tfdml.export import export_saved_model
from tfdml.gallery.vectors import StoredVectors

SIZE = 6


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])


@pytest.fixture
def mean_color(monkeypatch):
    """Let the names "mean" and "other" be embedders of the mean color."""

    def opened(name, options=None, root="", trust=False):
        if name not in ("mean", "other"):
            raise InputError(f"There is no such embedder. Received: {name!r}.")
        return MeanColor(seed=name == "other")

    for module in (gallery_build, gallery_search):
        monkeypatch.setattr(module, "open_embedder", opened)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with photos of three labels and without one, and a small embedder in two forms."""
    folder, generator = tmp_path_factory.mktemp("material"), np.random.default_rng(0)
    for label, color in (("cat", 40), ("dog", 120), ("emu", 200)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = color + generator.integers(0, 50, (10, 8 + number, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / label / f"{number}.png")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "photos" / "white.png")
    (folder / "photos" / "cat" / "notes.txt").write_text("no image")
    make_model().save(folder / "model.keras")
    return folder


@pytest.fixture
def place(material, tmp_path, monkeypatch):
    """A copy of the material as the current folder."""
    shutil.copytree(material, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="module")
def built(material, tmp_path_factory):
    """The material with a gallery, made once."""
    folder = tmp_path_factory.mktemp("built") / "place"
    shutil.copytree(material, folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        run("build", "model.keras", "photos", "--out", "gallery", "--quiet")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def gallery(built, tmp_path, monkeypatch):
    """A copy of the gallery next to its photos, in the current folder."""
    shutil.copytree(built, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy" / "gallery"


def run(*arguments):
    assert gallery_main([str(argument) for argument in arguments]) == 0


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        gallery_main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def vectors_of(paths):
    """Vectors without the pipelines of the package: decoded by Pillow, embedded by NumPy."""
    kernel, bias = make_model().get_weights()
    preprocessing = Preprocessing((SIZE, SIZE), 3)
    images = [preprocessing(np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    return np.reshape(images, (len(images), -1)) @ kernel + bias


def test_help_and_names_of_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        gallery_main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for command in ("build", "search", "add", "remove", "calibrate", "info", "serve"):
        assert f"  {command} " in shown
        with pytest.raises(SystemExit) as exit_:
            gallery_main([command, "--help"])
        assert exit_.value.code == 0 and f"tfdml-gallery {command}" in capsys.readouterr().out
    assert "No command" in error_of(capsys)
    assert "Unknown command 'serch'. Did you mean 'search'?" in error_of(capsys, "serch", "gallery")
    assert "Did you mean --distance?" in error_of(capsys, "build", "a", "b", "--distanse", "l2")


def test_build_and_search(gallery, capsys):
    paths = ["photos/white.png", *(f"photos/{label}/{n}.png" for label in ("cat", "dog", "emu") for n in range(4))]
    stored = Gallery.load(gallery)
    assert stored.ids == paths and stored.distance == "l2"
    assert stored.labels(paths) == [None] + ["cat"] * 4 + ["dog"] * 4 + ["emu"] * 4
    np.testing.assert_allclose(stored.vectors(paths), vectors_of(paths), atol=1e-5)
    run("search", "gallery", "photos/dog/1.png", "photos/cat/0.png", "-k", 3, "--json", "--figure", "found.png")
    assert Image.open("found.png").width > 500
    found = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in found] == ["photos/dog/1.png", "photos/cat/0.png"]
    vectors = vectors_of(paths)
    for one in found:
        distances = np.linalg.norm(vectors - vectors[paths.index(one["query"])], axis=1)
        expected = np.argsort(distances, kind="stable")[:3]
        assert [neighbor["id"] for neighbor in one["neighbors"]] == [paths[row] for row in expected]
        np.testing.assert_allclose([each["distance"] for each in one["neighbors"]], distances[expected], atol=1e-5)
        assert one["verdict"] is None and one["neighbors"][0]["id"] == one["query"]


def test_the_embedder_is_found_from_other_folders(gallery, tmp_path, monkeypatch, capsys):
    """A gallery, its photos and its embedder move together, and the command runs anywhere."""
    shutil.move(gallery.parent, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run("search", "moved/gallery", "moved/photos/emu/2.png", "-k", 1, "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["neighbors"][0]["id"] == "photos/emu/2.png"
    shutil.move("moved/model.keras", "elsewhere.keras")
    assert "model.keras" in (message := error_of(capsys, "search", "moved/gallery", "moved/photos/emu/2.png"))
    assert "--embedder" in message
    run("search", "moved/gallery", "moved/photos/emu/2.png", "-k", 1, "--embedder", "elsewhere.keras")
    make_model(seed=1).save("other.keras")
    message = error_of(capsys, "search", "moved/gallery", "moved/photos/emu/2.png", "--embedder", "other.keras")
    assert "made with another embedder" in message


def test_an_interrupted_build_goes_on_and_gives_the_same_gallery(place, mean_color, monkeypatch, capsys):
    monkeypatch.setattr(gallery_build, "BLOCK_SIZE", 4)
    embedded, stop_at = [], 6
    embed_files = MeanColor.embed_files

    def interrupted(self, paths, batch_size, advance=None):
        if len(embedded) + len(paths) > stop_at:
            raise KeyboardInterrupt
        embedded.extend(paths)
        return embed_files(self, paths, batch_size, advance)

    monkeypatch.setattr(MeanColor, "embed_files", interrupted)
    arguments = ["build", "mean", "photos", "--out", "again", "--quiet", "--batch-size", "3"]
    assert gallery_main(arguments) == 130
    assert "goes on where it stopped" in capsys.readouterr().err
    assert len(embedded) == 4 and not pathlib.Path("again").exists()
    # A file that changes in between is embedded again, with its block.
    os.utime("photos/white.png", (1, 1))
    # The embedder must be the same.
    assert "another embedder" in error_of(capsys, "build", "other", "photos", "--out", "again", "--quiet")
    stop_at = 100
    run(*arguments)
    assert len(embedded) == 4 + 13
    assert not list(pathlib.Path().glob("again.*"))
    run("build", "mean", "photos", "--out", "whole", "--quiet")
    first, second = Gallery.load("whole"), Gallery.load("again")
    assert first.ids == second.ids and first.labels(first.ids) == second.labels(second.ids)
    np.testing.assert_allclose(first.vectors(first.ids), second.vectors(second.ids), atol=1e-6)


def test_a_resumed_build_is_bit_for_bit_that_of_one_go(place, mean_color, monkeypatch):
    monkeypatch.setattr(gallery_build, "BLOCK_SIZE", 4)
    embed, calls = gallery_build.Blocks.embed, []

    def killed(self, number, batch_size, bar):
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        embed(self, number, batch_size, bar)

    run("build", "mean", "photos", "--out", "whole", "--quiet")
    monkeypatch.setattr(gallery_build.Blocks, "embed", killed)
    arguments = ["build", "mean", "photos", "--out", "parts", "--quiet"]
    assert gallery_main(arguments) == 130
    # A block that was written in part does not count.
    with open("parts.unfinished/block-000001.npz", "r+b") as file:
        file.truncate(100)
    run(*arguments)
    assert calls == [0, 1, 2, 0, 1, 2, 3]
    whole, parts = Gallery.load("whole"), Gallery.load("parts")
    np.testing.assert_array_equal(whole.vectors(whole.ids), parts.vectors(parts.ids))


def test_unreadable_files_are_reported_and_others_kept(place, mean_color, capsys):
    pathlib.Path("photos/dog/1.png").write_bytes(b"no image")
    contents = pathlib.Path("photos/cat/0.png").read_bytes()
    pathlib.Path("photos/emu/0.png").write_bytes(contents[: len(contents) // 2])
    # A JPEG whose end is missing can be decoded at an eighth of its size.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("photos/cat/big.jpg")
    contents = pathlib.Path("photos/cat/big.jpg").read_bytes()
    pathlib.Path("photos/cat/big.jpg").write_bytes(contents[: len(contents) * 3 // 4])
    run("build", "mean", "photos", "--out", "gallery", "--quiet")
    captured = capsys.readouterr()
    assert "3 images left out" in captured.err and "11 images added" in captured.out
    assert "1 other file skipped" in captured.out
    for path in ("photos/dog/1.png", "photos/emu/0.png", "photos/cat/big.jpg"):
        assert path in captured.err and path not in Gallery.load("gallery")
    assert set(json.loads(pathlib.Path("gallery", SOURCE).read_text())["unreadable"]) == {
        "photos/dog/1.png", "photos/emu/0.png", "photos/cat/big.jpg"
    }  # fmt: skip
    shutil.copy("photos/dog/0.png", "photos/dog/1.png")
    run("add", "gallery", "photos/dog/1.png", "--label", "dog", "--quiet")
    run("info", "gallery", "--json")
    described = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert described["items"] == 12 and set(described["left_out"]) == {"photos/emu/0.png", "photos/cat/big.jpg"}
    for path in pathlib.Path("photos").rglob("*.*g"):
        path.write_bytes(b"no image")
    message = error_of(capsys, "build", "mean", "photos", "--out", "none", "--quiet")
    assert "No image can be used" in message and not pathlib.Path("none").exists()


def test_add_and_remove(place, mean_color, capsys):
    run("build", "mean", "photos", "--out", "gallery", "--quiet")
    pathlib.Path("more/fox").mkdir(parents=True)
    shutil.copy("photos/cat/3.png", "more/fox/a.png")
    assert "in the gallery already" in error_of(capsys, "add", "gallery", "photos", "--quiet")
    run("add", "gallery", "more", "photos", "--on-conflict", "skip", "--quiet")
    assert "1 image added (13 present already; 1 other file skipped). 14 images" in capsys.readouterr().out
    stored = Gallery.load("gallery")
    assert stored.ids[-1] == "more/fox/a.png" and stored.labels(["more/fox/a.png"]) == ["fox"]
    shutil.copy("photos/emu/3.png", "photos/cat/0.png")
    run("add", "gallery", "photos/cat/0.png", "--label", "emu", "--on-conflict", "replace", "--quiet")
    assert "0 images added (1 replaced)" in capsys.readouterr().out
    stored = Gallery.load("gallery")
    np.testing.assert_allclose(stored.vectors(["photos/cat/0.png"]), stored.vectors(["photos/emu/3.png"]), atol=1e-6)
    assert stored.labels(["photos/cat/0.png"]) == ["emu"]
    os.remove("photos/dog/2.png")
    run("remove", "gallery", place / "more/fox/a.png", "photos/white.png", "--missing")
    assert "3 images removed. 11 images" in capsys.readouterr().out
    assert "An image is not in the gallery. Received: 'photos'" in error_of(capsys, "remove", "gallery", "photos")
    assert "Nothing to remove" in error_of(capsys, "remove", "gallery")
    run("info", "gallery")
    shown = capsys.readouterr().out
    assert "items          11" in shown and "embedder       mean" in shown


def test_csv_files(place, mean_color, capsys):
    rows = ["file,product", "photos/cat/0.png,A", "photos/dog/0.png,B", "photos/gone.png,B", "photos/cat/0.png,A"]
    pathlib.Path("table.csv").write_text("\n".join(rows))
    columns = ["--options.image_column", "file", "--options.label_column", "product"]
    run("build", "mean", "table.csv", *columns, "--out", "gallery", "--storage", "int8", "--quiet")
    captured = capsys.readouterr()
    assert "photos/gone.png" in captured.err and "2 images added" in captured.out
    stored = Gallery.load("gallery")
    assert stored.labels(["photos/cat/0.png", "photos/dog/0.png"]) == ["A", "B"] and stored.storage == "int8"
    pathlib.Path("table.csv").write_text("path\nphotos/cat/0.png")
    run("build", "mean", "table.csv", "--out", "plain", "--quiet")
    assert Gallery.load("plain").labels(["photos/cat/0.png"]) == [None]
    pathlib.Path("table.csv").write_text("path,label\nphotos/cat/0.png,A\nphotos/cat/0.png,B")
    assert "An image has two labels" in error_of(capsys, "build", "mean", "table.csv", "--out", "g2")
    message = error_of(capsys, "build", "mean", "table.csv", "--out", "g2", "--options.labl_column", "x")
    assert "Did you mean 'label_column'" in message


@pytest.mark.integration
def test_a_saved_model_and_a_backbone(place, registries, capsys):
    export_saved_model(make_model(), "saved", Preprocessing((SIZE, SIZE), 3))
    run("build", "saved", "photos", "--out", "gallery", "--quiet")
    stored = Gallery.load("gallery")
    np.testing.assert_allclose(stored.vectors(stored.ids), vectors_of(stored.ids), atol=1e-5)
    run("search", "gallery", "photos/emu/1.png", "-k", 1, "--json")
    (found,) = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert found["neighbors"][0]["id"] == "photos/emu/1.png" and found["neighbors"][0]["distance"] < 1e-5
    pixels = np.asarray(Image.open("photos/emu/1.png"))
    embedder = open_embedder("saved")
    np.testing.assert_allclose(embedder.embed_pixels(pixels), vectors_of(["photos/emu/1.png"]), atol=1e-5)
    assert "size does not apply" in error_of(capsys, "build", "saved", "photos", "--size", 8, "--out", "g")
    export_saved_model(make_model(seed=1), "other", Preprocessing((SIZE, SIZE), 3))
    message = error_of(capsys, "search", "gallery", "photos/emu/1.png", "--embedder", "other")
    assert "made with another embedder" in message

    def backbone(input_shape, weights=None):
        keras.utils.set_random_seed(0)
        assert weights == "imagenet"
        return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(5, 3, activation="relu")])

    registries["backbones"].register("small", backbone)
    run("build", "small", "photos", "--size", 8, "--out", "features", "--quiet")
    features = Gallery.load("features")
    assert features.dim == 5 and features.distance == "cosine"
    image = Preprocessing((8, 8), 3)(np.asarray(Image.open("photos/cat/2.png")))
    expected = np.asarray(backbone((8, 8, 3), "imagenet")(image[None])).mean(axis=(1, 2))
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(features.vectors(["photos/cat/2.png"]), expected, atol=1e-5)


def test_wrong_input(place, mean_color, capsys):
    build = ["build", "mean", "photos", "--quiet", "--out"]
    assert "--out" in error_of(capsys, "build", "mean", "photos")
    assert "There is no such embedder" in error_of(capsys, "build", "maen", "photos", "--out", "g")
    assert "There are no such images" in error_of(capsys, "build", "mean", "fotos", "--out", "g")
    pathlib.Path("empty").mkdir()
    assert "There are no images" in error_of(capsys, "build", "mean", "empty", "--out", "g")
    assert "contains other files" in error_of(capsys, *build, "photos")
    assert "There is no gallery" in error_of(capsys, "search", "photos", "photos/white.png")
    assert "batch_size" in error_of(capsys, *build, "g", "--batch_size", 0)
    run(*build, "gallery")
    assert "There is a gallery already" in error_of(capsys, *build, "gallery")
    pathlib.Path("broken.png").write_bytes(b"no image")
    assert "broken.png" in error_of(capsys, "search", "gallery", "photos/white.png", "broken.png")
    assert "Expected: at most 13" in error_of(capsys, "search", "gallery", "photos/white.png", "-k", 14)
    assert "need --embedder" in error_of(capsys, "search", "gallery", "photos/white.png", "--size", 8)
    assert "Unknown figure format" in error_of(capsys, "search", "gallery", "photos/white.png", "--figure", "x.doc")
    source = json.loads(pathlib.Path("gallery", SOURCE).read_text())
    pathlib.Path("gallery", SOURCE).write_text(json.dumps({**source, "imports": ["/no/such/parts.py"]}))
    assert "--import parts.py" in error_of(capsys, "search", "gallery", "photos/white.png")
    pathlib.Path("gallery", SOURCE).write_text("{}")
    assert "The gallery is damaged" in error_of(capsys, "search", "gallery", "photos/white.png")
    os.remove(pathlib.Path("gallery", SOURCE))
    assert "does not know its embedder" in error_of(capsys, "search", "gallery", "photos/white.png")
    run("search", "gallery", "photos/white.png", "--embedder", "mean")
    Gallery().save("plain")
    assert "The gallery is empty" in error_of(capsys, "search", "plain", "photos/white.png", "--embedder", "mean")


def test_calibrate(place, mean_color, capsys):
    shutil.copytree("photos", "validation")
    os.remove("validation/white.png")
    shutil.move("validation/emu", "validation/fox")
    run("build", "mean", "photos", "--out", "gallery", "--quiet")
    capsys.readouterr()
    run("calibrate", "gallery", "validation", "--target", "best_f1")
    shown = capsys.readouterr().out
    calibration = Gallery.load("gallery").calibration
    assert f"Threshold          {calibration.threshold:.4f}" in shown and "12 images of 3 classes" in shown
    assert type(calibration.target).__name__ == "BestF1"
    run("calibrate", "gallery", "validation", "--target", "false_accept_rate=0.4", "--method", "prototypes")
    calibration = Gallery.load("gallery").calibration
    assert calibration.target.rate == 0.4 and calibration.method == "prototypes"
    Image.fromarray(np.array([[[0, 255, 0]]], np.uint8)).save("green.png")
    capsys.readouterr()
    run("search", "gallery", "photos/cat/1.png", "green.png", "--json")
    known, unknown = (found["verdict"] for found in json.loads(capsys.readouterr().out))
    expected = Gallery.load("gallery").classify(MeanColor(0).embed_files(["photos/cat/1.png", "green.png"], 2))
    assert [known["is_known"], unknown["is_known"]] == expected.is_known.tolist() == [True, False]
    assert known["label"] == "cat" and known["score"] == expected.scores[0] <= known["threshold"]
    run("search", "gallery", "green.png", "photos/dog/1.png")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (2 + 10) and lines[0].startswith("green.png: unknown (score")
    assert lines[12].startswith("photos/dog/1.png: known, dog (score")
    assert lines[14].split() == ["1", "0.0000", "dog", "photos/dog/1.png"]
    for wrong in (["precision=2"], ["precision"], ["f1"], ["best_f1=1"], ["precision=x"], []):
        wrong = ["--target", *wrong] if wrong else []
        message = error_of(capsys, "calibrate", "gallery", "validation", *wrong)
        assert "arget" in message or "0 < precision < 1" in message
    assert "Images have no labels" in error_of(capsys, "calibrate", "gallery", "photos", "--target", "best_f1")


def test_indexes(place, mean_color, capsys):
    pytest.importorskip("faiss")
    run("build", "mean", "photos", "--out", "gallery", "--index", "hnsw", "--quiet")
    assert "13 images added" in capsys.readouterr().out
    run("search", "gallery", "photos/emu/2.png", "-k", 2, "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["neighbors"][0]["id"] == "photos/emu/2.png"
    run("info", "gallery", "--report", "--json")
    described = json.loads(capsys.readouterr().out)
    assert described["index"] == "hnsw" and described["report"]["recall"] == 1
    assert "index" in error_of(capsys, "build", "mean", "photos", "--out", "g", "--index", "nonsense")
    # Found out before the gallery is written.
    error_of(capsys, "build", "mean", "photos", "--out", "g", "--index", "ivfpq", "--quiet")
    assert not pathlib.Path("g").exists()


def test_changes_of_two_processes_are_not_lost(tmp_path):
    gallery = Gallery()
    gallery.add(np.eye(3), ["a", "b", "c"])
    gallery.save(tmp_path / "gallery")
    first, second = (gallery_search.open_gallery(str(tmp_path / "gallery"), with_embedder=False) for _ in range(2))
    first.gallery.remove(["a"])
    first.gallery.save(first.folder)
    second.gallery.remove(["b"])
    with pytest.raises(OSError, match="Another process has changed the gallery.*Expected.*again"):
        second.gallery.save(second.folder)
    assert Gallery.load(tmp_path / "gallery").ids == ["b", "c"]
    first.gallery.remove(["b"])
    first.gallery.save(first.folder)
    assert Gallery.load(tmp_path / "gallery").ids == ["c"]


def write_parquet(folder, vectors, size=4, ids=None):
    pytest.importorskip("pyarrow", reason="The extra ray is not installed.")
    folder.mkdir()
    for start in range(0, len(vectors), size):
        rows = range(start, min(start + size, len(vectors)))
        names = [f"{row}.png" if ids is None else ids[row] for row in rows]
        block = VectorBlock(names, ["cat", None] * (len(rows) // 2), None, None, vectors[rows])
        write_vectors(folder / f"{start:03d}.parquet", block, {})


@pytest.mark.parametrize("storage, distance", [("float32", "l2"), ("int8", "cosine")])
def test_build_from_parquet_goes_on_and_equals_one_of_arrays(storage, distance, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    write_parquet(tmp_path / "vectors", vectors)
    command = ("build", "--from-parquet", "vectors", "--out", "gallery", "--storage", storage, "--distance", distance)
    encode, encoded = StoredVectors.encode, []

    def killed(self, some):
        encoded.append(len(some))
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(self, some)

    monkeypatch.setattr(StoredVectors, "encode", killed)
    assert gallery_main([*command, "--quiet"]) == 130
    assert not (tmp_path / "gallery").exists()
    run(*command, "--quiet")
    assert encoded == [4, 4, 4, 2]
    assert "10 vectors added. 10 vectors in gallery." in capsys.readouterr().out
    assert not (tmp_path / "gallery.unfinished").exists()
    expected, stored = Gallery(storage=storage, distance=distance), Gallery.load("gallery")
    ids = expected.add(vectors, [f"{row}.png" for row in range(10)])
    assert stored.ids == ids and stored.labels(ids) == ["cat", None] * 5
    np.testing.assert_array_equal(stored.vectors(ids), expected.vectors(ids))
    np.testing.assert_array_equal(stored.search(vectors, 3).distances, expected.search(vectors, 3).distances)
    assert "does not know its embedder" in error_of(capsys, "search", "gallery", "a.png")
    assert "There is a gallery already" in error_of(capsys, *command)


@pytest.mark.parametrize(
    "vectors, more, message",
    [
        (np.full((2, 4), np.nan), (), "not finite"),
        (np.ones((2, 3)), ("mean",), "another size than those of the embedder. Received: 3.*Expected: 4"),
        (np.ones((2, 4)), ("mean", "photos"), "need no images"),
        (np.ones((2, 4)), ("--size", "9"), "need an embedder"),
        (None, (), "There are no Parquet files"),
    ],
)
def test_bad_builds_from_parquet(vectors, more, message, tmp_path, monkeypatch, mean_color, capsys):
    monkeypatch.chdir(tmp_path)
    if vectors is not None:
        write_parquet(tmp_path / "vectors", vectors.astype(np.float32))
    assert re.search(message, error_of(capsys, "build", *more, "--from-parquet", "vectors", "--out", "gallery"), re.S)
    assert not (tmp_path / "gallery").exists()


def test_an_addition_killed_after_it_was_saved_can_be_repeated(place, mean_color, monkeypatch, capsys):
    run("build", "mean", "photos/cat", "--out", "gallery", "--quiet")
    remove, killed = gallery_build.Blocks.remove, []

    def once(blocks):
        if not killed:
            killed.append(True)
            raise KeyboardInterrupt
        remove(blocks)

    monkeypatch.setattr(gallery_build.Blocks, "remove", once)
    assert gallery_main(["add", "gallery", "photos/dog", "--quiet"]) == 130
    assert len(Gallery.load("gallery")) == 8
    capsys.readouterr()
    run("add", "gallery", "photos/dog", "--quiet")
    assert "0 images added (4 replaced). 8 images" in capsys.readouterr().out
    assert not pathlib.Path("gallery.unfinished").exists()
    assert "in the gallery already" in error_of(capsys, "add", "gallery", "photos/dog", "--quiet")


def test_a_gallery_of_parquet_vectors_is_searched_by_image(place, mean_color, capsys):
    paths = sorted(pathlib.Path("photos").glob("*/*.png"))
    write_parquet(place / "vectors", MeanColor(0).embed_files(paths, 1), ids=[path.as_posix() for path in paths])
    run("build", "mean", "--from-parquet", "vectors", "--out", "gallery", "--quiet")
    capsys.readouterr()
    run("search", "gallery", "photos/dog/1.png", "-k", "2", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["neighbors"][0]["id"] == "photos/dog/1.png" and found["neighbors"][0]["distance"] < 1e-6
    # Weights of another embedder are refused.
    assert "another embedder" in error_of(capsys, "search", "gallery", "photos/dog/1.png", "--embedder", "other")
