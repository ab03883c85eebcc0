"""The Emoji dataset from npm packages of drawings: which drawings show the same emoji, and their images."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
from typing import NamedTuple

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.plain_files import write_json
from tfdml._utils.progress import progress_bar
from tfdml.data import archives

TITLE = "Emoji"
INDEX = "emoji.json"
FEWEST_HOUSES = 5
# Of the versions in HOUSES.
COUNTS = {"classes": 1_559, "images": 11_357}
_REGISTRY = "https://registry.npmjs.org/@iconify-json"
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
)
_LARGEST_ICONS = 2**28


class House(NamedTuple):
    """A design house's drawings as a package of npm.

    Attributes:
        name: The package `@iconify-json/name`.
        version: The version that the published counts are of.
        md5: The checksum of its archive.
        license: SPDX identifier of the drawings' license.
        author: Whom the license asks to name.
    """

    name: str
    version: str
    md5: str
    license: str
    author: str

    @property
    def archive(self):
        """The file that `npm pack` writes, without its scope."""
        return f"{self.name}-{self.version}.tgz"

    @property
    def url(self):
        """The address of the archive."""
        return f"{_REGISTRY}/{self.name}/-/{self.archive}"


HOUSES = (
    House("emojione", "1.2.3", "c860b30f9de98ca32db2cff6bb731a17", "CC-BY-4.0", "EmojiOne"),
    House("emojione-v1", "1.2.3", "02f5fe19653857a3873c216f59f9137c", "CC-BY-SA-4.0", "EmojiOne"),
    House("fluent-emoji", "1.2.7", "0aced813b566cb5f6565b41b19f090b2", "MIT", "Microsoft Corporation"),
    House("fluent-emoji-flat", "1.2.6", "fe738131f9f34b05cf1f1fd81551a8e2", "MIT", "Microsoft Corporation"),
    House("fxemoji", "1.2.2", "03f71c571132ea598762fe93f1052fa8", "Apache-2.0", "Mozilla"),
    House("noto", "1.2.9", "5b7882a503747b6aae35868e0409f62e", "Apache-2.0", "Google Inc"),
    House("noto-v1", "1.2.5", "e75a20586b8dccc56a1d5620acc53947", "Apache-2.0", "Google Inc"),
    House("openmoji", "1.2.29", "2622b79da1193772433771acfab415f3", "CC-BY-SA-4.0", "OpenMoji"),
    House("twemoji", "1.2.5", "10cd6f959ce5db484e330135532b5fc1", "CC-BY-4.0", "Twitter"),
)


def prepare_emoji(path, download=False, counts="published", size=128):
    """Renders the Emoji dataset into a folder that `tfdml.data.emoji` reads.

    A class is an emoji that at least five of nine design houses have drawn, without skin tones and flags; its images
    are their drawings, on white. Two names are the same emoji if they differ in hyphens only, or if a house lists one
    as an alias of the other and no house has drawings of both. A drawing that a house uses for several emoji is left
    out.

    Args:
        path: Folder with the archives of the packages (`npm pack @iconify-json/noto` …), or with the folder
            `node_modules` of `npm install @iconify-json/noto …`. The images are written to its folder `images`.
        download: Whether to fetch archives that are not there from the npm registry.
        counts: `"any"` accepts other versions of the packages, and packages that are missing.
        size: Height and width of the images in pixels.

    Returns:
        A dict of the numbers of classes and images.

    Raises:
        FileNotFoundError: If packages are missing; the message says what to put where.
        ConnectionError: If an archive cannot be fetched.
        ValueError: If an archive has a wrong checksum, is damaged, or a drawing cannot be rendered.
        ModuleNotFoundError: If resvg is not installed (extra `emoji`).
    """
    size = check_whole_number("size", size, minimum=16)
    path = pathlib.Path(path).expanduser()
    render = _renderer()
    icons = _read_houses(path, download, counts)
    classes = common_emoji(icons)
    if not classes:
        raise ValueError(f"No emoji is in {FEWEST_HOUSES} packages. Received: {path} with {', '.join(icons)}.")
    partial = path / ".images.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        total = sum(map(len, classes.values()))
        with progress_bar(total=total, desc="rendering", unit="image", disable=None) as bar:
            for name, drawings in classes.items():
                (partial / name).mkdir(parents=True)
                for house, icon in drawings.items():
                    _render(render, icons[house], icon, size).save(partial / name / f"{house}.png", optimize=True)
                    bar.update()
        shutil.rmtree(path / "images", ignore_errors=True)
        os.replace(partial, path / "images")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    houses = {house.name: {"license": house.license, "author": house.author} for house in HOUSES if house.name in icons}
    index = {"size": size, "houses": houses, "classes": {name: sorted(drawings) for name, drawings in classes.items()}}
    write_json(path / INDEX, index)
    return {"classes": len(classes), "images": total}


def advice(path):
    """How to get the dataset."""
    return (
        f"Run: tfdml-prepare emoji {str(path)!r} --download (with the extra emoji). Without a network, first put the "
        f"archives {', '.join(house.archive for house in HOUSES)} from {_REGISTRY} there."
    )


def common_emoji(icons):
    """The emoji that enough houses have drawn.

    Args:
        icons: For each house the contents of its `icons.json`.

    Returns:
        A dict from an emoji's name to a dict from each house to its icon, in the order of the published split: by the
        SHA-256 of the name.
    """
    drawings: dict[str, dict[str, str]] = collections.defaultdict(dict)
    members = {}
    for house, of_house in icons.items():
        # Some houses have one drawing for several emoji, such as families.
        bodies = collections.Counter(icon["body"] for name, icon in of_house["icons"].items() if _counts(name))
        for name in sorted(of_house["icons"]):
            if _counts(name) and bodies[of_house["icons"][name]["body"]] == 1:
                drawings[_key(name)].setdefault(house, name)
    for key in drawings:
        members[key] = {key}
    # Aliases join names, each in the same order on every machine.
    for name, parent in sorted(_aliases(icons)):
        one, other = (members.setdefault(_key(text), {_key(text)}) for text in (name, parent))
        if one is not other and not _houses(one, drawings) & _houses(other, drawings):
            one |= other
            members.update(dict.fromkeys(other, one))
    classes = {}
    for keys in {id(keys): keys for keys in members.values()}.values():
        of_class = {house: icon for key in sorted(keys) for house, icon in drawings.get(key, {}).items()}
        if len(of_class) >= FEWEST_HOUSES:
            counts = collections.Counter(of_class.values())
            name = min(counts, key=lambda name: (-counts[name], name))
            classes[name] = {house: of_class[house] for house in sorted(of_class)}
    return dict(sorted(classes.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest()))


def _key(name):
    """Names without hyphens: one house writes none."""
    return name.replace("-", "")


def _counts(name):
    return "skin-tone" not in name and not name.startswith("flag")


def _aliases(icons):
    for of_house in icons.values():
        for name, alias in of_house.get("aliases", {}).items():
            # Aliases with more keys are mirrored or turned.
            if set(alias) == {"parent"} and _counts(name) and _counts(alias["parent"]):
                yield name, alias["parent"]


def _houses(keys, drawings):
    return {house for key in keys for house in drawings.get(key, {})}


def _read_houses(path, download, counts):
    """The contents of each package's `icons.json`, by house."""
    sources = {house: _source(house, path, counts) for house in HOUSES}
    missing = [house for house, file in sources.items() if file is None]
    if missing and not download and (counts == "published" or len(missing) == len(HOUSES)):
        raise FileNotFoundError(
            f"Packages of {TITLE} are not there. Received: {str(path)!r} without "
            f"{', '.join(house.archive for house in missing)}. {advice(path)}"
        )
    for house, file in sources.items():
        if file is None and download:
            sources[house] = path / house.archive
            archives.download(house.url, sources[house], house.md5)
        elif file is not None and file.suffix == ".tgz" and counts == "published":
            archives.check_md5(file, house.md5, house.url)
    return {house.name: _read_icons(file) for house, file in sources.items() if file is not None}


def _source(house, path, counts):
    """The archive or `icons.json` of a house, or `None`."""
    installed = path / "node_modules" / "@iconify-json" / house.name / "icons.json"
    candidates = [path / house.archive, path / f"iconify-json-{house.archive}", installed]
    if counts == "any":
        candidates += sorted(path.glob(f"{house.name}-[0-9]*.tgz"))
    return next((file for file in candidates if file.is_file()), None)


def _read_icons(file):
    try:
        if file.suffix == ".tgz":
            with tarfile.open(file) as members:
                contents = members.extractfile("package/icons.json")
                if contents is None:
                    raise TypeError("package/icons.json is not a file")
                text = contents.read(_LARGEST_ICONS)
        else:
            text = file.read_bytes()
        icons = json.loads(text)
        if not isinstance(icons["icons"], dict):
            raise TypeError("icons is not a mapping")
        return icons
    except (tarfile.TarError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Damaged package. Received: {file} ({error}). Expected: an archive of npm's @iconify-json with "
            "package/icons.json. Remove it and get it again."
        ) from error


def _renderer():
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Rendering needs resvg, which is not installed. Install it: pip install 'tfdml[emoji]'."
        ) from error
    return resvg_py.svg_to_bytes


def _render(render, icons, name, size):
    """A drawing on a white square, as a PIL image."""
    from PIL import Image

    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    corner = {"left": icon.get("left", 0), "top": icon.get("top", 0)}
    svg = _SVG.format(body=icon["body"], width=width, height=height, **corner)
    fit = {"width": size} if width >= height else {"height": size}
    try:
        encoded = render(svg_string=svg, background="#ffffff", skip_system_fonts=True, **fit)
    except ValueError as error:
        raise ValueError(
            f"The drawing cannot be rendered. Received: {name!r} of {icons.get('prefix')} ({error})."
        ) from error
    drawing = Image.open(io.BytesIO(encoded)).convert("RGB")
    image = Image.new("RGB", (size, size), "white")
    image.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return image
