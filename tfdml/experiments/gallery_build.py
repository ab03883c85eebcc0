"""Build galleries of image files, and add files to them; a process killed at any time goes on where it stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from tfdml._utils.files import LOCK, FolderInUseError, lock_folder, remove_partial, whole_file
from tfdml._utils.foreign_files import read_npz
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.plain_files import read_json, write_json
from tfdml.data.image_files import find_unreadable, read_image
from tfdml.data.parquet_files import ParquetVectors
from tfdml.experiments.errors import line_of
from tfdml.experiments.gallery_embedder import GalleryEmbedder, open_embedder
from tfdml.experiments.gallery_files import (
    GallerySource,
    ListedImages,
    gallery_errors,
    id_of,
    list_images,
    listed_reasons,
    recorded_root,
)
from tfdml.gallery import Gallery
from tfdml.gallery.fingerprint import fingerprint
from tfdml.gallery.folder import MANIFEST
from tfdml.gallery.parquet import check_probe, fill_from_parquet

# Images that are embedded between two writes. The same number gives the same batches after an interruption.
BLOCK_SIZE = 512
_PLAN = "plan.json"
_FROM_PARQUET = "build --from-parquet"
_ZERO = "its vector is 0, which has no direction; build the gallery with --distance l2"


class Built(NamedTuple):
    """Result of a build or an addition.

    Attributes:
        gallery: `Gallery`, which is saved.
        added: int. Number of images added.
        replaced: int. Number of images that replaced those of the same path.
        present: int. Number of images that were left out because they are present.
        skipped: int. Number of files that are not images.
        unreadable: dict. Reasons by the paths of images that were left out.
    """

    gallery: Gallery
    added: int
    replaced: int
    present: int
    skipped: int
    unreadable: dict[str, str]


def build_gallery(
    embedder: str,
    images: str,
    out: str,
    *,
    options: Mapping[str, Any] | None = None,
    image_options: Mapping[str, Any] | None = None,
    imports: Sequence[str] = (),
    batch_size: int = 64,
    trust: bool = False,
    verbose: bool = True,
    **gallery_options: Any,
) -> Built:
    """Embed images and save them as a gallery whose ids are their paths.

    Until it is complete, vectors are in the folder `OUT.unfinished`, from which the same call goes on.

    Args:
        embedder: str. As for `open_embedder`.
        images: str. Folder or CSV file.
        out: str. Folder of the gallery, which must not exist or be empty.
        options: mapping. Options of the embedder.
        image_options: mapping. Options of `list_images`.
        imports: sequence of str. Modules that were imported for the embedder.
        batch_size: int. Images that are embedded at once. Default: 64.
        trust: bool. As for `open_embedder`. Default: False.
        verbose: bool. Show a progress bar. Default: True.
        **gallery_options: Options of `Gallery`. The default `distance` of a backbone is `"cosine"`.

    Raises:
        InputError: If the embedder, the images or the folder cannot be used, or no image is readable.
    """
    folder = pathlib.Path(out).expanduser()
    check_new(folder)
    listed = list_images(images, image_options)
    network = open_embedder(embedder, options, trust=trust)
    if "distance" not in gallery_options and not network.is_trained:
        gallery_options["distance"] = "cosine"
    root = os.getcwd()
    with gallery_errors():
        gallery = Gallery(network, network.preprocessing, batch_size=batch_size, **gallery_options)
    source = GallerySource(embedder, dict(options or {}), list(imports), recorded_root(folder, root))
    return _add("build", gallery, folder, listed, root, network, source, batch_size, verbose)


def build_from_parquet(
    vectors: str,
    out: str,
    embedder: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    imports: Sequence[str] = (),
    trust: bool = False,
    verbose: bool = True,
    **gallery_options: Any,
) -> Built:
    """Save the vectors of Parquet files as a gallery, in memory that does not grow with their number.

    Only ids, labels and the index are in memory. Until the gallery is complete, vectors are in the folder
    `OUT.unfinished`, from which the same call goes on.

    Args:
        vectors: str. Parquet file or folder of Parquet files, as for `tfdml.gallery.add_parquet`.
        out: str. Folder of the gallery, which must not exist or be empty.
        embedder: str. As for `open_embedder`. Its vectors of a test image are compared with those of the extraction.
            Default: none; the gallery then needs one for searches by image.
        options, imports, trust, verbose: As for `build_gallery`.
        **gallery_options: Options of `Gallery`.

    Raises:
        InputError: If the files, the embedder or the folder cannot be used.
    """
    folder = pathlib.Path(out).expanduser()
    check_new(folder, _FROM_PARQUET)
    network = None if embedder is None else open_embedder(embedder, options, trust=trust)
    if "distance" not in gallery_options and network is not None and not network.is_trained:
        gallery_options["distance"] = "cosine"
    unfinished = unfinished_of(folder)
    with gallery_errors():
        files = ParquetVectors(vectors)
        gallery = Gallery(network, getattr(network, "preprocessing", None), **gallery_options)
        if network is not None:
            _check_network(network, files)
        unfinished.mkdir(parents=True, exist_ok=True)
        with lock_folder(unfinished):
            remove_partial(unfinished)
            if _command_of(unfinished) not in (None, _FROM_PARQUET):
                raise InputError(
                    f"The unfinished folder belongs to another command. Received: {unfinished} of tfdml-gallery "
                    f"{_command_of(unfinished)}. Expected: that command. Remove the folder to begin again."
                )
            write_json(unfinished / _PLAN, {"command": _FROM_PARQUET})
            with tqdm.tqdm(total=len(files), unit="vector", disable=not verbose) as bar:
                fill_from_parquet(gallery, files, unfinished, bar.update)
            # An index that cannot be built must not be found out by the first search.
            gallery.search(gallery.vectors(gallery.ids[:1]), 1)
            gallery.save(folder)
            source = GallerySource(
                embedder or "", dict(options or {}), list(imports), recorded_root(folder, os.getcwd())
            )
            source.write(folder)
            for name in ("codes.npy", "scales.npy", "progress.json", _PLAN):
                with contextlib.suppress(FileNotFoundError):
                    (unfinished / name).unlink()
    with contextlib.suppress(OSError):
        unfinished.rmdir()
    return Built(gallery, len(gallery), 0, 0, 0, {})


def _check_network(network, files):
    def embed(images):
        return np.concatenate([network.embed_pixels(image) for image in images])

    dim = embed(np.zeros((1, 64, 64, 3), np.uint8)).shape[1]
    if dim != files.dim:
        raise InputError(
            f"Vectors have another size than those of the embedder. Received: {files.dim} in {files.path}. Expected: "
            f"{dim}. Pass the embedder that made them."
        )
    check_probe(files, embed)


def add_images(
    gallery: Gallery,
    folder: pathlib.Path,
    network: GalleryEmbedder,
    source: GallerySource,
    root: str,
    listed: ListedImages,
    *,
    on_conflict: str = "error",
    batch_size: int = 64,
    verbose: bool = True,
) -> Built:
    """Embed images and add them to a saved gallery.

    Args:
        gallery: `Gallery` of the folder.
        folder: path. Folder of the gallery.
        network: `GalleryEmbedder` of the gallery.
        source: `GallerySource` of the gallery.
        root: str. Absolute root of the gallery.
        listed: `ListedImages`.
        on_conflict: `"error"`, `"replace"` or `"skip"`: what happens to images that are in the gallery. Default:
            `"error"`.
        batch_size, verbose: As for `build_gallery`.
    """
    is_present = [id_of(path, root) in gallery for path in listed.paths]
    present = [path for path, present in zip(listed.paths, is_present) if present]
    if present and on_conflict == "error" and not _is_embedded(folder, network, listed.paths):
        raise InputError(
            f"Images are in the gallery already. Received: {present[0]} and {len(present) - 1} more. Expected: new "
            "images. Pass --on-conflict skip or replace."
        )
    if on_conflict == "skip":
        rows = [row for row, present in enumerate(is_present) if not present]
        listed = listed._replace(paths=[listed.paths[row] for row in rows], labels=[listed.labels[row] for row in rows])
        if not rows:
            return Built(gallery, 0, 0, len(present), listed.skipped, {})
    built = _add("add", gallery, folder, listed, root, network, source, batch_size, verbose)
    return built._replace(present=len(present) if on_conflict == "skip" else 0)


def _is_embedded(folder, network, paths):
    """Whether an addition of these images, which were new then, was killed after all of them were embedded."""
    unfinished = unfinished_of(folder)
    return _command_of(unfinished) == "add" and Blocks(unfinished, network, paths).are_complete()


def check_new(folder: pathlib.Path, command: str = "build") -> None:
    """Raise an InputError if a folder contains a gallery that this command did not begin, or other files."""
    if (folder / MANIFEST).exists() and _command_of(unfinished_of(folder)) != command:
        raise InputError(
            f"There is a gallery already. Received: {str(folder)!r}. Expected: a new folder. Use tfdml-gallery add to "
            "add images, or remove the folder."
        )
    with input_errors():
        foreign = [entry.name for entry in folder.iterdir() if entry.name != LOCK] if folder.exists() else []
    if foreign and not (folder / MANIFEST).exists():
        raise InputError(
            f"The folder contains other files. Received: {str(folder)!r} with {foreign[0]!r}. Expected: a new or empty "
            "folder."
        )


def _command_of(unfinished):
    return read_json(unfinished / _PLAN).get("command") if (unfinished / _PLAN).exists() else None


def unfinished_of(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of an unfinished build."""
    return folder.absolute().with_name(f"{folder.absolute().name}.unfinished")


def _add(command, gallery, folder, listed, root, network, source, batch_size, verbose):
    before, unreadable = len(gallery), {}
    with Blocks.opened(unfinished_of(folder), command, network, listed.paths) as blocks:
        with tqdm.tqdm(total=len(listed.paths), unit="image", disable=not verbose) as bar:
            for number in range(len(blocks)):
                blocks.embed(number, batch_size, bar)
        for number in range(len(blocks)):
            rows, vectors, problems = blocks.read(number)
            unreadable.update(problems)
            if gallery.distance == "cosine":
                has_direction = vectors.any(axis=1)
                unreadable.update({listed.paths[row]: _ZERO for row in rows[~has_direction]})
                rows, vectors = rows[has_direction], vectors[has_direction]
            # Labels of one call are all given or all absent.
            for is_labeled in (False, True):
                some = [place for place, row in enumerate(rows) if (listed.labels[row] is not None) == is_labeled]
                if some:
                    labels = [listed.labels[rows[place]] for place in some] if is_labeled else None
                    ids = [id_of(listed.paths[rows[place]], root) for place in some]
                    with input_errors():
                        gallery.add(vectors[some], ids, labels, on_conflict="replace")
        if len(unreadable) == len(listed.paths):
            raise InputError(
                "No image can be used. Received: " + "; ".join(listed_reasons(unreadable, 3)).replace("  ", "")
            )
        with gallery_errors():
            # An index that cannot be built must not be found out by the first search.
            gallery.search(gallery.vectors(gallery.ids[:1]), 1)
            gallery.save(folder)
        source.unreadable = {**source.unreadable, **{id_of(path, root): reason for path, reason in unreadable.items()}}
        source.unreadable = {item: reason for item, reason in source.unreadable.items() if item not in gallery}
        source.write(folder)
        blocks.remove()
    added = len(gallery) - before
    return Built(gallery, added, len(listed.paths) - len(unreadable) - added, 0, listed.skipped, unreadable)


class Blocks:
    """Folder with the vectors of blocks of image files.

    A block counts if its files have not changed since, so a build goes on after files were added or replaced.

    Args:
        folder: `pathlib.Path`.
        network: `GalleryEmbedder`.
        paths: list of str.
    """

    def __init__(self, folder, network, paths):
        self._folder, self._network, self._paths = folder, network, paths

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, folder: pathlib.Path, command: str, network: GalleryEmbedder, paths: Sequence[str]
    ) -> Iterator[Blocks]:
        """Create or open the folder, and lock it during the block.

        Raises:
            InputError: If it was begun by another command or with another embedder, or another process is using it.
        """
        plan = {"command": command, **fingerprint(network, network.preprocessing)}
        with input_errors():
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock_folder(folder):
                remove_partial(folder)
                if (folder / _PLAN).exists() and read_json(folder / _PLAN) != plan:
                    raise InputError(
                        "The unfinished folder has another embedder, or belongs to another command. Received: "
                        f"{folder} of tfdml-gallery {_command_of(folder)}. Expected: the same command with the same "
                        "embedder and options. Remove the folder to begin again."
                    )
                with input_errors():
                    write_json(folder / _PLAN, plan)
                yield cls(folder, network, paths)
        except FolderInUseError as error:
            raise InputError(str(error)) from error
        finally:
            # Only an empty folder can be removed.
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __len__(self):
        return -(-len(self._paths) // BLOCK_SIZE)

    def embed(self, number: int, batch_size: int, bar: Any) -> None:
        """Write the vectors of a block unless they are there, and advance the bar."""
        paths, file, key = self._paths_of(number), self._file(number), self._key(number)
        if self._stored(number, key) is not None:
            bar.update(len(paths))
            return
        problems = find_unreadable(paths)
        rows = [row for row, path in enumerate(paths) if path not in problems]
        vectors = None
        while rows and vectors is None:
            start = bar.n
            try:
                vectors = self._network.embed_files([paths[row] for row in rows], batch_size, bar.update)
            except (tf.errors.OpError, ValueError) as error:
                # The first check decodes JPEGs at an eighth of their size, which does not find every damage.
                bar.update(start - bar.n)
                found = _undecodable([paths[row] for row in rows])
                if not found:
                    raise InputError(f"Not every image goes through the embedder: {line_of(error)}") from error
                problems.update(found)
                rows = [row for row in rows if paths[row] not in found]
        if vectors is None:
            vectors = np.empty((0, 0), np.float32)
        elif vectors.ndim != 2:
            raise InputError(
                f"The output of the embedder is not a vector. Received: {vectors.shape}. Expected: (b, d)."
            )
        is_finite = np.isfinite(vectors).all(axis=1)
        problems.update({paths[row]: "its vector has NaN or infinity" for row, ok in zip(rows, is_finite) if not ok})
        kept = np.array(rows, np.int64)[is_finite]
        # JSON holds file names that are not UTF-8, which NumPy does not.
        with input_errors(), whole_file(file) as output:
            np.savez(output, key=key, rows=kept, vectors=vectors[is_finite], problems=json.dumps(problems))
        bar.update(len(paths) - len(rows))

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        """Return the places of images in all paths, their vectors, and the reasons of images without one."""
        stored = self._stored(number, self._key(number))
        if stored is None:
            raise InputError(
                f"Images changed during the build. Received: files of block {number} in {self._folder}. Expected: no "
                "changes. Run the command again."
            )
        return stored["rows"] + number * BLOCK_SIZE, stored["vectors"], json.loads(str(stored["problems"]))

    def are_complete(self) -> bool:
        """Return whether all blocks are there."""
        return all(self._stored(number, self._key(number)) is not None for number in range(len(self)))

    def remove(self) -> None:
        """Remove the files of the folder."""
        for entry in [*self._folder.glob("block-*.npz"), self._folder / _PLAN]:
            entry.unlink()

    def _paths_of(self, number):
        return self._paths[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]

    def _file(self, number):
        return self._folder / f"block-{number:06d}.npz"

    def _key(self, number):
        digest = hashlib.sha256()
        for path in self._paths_of(number):
            try:
                status = os.stat(path)
                state = [status.st_size, status.st_mtime_ns]
            except OSError:
                state = None
            digest.update(json.dumps([path, state]).encode())
        return digest.hexdigest()

    def _stored(self, number, key):
        """The arrays of a block, or None if it is missing, damaged, or of other files."""
        try:
            arrays = read_npz(self._file(number))
            return arrays if str(arrays["key"]) == key and {"rows", "vectors", "problems"} <= arrays.keys() else None
        except (ValueError, KeyError, OSError):
            return None


def _undecodable(paths):
    def problem(path):
        try:
            read_image(path)
        except (ValueError, OSError) as error:
            return line_of(error)
        return None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return {path: reason for path, reason in zip(paths, pool.map(problem, paths)) if reason is not None}
