import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from tfdml import data
from tfdml.data import emoji_files
from tfdml.data.emoji_files import HOUSES, common_emoji, prepare_emoji
from tfdml.data.prepare import main, prepare

SQUARE = '<path fill="#f00" d="M0 0h{0}v{0}h-{0}z"/>'


def package(icons, aliases=None, **sizes):
    """The contents of icons.json."""
    return {"prefix": "x", "icons": icons, "aliases": aliases or {}, "width": 16, "height": 16, **sizes}


def drawings(house, names=("sun", "moon", "star")):
    """Squares whose side tells the name, off the corner by the house."""
    return {name: {"body": SQUARE.format(4 + 2 * i) + f"<!--{house}-->"} for i, name in enumerate(names)}


def write_archive(folder, house, icons):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / house.archive, "w:gz") as archive:
        text = json.dumps(icons).encode()
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))


@pytest.fixture
def packages(tmp_path):
    for house in HOUSES[:6]:
        write_archive(tmp_path, house, package(drawings(house.name)))
    return tmp_path


def test_emoji_are_rendered_and_loaded(packages):
    assert prepare("emoji", packages, counts="any", size=32) == {"classes": 3, "images": 18}
    dataset = data.load("emoji", path=packages, counts="any")
    assert sorted(dataset.class_names) == ["moon", "star", "sun"] and dataset.num_train_classes == 2
    # The order of the classes is fixed by the digests of their names.
    assert dataset.class_names == ("sun", "star", "moon")
    assert np.bincount(dataset.labels).tolist() == [6, 6, 6]
    for path, label in zip(dataset.images, dataset.labels):
        pixels = np.asarray(Image.open(path))
        side = 2 * (4 + 2 * ["sun", "moon", "star"].index(dataset.class_names[label]))
        assert pixels.shape == (32, 32, 3)
        assert (pixels[: side - 1, : side - 1] == (255, 0, 0)).all() and (pixels[side + 1 :] == 255).all()
    index = json.loads((packages / "emoji.json").read_text())
    assert index["houses"]["noto"] == {"license": "Apache-2.0", "author": "Google Inc"}


def test_drawings_that_are_not_square_are_centered(packages):
    wide = package({**drawings("noto"), "sun": {"body": SQUARE.format(16), "width": 32, "height": 16}})
    write_archive(packages, next(house for house in HOUSES if house.name == "noto"), wide)
    prepare_emoji(packages, counts="any", size=32)
    pixels = np.asarray(Image.open(packages / "images" / "sun" / "noto.png"))
    assert (pixels[8:24, :15] == (255, 0, 0)).all() and (pixels[:7] == 255).all() and (pixels[25:] == 255).all()


def test_packages_of_npm_install(tmp_path):
    for house in HOUSES[:5]:
        folder = tmp_path / "node_modules" / "@iconify-json" / house.name
        folder.mkdir(parents=True)
        (folder / "icons.json").write_text(json.dumps(package(drawings(house.name))))
    assert prepare_emoji(tmp_path, counts="any", size=16) == {"classes": 3, "images": 15}


def test_names_of_one_emoji():
    houses = {str(number): package({"red-heart": {"body": str(number)}}) for number in range(4)}
    # Without hyphens, and by an alias; a mirrored alias is another drawing.
    houses["4"] = package({"redheart": {"body": "a"}})
    houses["5"] = package({"heavy-heart": {"body": "b"}, "other": {"body": "c"}})
    houses["6"] = package({"heavy-heart": {"body": "d"}}, {"red-heart": {"parent": "heavy-heart"}})
    houses["7"] = package({"left": {"body": "e"}}, {"red-heart": {"parent": "left", "hFlip": True}})
    ((name, drawn),) = common_emoji(houses).items()
    assert name == "red-heart"
    assert drawn == {**dict.fromkeys("0123", "red-heart"), "4": "redheart", "5": "heavy-heart", "6": "heavy-heart"}
    # A house with drawings of both says that they are two.
    houses["5"]["icons"]["red-heart"] = {"body": "f"}
    assert set(common_emoji(houses)["red-heart"]) == set("012345")


def test_what_is_left_out():
    icons = {"flag-france": {"body": "0"}, "hand-dark-skin-tone": {"body": "1"}, "a": {"body": "2"}, "b": {"body": "2"},
             "c": {"body": "3"}}  # fmt: skip
    assert list(common_emoji({str(house): package(icons) for house in range(5)})) == ["c"]
    assert not common_emoji({str(house): package(icons) for house in range(4)})


def test_a_resized_dataset_replaces_the_older_one(packages):
    prepare_emoji(packages, counts="any", size=32)
    prepare_emoji(packages, counts="any", size=16)
    dataset = data.emoji(packages, counts="any")
    assert Image.open(dataset.images[0]).size == (16, 16)
    assert not list(packages.glob(".*partial"))


def test_what_is_missing_is_named(packages, capsys):
    with pytest.raises(FileNotFoundError, match=r"without noto-v1-1.2.5.tgz, openmoji.*Run: tfdml-prepare emoji"):
        prepare_emoji(packages)
    assert main(["emoji", str(packages)]) == 1
    assert "tfdml-prepare: Packages of Emoji are not there." in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="without emoji.json. Run: tfdml-prepare emoji"):
        data.load("emoji", path=packages)
    prepare_emoji(packages, counts="any", size=16)
    with pytest.raises(ValueError, match="with 3 classes and 18 images. Expected: 1,559 and 11,357"):
        data.load("emoji", path=packages)
    (packages / "images" / "sun" / "noto.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 18 images of Emoji are not there. Received: no .*noto.png"):
        data.load("emoji", path=packages, counts="any")
    assert len(data.load("emoji", path=packages, counts="any", verify=False)) == 18


def test_archives_are_checked(packages, monkeypatch):
    for house in HOUSES[6:]:
        write_archive(packages, house, package(drawings(house.name)))
    with pytest.raises(ValueError, match="Wrong checksum. Received: .*emojione-1.2.3.tgz"):
        prepare_emoji(packages)
    (packages / HOUSES[0].archive).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Damaged package. Received: .*emojione-1.2.3.tgz"):
        prepare_emoji(packages, counts="any")


def test_missing_archives_are_fetched_if_asked_for(packages, monkeypatch):
    asked = []

    def fetch(url, target, md5):
        asked.append((url, md5))
        write_archive(packages, house_of[url], package(drawings(house_of[url].name)))

    house_of = {house.url: house for house in HOUSES}
    monkeypatch.setattr(emoji_files.archives, "download", fetch)
    monkeypatch.setattr(emoji_files.archives, "check_md5", lambda *arguments: None)
    assert prepare_emoji(packages, download=True, size=16) == {"classes": 3, "images": 27}
    assert asked == [(house.url, house.md5) for house in HOUSES[6:]]
    assert HOUSES[0].url == "https://registry.npmjs.org/@iconify-json/emojione/-/emojione-1.2.3.tgz"


def test_a_drawing_that_cannot_be_rendered(packages):
    write_archive(packages, HOUSES[0], package({**drawings("x"), "sun": {"body": "<path d="}}))
    with pytest.raises(ValueError, match="The drawing cannot be rendered. Received: 'sun' of x"):
        prepare_emoji(packages, counts="any", size=16)
    assert not (packages / "images").exists() and not list(packages.glob(".*partial"))


def test_resvg_is_named_where_it_is_missing(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tfdml\[emoji\]'"):
        prepare_emoji(packages, counts="any")


def test_a_damaged_index(packages):
    prepare_emoji(packages, counts="any", size=16)
    for text in ("{", "{}", '{"classes": {"../sun": ["noto"]}}', '{"classes": []}'):
        (packages / "emoji.json").write_text(text)
        with pytest.raises(ValueError, match="Damaged index of Emoji"):
            data.load("emoji", path=packages, counts="any")


def test_a_size_is_for_what_is_rendered(tmp_path):
    with pytest.raises(ValueError, match="name='cub', size=64"):
        prepare("cub", tmp_path, size=64)
    with pytest.raises(ValueError, match="size"):
        prepare("emoji", tmp_path, size=0)
