"""Extraction into Parquet shards: in one process, and on Ray (integration)."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

from tfdml import gallery
from tfdml._utils.plain_files import read_csv
from tfdml.data import LabeledImages, features, load, parquet_files
from tfdml.experiments import InputError, extract_to_parquet, sharded_extraction
from tfdml.experiments.extraction import extract_features, extract_main

try:
    parquet_files.import_parquet()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


def make_network(seed=0, size=8):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    maps = keras.layers.Conv2D(5, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps)), name="network")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder of 23 photos in two classes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(23):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02d}.{('png', 'jpg')[number % 3 == 0]}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)).save(path)
    return folder


def damage(folder, copy):
    """Copy photos with a damaged, an empty and a missing one; return the copy and the paths of these."""
    paths = []
    for path in sorted(folder.glob("*/*")):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        paths.append(target)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[2].write_bytes(b"")
    images = load("folder", path=copy, verify=False)
    paths[13].unlink()
    return images, [str(paths[index]) for index in (1, 2, 13)]


def read_all(folder):
    blocks = list(parquet_files.ParquetVectors(folder).blocks())
    return [item for block in blocks for item in block.ids], np.concatenate([block.vectors for block in blocks])


@pytest.fixture(scope="module")
def images():
    """The same number of images in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3)).astype(np.uint8)
    return LabeledImages(pixels, np.arange(23) % 2, ("cat", "dog"))


@pytest.mark.parametrize(
    "dtype, in_files", [("float16", False), pytest.param("float32", True, marks=pytest.mark.integration)]
)
def test_shards_equal_the_extraction_without_them(images, photos, tmp_path, dtype, in_files):
    model = make_network()
    source = photos if in_files else images
    plain = extract_features(model, source, tmp_path / "plain", batch_size=4, dtype=dtype, verbose=False)
    report = extract_to_parquet(
        model, source, tmp_path / "out", shard_size=8, batch_size=4, dtype=dtype, verbose=False
    )
    assert (report.images, report.failed, report.shards, report.kept_shards, report.feature_size) == (23, 0, 3, 0, 4)
    ids, vectors = read_all(report.folder)
    np.testing.assert_array_equal(vectors, plain.features)
    assert ids == (load("folder", path=photos).images.tolist() if in_files else list(range(23)))
    stored = features(report.folder)
    np.testing.assert_array_equal(stored.read(slice(None)), plain.read(slice(None)))
    assert stored.labels.tolist() == plain.labels.tolist() and stored.class_names == plain.class_names


def test_published_splits_and_roles_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    images = LabeledImages(
        rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8), [0, 1, 2, 2, 1, 0], ("a", "b\nc", "d"),
        num_train_classes=2, roles=[1, 2, 0, 1, 2, 0],
    )  # fmt: skip
    extract_to_parquet(make_network(), images, tmp_path / "out", shard_size=4, verbose=False)
    stored = features(tmp_path / "out")
    assert (stored.num_train_classes, stored.class_names) == (2, ("a", "b c", "d"))
    assert stored.roles.tolist() == images.roles.tolist() and stored.labels.tolist() == images.labels.tolist()
    assert read_all(tmp_path / "out")[0] == list(range(6))


@pytest.mark.integration
def test_files_that_fail_are_listed(photos, tmp_path):
    images, bad = damage(photos, tmp_path / "photos")
    model = make_network()
    report = extract_to_parquet(model, images, tmp_path / "out", shard_size=8, batch_size=4, verbose=False)
    assert report.failed == 3
    listed = read_csv(report.folder / "failed.csv")
    assert [row["id"] for row in listed] == bad
    assert "truncated" in listed[0]["reason"] or "decode" in listed[0]["reason"]
    assert "empty" in listed[1]["reason"] and "No such file" in listed[2]["reason"]
    ids, vectors = read_all(report.folder)
    good = [path for path in images.images.tolist() if path not in bad]
    assert ids == good
    expected = extract_features(
        model, LabeledImages(good, np.zeros(20, int), ("a",)), tmp_path / "plain", batch_size=4, verbose=False
    )
    np.testing.assert_allclose(vectors, expected.features, rtol=1e-5, atol=1e-6)
    # The file appears again.
    with open(bad[2], "wb") as file:
        file.write(open(good[0], "rb").read())
    again = extract_to_parquet(
        model, images, tmp_path / "out", shard_size=8, batch_size=4, retry_failed=True, verbose=False
    )
    assert (again.failed, again.kept_shards) == (2, 1)
    kept = [path not in bad[:2] for path in images.images]
    assert features(tmp_path / "out").labels.tolist() == images.labels[kept].tolist()


def test_an_interrupted_extraction_continues(images, tmp_path, monkeypatch):
    model, calls = make_network(), []
    extract_to_parquet(model, images, tmp_path / "whole", shard_size=8, batch_size=4, verbose=False)
    computed = sharded_extraction._ShardEmbedder.__call__

    def embed(self, images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(images))
        return computed(self, images)

    monkeypatch.setattr(sharded_extraction._ShardEmbedder, "__call__", embed)
    with pytest.raises(KeyboardInterrupt):
        extract_to_parquet(model, images, tmp_path / "out", shard_size=8, batch_size=4, verbose=False)
    with pytest.raises(ValueError, match="2 of 3 shards"):
        features(tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    calls.clear()
    report = extract_to_parquet(model, images, tmp_path / "out", shard_size=8, batch_size=4, verbose=False)
    assert report.kept_shards == 2 and calls == [7]
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="another network"):
        extract_to_parquet(make_network(1), images, tmp_path / "out", shard_size=8, batch_size=4, verbose=False)
    with pytest.raises(InputError, match="other shard_size"):
        extract_to_parquet(model, images, tmp_path / "out", batch_size=4, verbose=False)


def test_a_folder_without_classes(photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(photos.glob("*/*"))[:5]):
        (flat / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    (flat / "notes.txt").write_text("not an image")
    report = extract_to_parquet(make_network(), flat, tmp_path / "out", verbose=False)
    assert (report.images, report.failed) == (5, 0)
    made = gallery.gallery_from_parquet(tmp_path / "out")
    assert len(made) == 5 and made.labels(made.ids) == [None] * 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shard_size": 0}, "shard_size=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"workers": 2}, "are for Ray. Received: workers=2"),
        ({"address": "auto"}, "are for Ray"),
        ({"ray": True, "workers": 0}, "workers=0"),
        ({"scale": "0-2"}, "scale='0-2'"),
        ({"size": 9}, "height=9. Expected: 8"),
        ({"data_options": {"nested": "none"}}, "Options need the name of a dataset"),
    ],
)
def test_bad_arguments(images, tmp_path, options, message):
    if options.get("ray"):
        pytest.importorskip("ray")
    with pytest.raises(InputError, match=message):
        extract_to_parquet(make_network(), images, tmp_path / "out", verbose=False, **options)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_failures(tmp_path):
    inputs = keras.Input((2, 2, 1))
    # 1 / 0 for black images.
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: 1 / x[:, :, 0, 0])(inputs))
    pixels = np.full((5, 2, 2, 1), 255, np.uint8)
    pixels[3] = 0
    report = extract_to_parquet(
        model, LabeledImages(pixels, np.zeros(5, int), ("a",)), tmp_path / "some", verbose=False
    )
    assert report.failed == 1 and read_all(tmp_path / "some")[0] == [0, 1, 2, 4]
    assert "not finite" in read_csv(tmp_path / "some" / "failed.csv")[0]["reason"]
    with pytest.raises(InputError, match="All 5 images of a shard failed"):
        extract_to_parquet(
            model, LabeledImages(pixels * 0, np.zeros(5, int), ("a",)), tmp_path / "all", verbose=False
        )


def test_the_command(tmp_path, capsys):
    make_network().save(tmp_path / "model.keras")
    arguments = [str(tmp_path / "model.keras"), "--data", "digits", "--channels", "3", "--out", str(tmp_path / "out")]
    assert extract_main([*arguments, "--shard_size", "1000"]) == 0
    shown = capsys.readouterr()
    assert "1797 vectors of 4 numbers in 2 shards (0 from before)" in shown.out and "1797/1797" in shown.err
    assert extract_main([*arguments, "--shard_size", "1000", "--quiet"]) == 0
    assert "(2 from before)" in capsys.readouterr().out
    for more, message in (
        (["--shard_size", "9"], "other shard_size"),
        (["--workers", "2"], "are for Ray"),
        ([], "exists already"),
    ):
        with pytest.raises(SystemExit) as ended:
            extract_main([*arguments, *more])
        assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.integration
def test_a_killed_extraction_continues(tmp_path, capsys):
    make_network().save(tmp_path / "model.keras")
    arguments = [
        str(tmp_path / "model.keras"), "--data", "digits", "--channels", "3", "--out", str(tmp_path / "out"),
        "--shard_size", "40", "--batch_size", "40", "--quiet",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tfdml.experiments.extract_command", *arguments]
    # Only whole shards: the name of one that is being written begins with a dot.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").glob("shard-*.parquet"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*.parquet")}
    assert 3 <= len(before) < 45
    assert extract_main(arguments) == 0
    assert f"({len(before)} from before)" in capsys.readouterr().out
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time_ for name, time_ in before.items())
    assert len(features(tmp_path / "out")) == 1797


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="needs the extra ray", exc_type=ImportError)
    pytest.importorskip("ray.data", reason="needs the extra ray", exc_type=ImportError)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@pytest.mark.integration
def test_ray_computes_what_one_process_does(ray, photos, tmp_path):
    images, bad = damage(photos, tmp_path / "photos")
    model = make_network()
    options = {"shard_size": 8, "batch_size": 4, "verbose": False}
    alone = extract_to_parquet(model, images, tmp_path / "alone", **options)
    report = extract_to_parquet(model, images, tmp_path / "out", ray=True, **options)
    assert (report.failed, report.shards) == (3, 3) and report.failed == alone.failed
    (ids, vectors), (other_ids, other_vectors) = read_all(tmp_path / "alone"), read_all(tmp_path / "out")
    assert ids == other_ids
    # The worker has one thread, this process several.
    np.testing.assert_allclose(vectors, other_vectors, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "out" / "failed.csv").read_text() == (tmp_path / "alone" / "failed.csv").read_text()
    # Ray of the user is still running.
    assert ray.is_initialized()


@pytest.mark.integration
def test_ray_reads_models_and_images_in_memory_and_reports_errors(ray, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = LabeledImages(rng.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8), np.arange(10) % 2, ("a", "b"))
    make_network().save(tmp_path / "model.keras")
    options = {"shard_size": 4, "batch_size": 4, "verbose": False}
    extract_to_parquet(tmp_path / "model.keras", images, tmp_path / "alone", **options)
    # Two of three shards are missing.
    (tmp_path / "out").mkdir()
    for path in (tmp_path / "alone").iterdir():
        if path.name not in ("shard-00000.parquet", "shard-00002.parquet"):
            (tmp_path / "out" / path.name).write_bytes(path.read_bytes())
    report = extract_to_parquet(tmp_path / "model.keras", images, tmp_path / "out", ray=True, workers=1, **options)
    assert (report.shards, report.kept_shards) == (3, 1)
    np.testing.assert_allclose(read_all(tmp_path / "out")[1], read_all(tmp_path / "alone")[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="too few CPUs. Received: workers=2"):
        extract_to_parquet(tmp_path / "model.keras", images, tmp_path / "two", ray=True, workers=2, **options)
    # Images change or vanish after the start: the workers' error arrives as it is.
    gone = LabeledImages([str(tmp_path / f"{number}.png") for number in range(4)], np.zeros(4, int), ("a",))
    with pytest.raises(InputError, match="All 4 images of a shard failed"):
        extract_to_parquet(tmp_path / "model.keras", gone, tmp_path / "gone", ray=True, **options)
    arguments = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "command"), "--ray", "--quiet"]
    with pytest.raises(SystemExit):
        extract_main([str(tmp_path / "model.keras"), *arguments])
    assert "none" in capsys.readouterr().err
