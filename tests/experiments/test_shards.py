"""Planning and resuming an extraction, without networks and without Ray."""

import itertools

import numpy as np
import pytest

from tfdml._utils.plain_files import read_csv
from tfdml.data import LabeledImages, parquet_files
from tfdml.experiments import InputError, RunFolderError
from tfdml.experiments.shards import (
    Failure,
    Shards,
    check_not_all_failed,
    cpus_per_worker,
    probe_difference,
    unique_ids,
)

SOURCE = {"model": "m", "dtype": "float32", "preprocessing": {}, "scale": "0-1", "features": 2, "probe": [[1.0, 2.0]]}


@pytest.fixture
def parquet():
    try:
        parquet_files.import_parquet()
    except ImportError as error:
        pytest.skip(str(error))


def make_images(count=10):
    paths = [f"photos/{number}.png" for number in range(count)]
    return LabeledImages(paths, np.arange(count) % 2, ("a", "b"))


def make_shards(folder, size=4, images=None, **source):
    images = images or make_images()
    return Shards(folder, unique_ids(images), images, {**SOURCE, **source}, size)


def vectors_of(rows, failures=()):
    kept = np.setdiff1d(np.arange(rows.start, rows.stop), [rows.start + failure.index for failure in failures])
    return np.stack([kept, -kept], axis=1).astype("float32")


@pytest.mark.parametrize("count, size", itertools.product((1, 4, 5, 12), (1, 4, 5, 20)))
def test_shards_cover_each_image_once(tmp_path, count, size):
    shards = make_shards(tmp_path, size, make_images(count))
    covered = [row for number in range(shards.count) for row in range(count)[shards.rows(number)]]
    assert covered == list(range(count))
    assert all(shards.rows(number).stop - shards.rows(number).start == size for number in range(shards.count - 1))


def test_finished_shards_are_kept_and_others_are_not(tmp_path, parquet):
    shards = make_shards(tmp_path)
    shards.begin()
    failures = {0: [], 1: [Failure(2, "image", "damaged, truly")], 2: []}
    for number in failures:
        shards.write(number, vectors_of(shards.rows(number), failures[number]), failures[number])
    assert shards.finished() == failures and set(shards.finished(retry_failed=True)) == {0, 2}
    assert shards.write_failures(failures) == 1
    assert read_csv(tmp_path / "failed.csv") == [{"id": "photos/6.png", "reason": "damaged, truly"}]
    blocks = list(parquet_files.ParquetVectors(tmp_path).blocks())
    assert [item for block in blocks for item in block.ids] == [f"photos/{n}.png" for n in range(10) if n != 6]
    assert np.concatenate([block.vectors for block in blocks])[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert blocks[1].classes == ["a", "b", "b"]
    # The next call begins where this one stopped.
    again = make_shards(tmp_path)
    again.begin()
    assert again.finished() == failures
    content = shards.path(0).read_bytes()
    shards.path(0).write_bytes(content[: len(content) // 2])
    shards.path(1).unlink()
    assert set(again.finished()) == {2}
    # A shard of another extraction, or in another place.
    shards.path(0).write_bytes(shards.path(2).read_bytes())
    assert set(again.finished()) == {2}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": 5}, "other shard_size"),
        ({"images": make_images(9)}, "other images"),
        ({"images": LabeledImages(make_images().images, np.zeros(10, int), ("a", "b"))}, "other ids or labels"),
        ({"images": LabeledImages(make_images().images, np.arange(10) % 2, ("a", "c"))}, "other ids or labels"),
        ({"dtype": "float16"}, "other dtype"),
        ({"preprocessing": {"size": [3, 3]}}, "other preprocessing"),
        ({"probe": [[1.0, 2.1]]}, "another network"),
        ({"features": 3, "probe": [[1.0, 2.0, 3.0]]}, "other features"),
    ],
)
def test_another_extraction_in_the_folder_is_refused(tmp_path, changes, message):
    make_shards(tmp_path).begin()
    with pytest.raises(InputError, match=message):
        make_shards(tmp_path, **changes).begin()
    # Rounding errors are not another network.
    make_shards(tmp_path, probe=[[1.0, 2.0001]]).begin()


def test_other_content_is_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("kept")
    with pytest.raises(RunFolderError, match="not an extraction into shards"):
        make_shards(tmp_path).begin()
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "source.json").write_text('{"features": 3}')
    with pytest.raises(InputError):
        make_shards(tmp_path).begin()
    assert [path.name for path in tmp_path.iterdir()] == ["source.json"]


def test_images_in_memory_belong_to_the_extraction(tmp_path):
    pixels = np.zeros((6, 2, 2, 1), np.uint8)
    images = LabeledImages(pixels, np.arange(6) % 2, ("a", "b"))
    assert unique_ids(images) == list(range(6))
    make_shards(tmp_path, images=images).begin()
    with pytest.raises(InputError, match="ids or labels"):
        make_shards(tmp_path, images=LabeledImages(pixels + 1, images.labels, images.class_names)).begin()


def test_paths_are_unique_and_any_bytes():
    twice = LabeledImages(["a.png", "b.png", "a.png"], [0, 0, 0], ("a",))
    with pytest.raises(InputError, match="given twice. Received: 'a.png' and 0 more"):
        unique_ids(twice)
    assert unique_ids(LabeledImages([b"\xff.png"], [0], ("a",))) == ["\\xff.png"]


def test_a_shard_without_vectors_stops_the_extraction_unless_its_images_are_damaged():
    missing, damaged = Failure(0, "file", "no such file"), Failure(1, "image", "damaged")
    check_not_all_failed([missing], 1)
    check_not_all_failed([missing], 2)
    check_not_all_failed([missing, damaged], 2)
    check_not_all_failed([damaged, damaged], 2)
    for kind in ("file", "features"):
        with pytest.raises(InputError, match="All 2 images of a shard failed.*no such file"):
            check_not_all_failed([missing._replace(kind=kind), Failure(1, kind, "x")], 2)


def test_difference_of_probes():
    assert probe_difference(None, [[1.0]]) == 0
    assert probe_difference([[1.0, -4.0]], [[1.0, -3.0]]) == 0.25
    assert probe_difference([[1.0]], [[1.0, 2.0]]) == np.inf
    assert probe_difference([[0.0]], [[0.0]]) == 0


@pytest.mark.parametrize(
    "nodes, workers, expected",
    [
        ([(2, 0)], None, (2, 1)),
        ([(8, 0)], 3, (3, 2)),
        ([(8, 0)], 1, (1, 8)),
        ([(8, 0), (8, 0)], 3, (3, 4)),
        ([(8, 0), (2, 0)], 2, (2, 4)),
        ([(8, 2), (16, 0)], None, (2, 4)),
        ([(8, 2), (8, 1)], None, (3, 4)),
        ([(8, 4)], 2, (2, 4)),
    ],
)
def test_workers_fit_the_machines(nodes, workers, expected):
    assert cpus_per_worker(nodes, workers) == expected


@pytest.mark.parametrize(
    "nodes, workers, message",
    [([(2, 0)], 3, "too few CPUs. Received: workers=3. Expected: at most 2"), ([(8, 1)], 2, "too few GPUs")],
)
def test_more_workers_than_room(nodes, workers, message):
    with pytest.raises(InputError, match=message):
        cpus_per_worker(nodes, workers)
