"""Files of class names next to features. Nothing here imports TensorFlow."""

from __future__ import annotations

import codecs

from tfdml._utils.plain_files import write_text

CLASSES, SUPERCLASSES = "classes.txt", "superclasses.txt"


def write_class_names(folder, samples):
    """Write the names of the classes of samples, and of their super-classes, if any, as lines of text."""
    for file, names in ((CLASSES, samples.class_names), (SUPERCLASSES, samples.superclasses)):
        if names is not None:
            write_text(folder / file, "".join(f"{' '.join(str(name).splitlines())}\n" for name in names))


def read_names(path):
    """Return the lines of a file of names.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        content = path.read_bytes()
        # Folder names can have any encoding, but UTF-16 cannot be split into lines here.
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-8", "strict" if is_utf_16 else "surrogateescape").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The class names cannot be read. Received: {path} ({error}). Expected: UTF-8.") from error
    return tuple(line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))


def read_superclasses(folder):
    """Return the super-class of each class from a folder of features, or `None` if it has none."""
    path = folder / SUPERCLASSES
    return read_names(path) if path.is_file() else None
