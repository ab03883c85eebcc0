"""Files of TensorBoard's embedding projector."""

from __future__ import annotations

import io
import itertools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.files import whole_file
from tfdml._utils.types import ArrayLike, PathLike
from tfdml.plots.pixels import as_thumbnail

# The projector refuses larger images; below the smallest size, nothing can be recognized.
_MAX_SPRITE = 8192
_MIN_SIDE = 8
_BLOCK_ROWS = 4096


def save_projector(
    folder: PathLike,
    embeddings: ArrayLike,
    columns: Mapping[str, Sequence[Any]] | None = None,
    images: Iterable[Any] | None = None,
    *,
    name: str = "embeddings",
    image_size: int = 48,
    max_sprite_size: int = 4096,
) -> pathlib.Path:
    """Save embeddings as files of the embedding projector, an interactive map in the browser.

    `tensorboard --logdir FOLDER` shows them on its page *Projector* with PCA, t-SNE and UMAP; `vectors.tsv` and
    `metadata.tsv` can also be loaded at projector.tensorflow.org. The folder gets `vectors.tsv`, `metadata.tsv` (with
    columns), `sprite.png` (with images) and `projector_config.pbtxt`, which names the others and is written last. Files
    of these names are replaced.

    Args:
        folder: str or `os.PathLike`. Created if it is missing. `~` is the home folder.
        embeddings: float array `(n, dim)`, such as `gallery.vectors(gallery.ids)`.
        columns: Mapping from names to `n` values that are shown with the points, such as `{"label": labels}`. Tabs and
            line breaks become spaces, `None` becomes empty. Default `None`.
        images: `n` images or paths of image files: a sequence, or an iterator, which is read one by one. Images are
            uint8, or float in 0–1, with 1, 3 or 4 channels, of any sizes. Default `None`.
        name: str. Name of the embeddings in the projector. Default "embeddings".
        image_size: int. Side of a thumbnail in pixels, 8 or more; smaller if the sprite would be too large. Default 48.
        max_sprite_size: int. Largest side of the sprite in pixels, up to 8192. Default 4096.

    Returns:
        `pathlib.Path` of `projector_config.pbtxt`.

    Raises:
        ValueError: If shapes do not match, values are not finite, an image is invalid, a size is out of range, or there
            are too many images for the sprite.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = save_projector(folder, np.eye(2), {"label": ["cat", "dog"]}, np.zeros((2, 8, 8, 1), "uint8"))
        ...     sorted(path.name for path in config.parent.iterdir())
        ['metadata.tsv', 'projector_config.pbtxt', 'sprite.png', 'vectors.tsv']
    """
    vectors = np.asarray(embeddings)
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "iufV":
        raise ValueError(
            f"Embeddings have the wrong shape or type. Received: {vectors.dtype} of shape {vectors.shape}. Expected: "
            "numbers (n, dim)."
        )
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("Embeddings are not finite. Received: NaN, infinity or values beyond float32.")
    image_size = check_whole_number("image_size", image_size, _MIN_SIDE)
    max_sprite_size = check_whole_number("max_sprite_size", max_sprite_size, _MIN_SIDE)
    if max_sprite_size > _MAX_SPRITE:
        raise ValueError(
            f"Invalid max_sprite_size. Received: max_sprite_size={max_sprite_size}. Expected: at most {_MAX_SPRITE}."
        )
    columns = _checked_columns(columns, len(vectors))
    per_row = math.ceil(math.sqrt(len(vectors)))
    side = min(image_size, max_sprite_size // per_row)
    if images is not None and side < _MIN_SIDE:
        raise ValueError(
            f"There are too many images for the sprite. Received: {len(vectors)} images. Expected: at most "
            f"{(max_sprite_size // _MIN_SIDE) ** 2} for max_sprite_size={max_sprite_size}. Pass fewer embeddings, or a "
            f"larger max_sprite_size, up to {_MAX_SPRITE}."
        )
    # An invalid image must be found before files change.
    sprite = None if images is None else _sprite(images, len(vectors), per_row, side)

    path = pathlib.Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    with whole_file(path / "vectors.tsv", "w", encoding="utf-8") as file:
        for start in range(0, len(vectors), _BLOCK_ROWS):
            np.savetxt(file, vectors[start : start + _BLOCK_ROWS], fmt="%.9g", delimiter="\t")
    if columns:
        with whole_file(path / "metadata.tsv", "w", encoding="utf-8") as file:
            # A single column has no header.
            header = [list(columns)] if len(columns) > 1 else []
            file.writelines(
                "\t".join(map(_cell, row)) + "\n" for row in itertools.chain(header, zip(*columns.values()))
            )
    if sprite is not None:
        contents = io.BytesIO()
        Image.fromarray(sprite).save(contents, "PNG")
        with whole_file(path / "sprite.png") as file:
            file.write(contents.getvalue())
    config = path / "projector_config.pbtxt"
    with whole_file(config, "w", encoding="utf-8") as file:
        file.write(_config(name, bool(columns), None if sprite is None else side))
    return config


def _checked_columns(columns, count):
    columns = {} if columns is None else {str(name): list(values) for name, values in columns.items()}
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(
                f"A column does not fit the embeddings. Received: {len(values)} values of {name!r}. Expected: {count}."
            )
    return columns


def _sprite(images, count, per_row, side):
    sprite = np.full((per_row * side, per_row * side, 3), 255, np.uint8)
    number = 0
    for number, image in enumerate(images, 1):
        if number > count:
            break
        row, column = divmod(number - 1, per_row)
        pixels = as_thumbnail(image, side, f"images[{number - 1}]", enlarge=True)
        height, width = pixels.shape[:2]
        top, left = row * side + (side - height) // 2, column * side + (side - width) // 2
        sprite[top : top + height, left : left + width] = pixels if pixels.ndim == 3 else pixels[..., None]
    if number != count:
        raise ValueError(
            f"Images do not fit the embeddings. Received: {'more' if number > count else number} images. Expected: "
            f"{count}."
        )
    return sprite


def _cell(value):
    return "" if value is None else " ".join(str(value).split("\t")).replace("\r", " ").replace("\n", " ")


def _config(name, has_metadata, side):
    lines = [f"  tensor_name: {_quoted(name)}", '  tensor_path: "vectors.tsv"']
    if has_metadata:
        lines.append('  metadata_path: "metadata.tsv"')
    if side is not None:
        size = f"    single_image_dim: {side}"
        lines += ["  sprite {", '    image_path: "sprite.png"', size, size, "  }"]
    return "\n".join(["embeddings {", *lines, "}"]) + "\n"


def _quoted(text):
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
