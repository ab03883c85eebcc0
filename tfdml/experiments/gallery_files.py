"""The images of a gallery: where they are listed, how their ids name them, and what the gallery remembers of them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tfdml._utils.arguments import check_choice
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.naming import nearest_name
from tfdml._utils.plain_files import read_json, write_json
from tfdml.data.datasets.folder import find_images
from tfdml.data.image_files import ENDINGS
from tfdml.data.image_tables import read_columns

SOURCE = "source.json"
_TABLE_OPTIONS = {"image_column": "path", "label_column": "label", "root": None, "delimiter": ","}
_FOLDER_OPTIONS = {"nested": "same_class"}


class ListedImages(NamedTuple):
    """Image files and their labels.

    Attributes:
        paths: list of str.
        labels: list of str or `None`, for images without a label.
        skipped: int. Number of other files in the folder.
    """

    paths: list[str]
    labels: list[str | None]
    skipped: int = 0


def list_images(source: str, options: Mapping[str, Any] | None = None) -> ListedImages:
    """List the images of a folder or a CSV file, or a single image.

    In a folder, the subfolder is the label of an image; images next to the subfolders have no label.

    Args:
        source: str. Folder, CSV file, or image file.
        options: mapping. Of a folder: `nested`, `"same_class"` (default: the folder directly below is the label) or
            `"own_class"` (the path of the image's folder is). Of a CSV file: `image_column`, `label_column`, `root` and
            `delimiter`, as for `tfdml.data.LabeledImages.from_csv`; the column of labels may be absent.

    Raises:
        InputError: If there is no such file, an option is unknown, or there are no images.
    """
    path = pathlib.Path(source).expanduser()
    given = dict(options or {})
    if path.is_dir():
        _check_options(given, _FOLDER_OPTIONS, "a folder")
        listed = _in_folder(path, given.get("nested", "same_class"))
    elif path.suffix.lower() == ".csv" and path.is_file():
        _check_options(given, _TABLE_OPTIONS, "a CSV file")
        with input_errors():
            listed = _in_table(path, given)
    elif path.is_file() and path.name.lower().endswith(ENDINGS):
        _check_options(given, {}, "an image")
        listed = ListedImages([str(path)], [None])
    else:
        raise InputError(
            f"There are no such images. Received: {source!r}. Expected: a folder, a CSV file whose name ends with "
            f".csv, or an image ({', '.join(ENDINGS)})."
        )
    if not listed.paths:
        raise InputError(f"There are no images. Received: {source!r}. Expected: files with {', '.join(ENDINGS)}.")
    return listed


def _check_options(given, known, kind):
    for name in given:
        if name not in known:
            hint = f" Did you mean {nearest_name(name, known)!r}?" if known else ""
            raise InputError(f"Unknown option of {kind}. Received: {name!r}. Expected: one of {sorted(known)}.{hint}")


def _in_folder(folder, nested):
    with input_errors():
        check_choice("nested", nested, ("same_class", "own_class"))
    found, others = find_images(folder, nested)
    unlabeled = [path for path in others if path.lower().endswith(ENDINGS)]
    paths = unlabeled + [path for of_class in found.values() for path in of_class]
    labels = [None] * len(unlabeled) + [label for label, of_class in found.items() for _ in of_class]
    return ListedImages(paths, labels, len(others) - len(unlabeled))


def _in_table(file, given):
    options = {**_TABLE_OPTIONS, **given}
    columns = [options["image_column"]]
    if "label_column" in given or options["label_column"] in _header(file, options["delimiter"]):
        columns.append(options["label_column"])
    images, *labels = read_columns(file, columns, options["delimiter"])
    folder = file.parent if options["root"] is None else os.path.expanduser(options["root"])
    paths = [os.path.normpath(os.path.join(folder, os.path.expanduser(image))) for image in images]
    label_of: dict[str, Any] = {}
    for path, label in zip(paths, labels[0] if labels else [None] * len(paths)):
        if label_of.setdefault(path, label) != label:
            raise InputError(
                f"An image has two labels. Received: {path} with {label_of[path]!r} and {label!r} in {file}. Expected: "
                "one label."
            )
    return ListedImages(list(label_of), list(label_of.values()))


def _header(file, delimiter):
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        return [name.strip() for name in next(csv.reader(lines, delimiter=str(delimiter)[:1] or ","), [])]


@dataclasses.dataclass
class GallerySource:
    """What a gallery remembers of its embedder and its files, in the file `source.json`.

    Attributes:
        embedder: str. Path or name of the embedder as it was given.
        options: dict. Options of the embedder.
        imports: list of str. Modules that were imported for it.
        root: str. Folder from which relative ids and a relative path of the embedder start. A relative `root` starts
            from the gallery, so that both can be moved together.
        unreadable: dict. Reasons by the paths of files that were left out.
    """

    embedder: str
    options: dict[str, Any]
    imports: list[str]
    root: str
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, gallery: pathlib.Path) -> GallerySource | None:
        """Return what the file of a gallery contains; `None` if there is no such file.

        Raises:
            InputError: If it is damaged.
        """
        if not (gallery / SOURCE).is_file():
            return None
        try:
            content = read_json(gallery / SOURCE)
            source = cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
            kinds = (str, dict, list, str, dict)
            if not all(isinstance(value, kind) for value, kind in zip(dataclasses.astuple(source), kinds)):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The gallery is damaged. Received: {gallery / SOURCE} that cannot be read. Expected: the file of "
                "tfdml-gallery build. Build the gallery again."
            ) from error
        return source

    def write(self, gallery: pathlib.Path) -> None:
        """Write the file of a gallery, which exists."""
        write_json(gallery / SOURCE, dataclasses.asdict(self))


@contextlib.contextmanager
def gallery_errors() -> Iterator[None]:
    """Re-raise errors of a gallery, and of packages that its index needs, as InputError."""
    try:
        with input_errors():
            yield
    except ImportError as error:
        raise InputError(str(error)) from error


def root_of(gallery: pathlib.Path, root: str) -> str:
    """Return the absolute root of a gallery whose source names `root`."""
    return os.path.abspath(os.path.join(gallery, os.path.expanduser(root)))


def recorded_root(gallery: pathlib.Path, root: str) -> str:
    """Return an absolute root as the source of a gallery names it: relative if the gallery is inside."""
    place = os.path.abspath(gallery)
    return os.path.relpath(root, place) if _is_inside(place, root) else root


def id_of(path: str, root: str) -> str:
    """Return the id of an image file: its path, relative to an absolute root if the file is inside.

    Example:
        >>> id_of("/photos/cat/1.jpg", "/photos"), id_of("/other/1.jpg", "/photos")
        ('cat/1.jpg', '/other/1.jpg')
    """
    place = os.path.abspath(os.path.expanduser(path))
    return pathlib.PurePath(os.path.relpath(place, root) if _is_inside(place, root) else place).as_posix()


def _is_inside(place, root):
    # Paths on several drives of Windows have no common path, which os.path.commonpath would refuse.
    return place == root or place.startswith(os.path.join(root, ""))


def path_of(item: Any, root: str) -> str:
    """Return the path of the image file of an id."""
    return os.path.join(root, str(item))


def shown(text: Any) -> str:
    """Return text that a terminal and JSON can hold; bytes of file names that are not UTF-8 are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def counted(count: int, of: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{count:,} {of if count == 1 else plural or of + 's'}"


def listed_reasons(problems: Mapping[str, str], limit: int = 10) -> Sequence[str]:
    """Return a line for each of the first files with the reason, and one for the number of further ones."""
    lines = [f"  {shown(path)}: {reason}" for path, reason in list(problems.items())[:limit]]
    return lines + [f"  … and {len(problems) - limit} more"] * (len(problems) > limit)
