"""Getting a published data set ready: fetch, check and extract its archives, and read every image once."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from tfdml._utils.arguments import check_choice
from tfdml.data import archives, emoji_files
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.list_files import counts_of

# What imports TensorFlow is imported where it is used: help and wrong arguments do not wait for it.

# Data sets that are made of the files of another one.
_MADE_OF = {"cifar_collage": "cifar100"}


def preparable_names():
    """The names that `prepare` knows, sorted."""
    return sorted([*PUBLISHED, *_MADE_OF, "emoji"])


def prepare(name, path, download=False, counts="published", size=None):
    """Brings a published data set into the form that its loader reads, and checks all of it.

    Archives are compared with their published checksums, and extracted where the extracted folder is not there yet;
    counts are compared with the published ones; every image is read. What is missing is fetched only if that is
    asked for: else the message says what to put where.

    Args:
        name: One of `preparable_names()`.
        path: The folder to be given to the loader, which holds the archives or the extracted folder.
        download: Whether to fetch what is missing from the official address.
        counts: `"any"` takes other counts and checksums than the published ones.
        size: For `emoji`, which is rendered: height and width of its images in pixels; `None` for 128.

    Returns:
        A dict of what there is of each kind, such as `{"classes": 200, "images": 11788}`.

    Raises:
        FileNotFoundError: If something is missing that is not to be fetched; the message says what to put where.
        ConnectionError: If it cannot be fetched.
        ValueError: If the name is unknown, an archive has a wrong checksum or is truncated, the counts are wrong, or a
            image is unreadable; the message names the path.
        OSError: If the disk is full; nothing half-written is left.
    """
    if name not in preparable_names():
        from tfdml._utils.naming import unknown_name

        raise unknown_name("published data set", name, preparable_names())
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
            f"{published.title} is not there. Received: path={str(path)!r}. {published.advice(path)}"
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
    """Reads an extracted data set, and returns what there is of each kind; errors are those of `prepare`."""
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
    """The command `tfdml-prepare`; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="tfdml-prepare",
        description="Checks the archives or folders of a published data set, extracts them, and reads every image.",
    )
    parser.add_argument("NAME", help=f"One of {', '.join(preparable_names())}.")
    parser.add_argument("PATH", help="The folder that holds the archives or the extracted data set.")
    parser.add_argument("--download", action="store_true", help="Fetch what is missing from the official address.")
    parser.add_argument(
        "--counts",
        choices=("published", "any"),
        default="published",
        help="With 'any', other counts and checksums than the published ones are taken.",
    )
    parser.add_argument("--size", type=int, help="Height and width in pixels, for emoji, which is rendered (128).")
    given = parser.parse_args(argv)
    try:
        found = prepare(given.NAME, given.PATH, given.download, given.counts, given.size)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{given.NAME}: {', '.join(f'{number:,} {kind}' for kind, number in found.items())}; all can be read.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
