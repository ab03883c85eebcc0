"""Characters rendered in matplotlib's typefaces: hundreds of classes without a download."""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import os
import pathlib
import string
import tempfile
import unicodedata
import zipfile

import numpy as np

from tfdml._utils.arguments import check_at_most, check_whole_number
from tfdml._utils.types import PathLike
from tfdml.data.labeled_images import LabeledImages

_LOGGER = logging.getLogger("tfdml")

# Increase it when rendering changes, so that older caches are not used.
_RENDERING = 1

# Typefaces whose character map is Unicode. Computer Modern follows Unicode for letters and digits only (its "<" is an
# inverted exclamation mark). Excluded: STIXNonUnicode, STIXSize… and cmex10 contain parts of formulas, cmmi10 and
# cmsy10 other alphabets under Latin codes, and the Last Resort font draws a placeholder for every character.
_FAITHFUL = ("DejaVu", "STIXGeneral")
_FAITHFUL_FOR_LETTERS = ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")
_LETTERS = frozenset(map(ord, string.ascii_letters + string.digits))

# In units of the image's side. At this size and baseline, accents over capitals and descenders stay inside the image.
_EM = 0.66
_BASELINE = 0.73
_LARGEST_EXTENT = 0.9

_COMPARISON_SIZE = 64
_CANDIDATE_DISTANCE = 0.1
_LOOK_ALIKE = 0.45


def glyphs(
    size: int = 32,
    min_typefaces: int = 16,
    seed: int = 0,
    samples_per_typeface: int = 1,
    characters: str | None = None,
    rotation: float = 8.0,
    scale: float = 0.1,
    shear: float = 0.1,
    translation: float = 0.06,
    cache_dir: PathLike | None = None,
) -> LabeledImages:
    """Render characters as classes and typefaces as samples: white on black, each slightly warped.

    Use it for experiments with hundreds of classes and no download. It is the default of the recipes.

    The characters are those of matplotlib's DejaVu and STIX typefaces (for letters and digits also Computer Modern)
    that occur in at least `min_typefaces` of them, in the order of their code points. Spaces, control and private-use
    characters, combining marks and blank glyphs are excluded. If characters look the same in most of their common
    typefaces before warping (Latin A, Greek Alpha, Cyrillic A; at this size also Ō and Ŏ), only the one with the
    smallest code point is kept, because their labels would contradict each other.

    With matplotlib 3.11, 657 of 736 characters remain as classes, with 10,840 images (16 to 21 each);
    `min_typefaces=12` gives 2,017 classes with 27,751 images. Adjacent code points belong to the same script;
    `split_classes(seed=…)` mixes scripts.

    Args:
        size: int, pixels. Height and width of an image, at least 8. Default 32.
        min_typefaces: int. Smallest number of typefaces in which a character must occur, at least 2. Default 16.
        seed: int. Seed of the warps. The warp of a sample depends only on the seed, its character and its typeface.
            Default 0.
        samples_per_typeface: int. Number of differently warped images per character and typeface. Default 1.
        characters: str. Restrict the classes to these characters. `None` means all. Default `None`.
        rotation: float, degrees. Largest rotation in either direction. Default 8.
        scale: float. Largest relative change of size in either direction. Default 0.1.
        shear: float. Largest horizontal shear, as horizontal shift per unit of height, in either direction. Default
            0.1.
        translation: float. Largest shift along each axis, as a fraction of the image's side, in either direction.
            Default 0.06.
        cache_dir: str or `os.PathLike`. Folder in which rendered images are cached. `None` means the environment
            variable `TFDML_CACHE`, else `~/.cache/tfdml`. If it is not writable, images are rendered each time. Default
            `None`.

    Returns:
        `LabeledImages` with images `(n, size, size, 1)`; class names are the characters.

    Raises:
        ValueError: If an argument is out of range, or no character remains.

    Example:
        `images = glyphs(size=32, characters="abcdefgh")`
    """
    options: dict[str, int | float | str | None] = {
        "size": check_whole_number("size", size, minimum=8),
        "min_typefaces": check_whole_number("min_typefaces", min_typefaces, minimum=2),
        "seed": check_whole_number("seed", seed, minimum=0),
        "samples_per_typeface": check_whole_number("samples_per_typeface", samples_per_typeface, minimum=1),
        "characters": None if characters is None else "".join(sorted(set(characters))),
    }
    limits = {"rotation": 180.0, "scale": 0.9, "shear": 2.0, "translation": 0.5}
    warp = {"rotation": rotation, "scale": scale, "shear": shear, "translation": translation}
    check_at_most(limits, **warp)
    options.update({name: float(value) for name, value in warp.items()})

    path = _cache_path(cache_dir, options)
    rendered = _read_cache(path)
    if rendered is None:
        rendered = _render_all(**options)
        _write_cache(path, rendered)
    images, labels, code_points = rendered
    return LabeledImages(images[..., np.newaxis], labels, tuple(map(chr, code_points)), name="glyphs")


def _render_all(size, min_typefaces, seed, samples_per_typeface, characters, **warp):
    typefaces = _typefaces()
    counts = collections.Counter(code for _, codes in typefaces for code in codes)
    wanted = None if characters is None else set(map(ord, characters))
    code_points = sorted(
        code
        for code, count in counts.items()
        if count >= min_typefaces and _is_drawable(code) and (wanted is None or code in wanted)
    )
    drawings = _draw(typefaces, code_points, _COMPARISON_SIZE)
    inked = drawings.any(axis=(2, 3))
    kept = np.flatnonzero(inked.sum(0) >= min_typefaces)
    kept = kept[_without_look_alikes(drawings[:, kept], inked[:, kept])]
    if not len(kept):
        raise ValueError(
            "No character is left to render. "
            f"Received: min_typefaces={min_typefaces}, characters={characters!r}. "
            f"Expected: min_typefaces <= {len(typefaces)}, and characters that occur in that number of typefaces."
        )
    code_points, inked = [code_points[index] for index in kept], inked[:, kept]

    # Draw at twice the size, warp, then average: this smooths edges without an anti-aliased warp.
    drawings = drawings[:, kept] if 2 * size == _COMPARISON_SIZE else _draw(typefaces, code_points, 2 * size)
    images, labels = [], []
    for label, code in enumerate(code_points):
        for index in np.flatnonzero(inked[:, label]):
            generator = np.random.default_rng([seed, code, _stable_number(typefaces[index][0].name)])
            for _ in range(samples_per_typeface):
                images.append(_warp(drawings[index, label], generator, **warp))
                labels.append(label)
    return np.stack(images), np.asarray(labels, np.int64), np.asarray(code_points, np.int64)


def _typefaces():
    """Return pairs (font file, code points that it draws correctly), in the order of the file names."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    typefaces = []
    for path in sorted(folder.glob("*.ttf")):
        if not (path.name.startswith(_FAITHFUL) or path.stem in _FAITHFUL_FOR_LETTERS):
            continue
        # Glyph 0 is the placeholder of a missing character.
        codes = {code for code, glyph in FT2Font(str(path)).get_charmap().items() if glyph != 0}
        typefaces.append((path, codes & _LETTERS if path.stem in _FAITHFUL_FOR_LETTERS else codes))
    return typefaces


def _is_drawable(code):
    # C: controls, format, private, unassigned; M: combining marks; Z: spaces.
    return unicodedata.category(chr(code))[0] not in "CMZ"


def _draw(typefaces, code_points, side):
    """Draw all characters in all typefaces, uint8 `(typefaces, characters, side, side)`; black if missing."""
    from PIL import Image, ImageDraw, ImageFont

    drawings = np.zeros((len(typefaces), len(code_points), side, side), np.uint8)
    for row, (path, codes) in enumerate(typefaces):
        font = ImageFont.truetype(str(path), round(_EM * side), layout_engine=ImageFont.Layout.BASIC)
        for column, code in enumerate(code_points):
            if code not in codes:
                continue
            left, top, right, bottom = font.getbbox(chr(code), anchor="ls")
            width, height = right - left, bottom - top
            if width <= 0 or height <= 0:
                continue
            x = round(side / 2 - (left + right) / 2)
            y = round(_BASELINE * side)
            canvas = Image.new("L", (side, side))
            if max(width, height) > _LARGEST_EXTENT * side or y + top < 0 or y + bottom > side:
                canvas = _draw_shrunk(font, chr(code), (left, top, width, height), side)
            else:
                ImageDraw.Draw(canvas).text((x, y), chr(code), font=font, fill=255, anchor="ls")
            drawings[row, column] = np.asarray(canvas)
    return drawings


def _draw_shrunk(font, character, box, side):
    """Draw a character that does not fit into the image: centered, and scaled down if necessary."""
    from PIL import Image, ImageDraw

    left, top, width, height = box
    drawing = Image.new("L", (width, height))
    ImageDraw.Draw(drawing).text((-left, -top), character, font=font, fill=255, anchor="ls")
    factor = min(1.0, _LARGEST_EXTENT * side / max(width, height))
    width, height = max(1, int(width * factor)), max(1, int(height * factor))
    canvas = Image.new("L", (side, side))
    canvas.paste(
        drawing.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2)
    )
    return canvas


def _without_look_alikes(drawings, inked):
    """Return indices of characters such that none looks like an earlier one in most of their common typefaces.

    Two drawings look alike if, aligned at their left edges, no patch of 4×4 pixels (of 64×64) differs by more than
    `_LOOK_ALIKE` of full ink. Differences at edges and from hinting are smaller; accents and serifs are larger.
    """
    aligned = _align_left(drawings).astype(np.float32) / 255.0
    flat = aligned.reshape(*aligned.shape[:2], _COMPARISON_SIZE**2)
    # Compare patches only for pairs that are close in some typeface.
    nearest = np.full((flat.shape[1], flat.shape[1]), np.inf, np.float32)
    for typeface, has_ink in zip(flat, inked):
        squares = np.sum(typeface**2, axis=1)
        distances = squares[:, None] + squares[None, :] - 2.0 * typeface @ typeface.T
        distances /= np.maximum(np.maximum(squares[:, None], squares[None, :]), 1e-6)
        nearest = np.where(has_ink[:, None] & has_ink[None, :], np.minimum(nearest, distances), nearest)
    candidates = np.argwhere(np.triu(nearest < _CANDIDATE_DISTANCE, k=1))

    resembles = collections.defaultdict(list)
    for first, second in candidates:
        common = inked[:, first] & inked[:, second]
        patches = _patch_means(aligned[common, first] - aligned[common, second])
        alike = np.abs(patches).max(axis=(1, 2)) < _LOOK_ALIKE
        if alike.mean() > 0.5:
            resembles[second].append(first)
    kept = []
    is_kept = np.zeros(drawings.shape[1], bool)
    for index in range(drawings.shape[1]):
        if not is_kept[resembles[index]].any():
            is_kept[index] = True
            kept.append(index)
    return np.asarray(kept, np.int64)


def _align_left(drawings):
    side = drawings.shape[-1]
    first_inked = np.argmax(drawings.any(axis=-2), axis=-1)
    columns = (np.arange(side) + first_inked[..., None]) % side
    return np.take_along_axis(drawings, columns[..., None, :], axis=-1)


def _patch_means(images, side=4):
    """Return the means of all patches of `side` × `side` pixels."""
    totals = np.pad(images, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    rows = totals[:, side:] - totals[:, :-side]
    return (rows[:, :, side:] - rows[:, :, :-side]) / side**2


def _warp(drawing, generator, rotation, scale, shear, translation):
    from PIL import Image

    side = len(drawing)
    angle = np.deg2rad(generator.uniform(-rotation, rotation))
    factor = 1.0 + generator.uniform(-scale, scale)
    slant = generator.uniform(-shear, shear)
    shift = generator.uniform(-translation, translation, size=2) * side
    forward = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = forward @ np.array([[1.0, slant], [0.0, 1.0]])
    # Pillow needs the inverse map, from pixels of the result to pixels of the drawing.
    backward = np.linalg.inv(forward)
    center = np.full(2, side / 2)
    offset = center - backward @ (center + shift)
    coefficients = (*backward[0], offset[0], *backward[1], offset[1])
    warped = Image.fromarray(drawing).transform(
        (side, side), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )
    return np.asarray(warped.reduce(2))


def _stable_number(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def _cache_path(cache_dir, options):
    import matplotlib
    import PIL

    if cache_dir is None:
        cache_dir = os.environ.get("TFDML_CACHE") or pathlib.Path("~", ".cache", "tfdml")
    versions = {"rendering": _RENDERING, "matplotlib": matplotlib.__version__, "pillow": PIL.__version__}
    key = hashlib.sha256(json.dumps({**options, **versions}, sort_keys=True).encode()).hexdigest()[:16]
    return pathlib.Path(cache_dir).expanduser() / f"glyphs-{key}.npz"


def _read_cache(path):
    try:
        with np.load(path) as stored:
            rendered = stored["images"], stored["labels"], stored["code_points"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _LOGGER.warning("The cached glyphs in %s cannot be read (%s); they are rendered again.", path, error)
        return None
    images, labels, code_points = rendered
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(labels) or not len(code_points):
        _LOGGER.warning("The cached glyphs in %s are invalid; they are rendered again.", path)
        return None
    return rendered


def _write_cache(path, rendered):
    images, labels, code_points = rendered
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=path.stem, suffix=".part", delete=False
        ) as file:
            temporary = file.name
            np.savez_compressed(file, images=images, labels=labels, code_points=code_points)
        # Readers see either the old or the complete new file.
        os.replace(temporary, path)
    except OSError as error:
        _LOGGER.warning(
            "Rendered glyphs cannot be cached in %s (%s); they are rendered again each time.", path, error
        )
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)
