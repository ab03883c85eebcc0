"""Plan the shards of an extraction, and find those that are finished. Nothing here imports TensorFlow or Ray."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfdml._utils.files import LOCK, PARTIAL_PREFIX
from tfdml._utils.input_errors import InputError
from tfdml._utils.plain_files import read_json, write_csv, write_json
from tfdml.data import parquet_files
from tfdml.data.class_files import CLASSES, SUPERCLASSES, write_class_names
from tfdml.data.parquet_files import SOURCE, VectorBlock
from tfdml.experiments.errors import RunFolderError

FAILED = "failed.csv"
_FORMAT = 1
# What must be the same for a shard to belong to the extraction.
_SAME = ("format", "images", "digest", "shard_size", "dtype", "preprocessing", "scale", "features")
# Difference of the probe's features, relative to their largest value, up to which a network counts as the same.
_TOLERANCE = 1e-3


class Failure(NamedTuple):
    """Image that has no vector.

    Attributes:
        index: int. Index in the shard.
        kind: `"file"` (it cannot be opened), `"image"` (it cannot be decoded) or `"features"` (they are not finite).
        reason: str.
    """

    index: int  # type: ignore[assignment]
    kind: str
    reason: str


class Shards:
    """Folder of Parquet shards of an extraction.

    Args:
        folder: `pathlib.Path`.
        ids: List of int or str, one per image.
        images: `LabeledSamples` with the labels of the images.
        source: dict. Description of the extraction, written to `source.json`.
        shard_size: int. Images per shard.
    """

    def __init__(self, folder, ids, images, source, shard_size):
        self.folder, self._ids, self._images, self.size = folder, ids, images, shard_size
        self.count = -(-len(ids) // shard_size)
        self._digest = _digest(ids, images)
        self.source = {
            **source,
            "format": _FORMAT,
            "images": len(ids),
            "digest": self._digest,
            "shard_size": shard_size,
            "shards": self.count,
        }

    def path(self, number: int) -> Any:
        """Return the path of a shard."""
        return self.folder / f"shard-{number:05d}.parquet"

    def rows(self, number: int) -> slice:
        """Return the images of a shard."""
        return slice(number * self.size, min((number + 1) * self.size, len(self._ids)))

    def begin(self) -> None:
        """Write the description of a new extraction, or check that of an interrupted one.

        Raises:
            RunFolderError: If the folder has other content.
            InputError: If the interrupted extraction has other images, options or another network.
        """
        if not (self.folder / SOURCE).exists():
            check_can_begin(self.folder)
            write_class_names(self.folder, self._images)
            # Last, because a folder with a description counts as an extraction.
            write_json(self.folder / SOURCE, self.source)
            return
        before = read_json(self.folder / SOURCE)
        for key in _SAME:
            if before.get(key) != self.source[key]:
                what = "ids or labels of the images" if key == "digest" else key
                raise InputError(
                    f"The folder contains an extraction with other {what}. Received: {self.source[key]!r} for "
                    f"{self.folder}. Expected: {before.get(key)!r}. Choose another folder or remove it."
                )
        difference = probe_difference(self.source["probe"], before.get("probe"))
        if difference > _TOLERANCE:
            raise InputError(
                "The folder contains vectors of another network. Received: features of a test image that differ by "
                f"{difference:.2g} of the largest value from those of {self.folder}. Expected: the network "
                f"{before.get('model')!r} with the same weights. Choose another folder or remove it."
            )

    def finished(self, retry_failed: bool = False) -> dict[int, list[Failure]]:
        """Return the failures of each finished shard. Damaged shards do not count.

        Args:
            retry_failed: bool. Shards with failures do not count. Default: False.
        """
        found = {}
        for number in range(self.count):
            rows = self.rows(number)
            read = parquet_files.metadata_of(self.path(number)) if self.path(number).exists() else None
            if read is None or not self._belongs(read[1], number):
                continue
            failures = [Failure(*failure) for failure in read[1]["failures"]]
            if read[0] + len(failures) == rows.stop - rows.start and not (failures and retry_failed):
                found[number] = failures
        return found

    def _belongs(self, metadata, number):
        expected = {"digest": self._digest, "shard": number, "shard_size": self.size}
        return isinstance(metadata, dict) and all(metadata.get(key) == value for key, value in expected.items())

    def write(self, number: int, vectors: np.ndarray, failures: Sequence[Failure]) -> None:
        """Write a shard, whole or not at all.

        Args:
            number: int. Number of the shard.
            vectors: float array (n, d). Vectors of the images without a failure, in order.
            failures: sequence of `Failure`.
        """
        rows, images = self.rows(number), self._images
        kept = np.ones(rows.stop - rows.start, bool)
        kept[[failure.index for failure in failures]] = False
        indices = rows.start + np.flatnonzero(kept)
        labels = images.labels[indices]
        block = VectorBlock(
            [self._ids[index] for index in indices],
            [_text(images.class_names[label]) or None for label in labels],
            labels,
            None if images.roles is None else images.roles[indices],
            vectors,
        )
        metadata = {"digest": self._digest, "shard": number, "shard_size": self.size, "failures": list(failures)}
        parquet_files.write_vectors(self.path(number), block, metadata)

    def write_failures(self, failures: dict[int, list[Failure]]) -> int:
        """Write `failed.csv` with the ids and reasons of all failures; return their number."""
        rows = [
            (self._ids[self.rows(number).start + failure.index], failure.reason)
            for number in sorted(failures)
            for failure in failures[number]
        ]
        write_csv(self.folder / FAILED, ("id", "reason"), rows)
        return len(rows)


def check_can_begin(folder: Any) -> None:
    """Raise a RunFolderError unless the folder does not exist, is empty or contains an extraction into shards."""
    if not os.path.lexists(folder):
        return
    if os.path.isdir(folder):
        present = [name for name in os.listdir(folder) if name not in (LOCK, CLASSES, SUPERCLASSES)]
        present = [name for name in present if not name.startswith(PARTIAL_PREFIX)]
        if not present or (SOURCE in present and "shards" in _source(folder)):
            return
    raise RunFolderError(
        f"{folder} exists already, and is not an extraction into shards. Choose another folder or remove it."
    )


def check_not_all_failed(failures: Sequence[Failure], count: int) -> None:
    """Raise an InputError if each of several images failed for a reason that lies outside the images."""
    kinds = {failure.kind for failure in failures}
    if len(failures) == count > 1 and kinds <= {"file", "features"}:
        raise InputError(
            f"All {count} images of a shard failed, so the extraction stops; finished shards stay. Received: "
            f"{failures[0].reason}. Check the disk, or the scale that the network expects. Then run the same command."
        )


def probe_difference(one: Sequence[Sequence[float]] | None, other: Sequence[Sequence[float]] | None) -> float:
    """Return the largest difference of two networks' features of the probe, relative to the largest value."""
    if one is None or other is None:
        return 0.0
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape:
        return np.inf
    return float(np.abs(first - second).max() / max(np.abs(first).max(), np.abs(second).max(), 1e-30))


def unique_ids(images: Any) -> list[Any]:
    """Return the id of each image: its path, or its index for images in memory.

    Raises:
        InputError: If a path occurs twice.
    """
    if not images.holds_paths:
        return list(range(len(images)))
    ids = [_text(path) for path in images.images.tolist()]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise InputError(
            f"Images are given twice. Received: {twice!r} and {len(ids) - len(set(ids)) - 1} more. Expected: each path "
            "once, because paths are the ids of the vectors."
        )
    return ids


def cpus_per_worker(nodes: Sequence[tuple[int, int]], workers: int | None) -> tuple[int, int]:
    """Return the number of workers and of CPUs for each.

    Args:
        nodes: Pairs (CPUs, GPUs), one per machine.
        workers: int. Number of workers. None: one per GPU, or per CPU if there are no GPUs.

    Raises:
        InputError: If the machines have no room for this number of workers.
    """
    has_gpus = any(gpus for _, gpus in nodes)

    def room(cpus_each):
        return sum(min(cpus // cpus_each, gpus) if has_gpus else cpus // cpus_each for cpus, gpus in nodes)

    if workers is None:
        workers = room(1)
    if not 0 < workers <= room(1):
        unit = "GPUs" if has_gpus else "CPUs"
        raise InputError(
            f"There are too few {unit}. Received: workers={workers}. Expected: at most {room(1)}, one per {unit[:-1]}."
        )
    most = max(cpus for cpus, _ in nodes)
    return workers, next(each for each in range(most, 0, -1) if room(each) >= workers)


def _text(text):
    """Return text that UTF-8 can hold: file names may have any bytes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace") if isinstance(text, str) else text


def _digest(ids, images):
    digest = hashlib.sha256()
    for text in (*map(str, ids), "\0classes", *map(_text, images.class_names)):
        digest.update(text.encode() + b"\0")
    digest.update(np.ascontiguousarray(images.labels).tobytes())
    if images.roles is not None:
        digest.update(images.roles.tobytes())
    if not images.holds_paths:
        digest.update(np.ascontiguousarray(images.images).tobytes())
    return digest.hexdigest()


def _source(folder):
    try:
        return read_json(folder / SOURCE)
    except ValueError:
        return {}
