"""Prepare a published dataset: download, check and extract its archives, and read every image once."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from tfdml._utils.arguments import check_choice
from tfdml.data import archives, emoji_files
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.list_files import counts_of

# Modules that import TensorFlow are imported where they are used, so that `--help` and wrong arguments are fast.

# Datasets that are made of another dataset's files.
_MADE_OF = {"cifar_collage": "cifar100"}


def preparable_names():
    """Return the names that `prepare` accepts, sorted."""
    return sorted([*PUBLISHED, *_MADE_OF, "emoji"])


def prepare(name, path, download=False, counts="published", size=None):
    """Prepare a published dataset for its loader, and check it completely.

    Archives are compared with their published checksums and extracted unless the extracted folder exists; counts are
    compared with the published ones; every image is read. Missing files are downloaded only if `download` is true;
    otherwise the error says what to put where.

    Args:
        name: str. One of `preparable_names()`.
        path: str or `os.PathLike`. Folder that contains the archives or the extracted folder; pass it to the loader.
        download: bool. Download missing files from the official address. Default `False`.
        counts: `"published"`, or `"any"` to accept other counts and checksums. Default `"published"`.
        size: int, pixels. Height and width of the images of `emoji`, which are rendered. `None` means 128. Default
            `None`.

    Returns:
        dict of counts, such as `{"classes": 200, "images": 11788}`.

    Raises:
        FileNotFoundError: If files are missing and not downloaded; the message says what to put where.
        ConnectionError: If a download fails.
        ValueError: If the name is unknown, an archive is truncated or has a wrong checksum, counts are wrong, or an
            image is unreadable; the message names the path.
        OSError: If the disk is full; partial files are removed.
    """
    if name not in preparable_names():
        from tfdml._utils.naming import unknown_name

        raise unknown_name("published dataset", name, preparable_names())
    check_choice("counts", counts, ("published", "any"))
    if name == "emoji":
        return emoji_files.prepare_emoji(path, download, counts, **({} if size is None else {"size": size}))
    if size is not None:
        raise ValueError(f"Only emoji has a size. Received: name={name!r}, size={size}. Expected: size=None.")
    name = _MADE_OF.get(name, name)
    published, path = PUBLISHED[name], pathlib.Path(path).expanduser()
    root = published.root(path)
    parts = published.layout(root).parts
    absent = [part for part in parts if not part.place(root).exists() and not part.source(root).is_file()]
    if absent and not (download and all(part.url for part in absent)):
        raise FileNotFoundError(
            f"{published.title} was not found. Received: path={str(path)!r}. {published.advice(path)}"
        )
    for part in parts:
        _prepare_part(part, root, with_checksum=counts == "published")
    return found_in(name, path, counts)


def _prepare_part(part, root, with_checksum):
    place, source = part.place(root), part.source(root)
    md5 = part.md5 if with_checksum else None
    if place.exists() and place != source:
        return
    if not source.is_file():
        archives.download(part.url, source, md5)
    elif md5 is not None:
        archives.check_md5(source, md5, part.url)
    if place != source:
        archives.extract(source, place)


def found_in(name, path, counts="published"):
    """Read an extracted dataset and return its counts; errors are those of `prepare`."""
    from tfdml.data.datasets import load
    from tfdml.data.image_files import verify_images

    published = PUBLISHED[name]
    if "images in the training files" in published.counts:
        parts = {part: load(name, path=path, part=part) for part in ("train", "test")}
        found = {
            "classes": parts["train"].num_classes,
            "images in the training files": len(parts["train"]),
            "images in the test files": len(parts["test"]),
        }
        published.check_counts(found, published.root(path), counts)
        return found
    images: Any = load(name, path=path, counts=counts)
    verify_images(images.images.tolist(), progress=True)
    found = counts_of(images)
    return {kind: found[kind] for kind in published.counts}


def main(argv=None):
    """Run the command `tfdml-prepare` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="tfdml-prepare",
        description="Check the archives or folders of a published dataset, extract them, and read every image.",
    )
    parser.add_argument("NAME", help=f"One of {', '.join(preparable_names())}.")
    parser.add_argument("PATH", help="Folder that contains the archives or the extracted dataset.")
    parser.add_argument("--download", action="store_true", help="Download missing files from the official address.")
    parser.add_argument(
        "--counts",
        choices=("published", "any"),
        default="published",
        help="Accept only the published counts and checksums, or any. Default: published.",
    )
    parser.add_argument("--size", type=int, help="Height and width of rendered emoji images in pixels. Default: 128.")
    given = parser.parse_args(argv)
    try:
        found = prepare(given.NAME, given.PATH, given.download, given.counts, given.size)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{given.NAME}: {', '.join(f'{number:,} {kind}' for kind, number in found.items())}; all are readable.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
