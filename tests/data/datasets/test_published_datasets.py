"""CUB, Cars196, Stanford Online Products and In-shop, from miniatures in the original layouts."""

import re

import miniatures
import numpy as np
import pytest
from PIL import Image

from tfdml.data import Augmentation, Preprocessing, balanced_batches, evaluation_batches, load, split_classes

NAMES = ("cub", "cars196", "sop", "in_shop")
ROOTS = {
    "cub": "CUB_200_2011",
    "cars196": "",
    "sop": "Stanford_Online_Products",
    "in_shop": "In-shop Clothes Retrieval Benchmark",
}
LISTS = {
    "cub": ["images.txt", "image_class_labels.txt", "classes.txt"],
    "cars196": ["cars_annos.mat"],
    "sop": ["Ebay_train.txt", "Ebay_test.txt"],
    "in_shop": ["Eval/list_eval_partition.txt"],
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def path(name, tmp_path):
    return miniatures.make(name, tmp_path / "data", classes=6, per_class=4)


def check_images(dataset, per_class=4):
    """Each class has images of colours of its own: the miniature's label follows from them, and is one to one."""
    seen = {}
    for path, label in zip(dataset.images, dataset.labels):
        image = np.asarray(Image.open(path).convert("L"), float)
        width = image.shape[1] // 2
        seen.setdefault(int(label), []).append((image[:, : width - 4].mean(), image[:, width + 4 :].mean()))
    shades = np.array([seen[label] for label in range(dataset.num_classes)])
    assert shades.shape == (dataset.num_classes, per_class, 2)
    centres = shades.mean(axis=1)
    assert np.abs(shades - centres[:, None]).max() < 4
    distances = np.abs(centres[:, None] - centres).max(axis=-1) + 1e3 * np.eye(len(centres))
    assert distances.min() > 4


def test_from_the_folder_or_the_one_it_lies_in(name, path):
    for given in (path, str(path), path / ROOTS[name]):
        dataset = load(name, path=given, counts="any")
        assert dataset.holds_paths
        assert dataset.name == name
        assert (dataset.num_classes, len(dataset), dataset.num_train_classes) == (6, 24, 3)
        assert len(set(dataset.images)) == 24
        check_images(dataset)


def test_a_renamed_folder(tmp_path):
    for name in ("cub", "sop", "in_shop"):
        miniatures.make(name, tmp_path / name)
        (tmp_path / name / ROOTS[name]).rename(tmp_path / f"my_{name}")
        assert load(name, path=tmp_path / f"my_{name}", counts="any").num_classes == 8


def test_class_names(name, path):
    assert load(name, path=path, counts="any").class_names[2:4] == {
        "cub": ("003.Bird_c", "004.Bird_d"),
        "cars196": ("Maker Model 2 2002", "Maker Model 3 2003"),
        "sop": ("sofa 3", "bicycle 4"),
        "in_shop": ("id_00000005", "id_00000002"),
    }[name]


def test_superclasses(name, path):
    images = load(name, path=path, counts="any")
    if name == "sop":
        assert [title.rsplit(" ", 1)[0] for title in images.class_names] == images.superclasses.tolist()
    elif name == "in_shop":
        folders = {image.split("/")[-2]: "/".join(image.split("/")[-4:-2]) for image in images.images}
        assert [folders[title] for title in images.class_names] == images.superclasses.tolist()
    else:
        assert images.superclasses is None


def test_the_second_form_of_cars196(tmp_path):
    path = miniatures.make_cars196(tmp_path / "cars", classes=6, devkit=True)
    dataset = load("cars196", path=path, counts="any")
    assert (dataset.num_classes, len(dataset)) == (6, 24)
    check_images(dataset)
    assert {image.split("/")[-2] for image in dataset.images} == {"cars_train", "cars_test"}
    labels = path / "cars_test_annos_withlabels.mat"
    labels.rename(path / "devkit" / labels.name)
    np.testing.assert_array_equal(load("cars196", path=path, counts="any").labels, dataset.labels)
    # What the devkit itself holds of the test images has no classes.
    (path / "devkit" / "cars_test_annos.mat").rename(path / "devkit" / labels.name)
    with pytest.raises(ValueError, match=r"cars_test_annos_withlabels.mat with the fields \(.*Expected: 'class', too"):
        load("cars196", path=path, counts="any")


def test_roles_of_in_shop(tmp_path):
    path = miniatures.make_in_shop(tmp_path, classes=6, per_class=5)
    for move in (False, True):
        if move:
            root = path / ROOTS["in_shop"]
            (root / "Img" / "img").rename(root / "img")
        splits = split_classes(load("in_shop", path=path, counts="any"), validation=None, test="published")
        assert splits.train.is_query is None
        for is_query, image in zip(splits.test.is_query, splits.test.images):
            assert is_query == (int(image[-14:-12]) <= 2), image
        assert set(splits.train.superclasses) == {"WOMEN/Dresses"} and set(splits.test.superclasses) == {"MEN/Dresses"}
        assert splits.train.class_names == ("id_00000001", "id_00000003", "id_00000005")


def test_published_counts_are_asked_for(name, path):
    expected = {"cub": "11,788 images", "cars196": "16,185", "sop": "120,053", "in_shop": "14,218 query images"}
    with pytest.raises(ValueError, match=rf"Received: \S+.* with 6 classes.*Expected: .*{expected[name]}") as error:
        load(name, path=path)
    assert str(path) in str(error.value)
    with miniatures.expected_counts_of(name, path):
        assert load(name, path=path).num_classes == 6
    with pytest.raises(ValueError, match=r"counts='some'. Expected: one of \('published', 'any'\)"):
        load(name, path=path, counts="some")


def test_a_wrong_count_is_named(tmp_path):
    path = miniatures.make_cub(tmp_path)
    with miniatures.expected_counts_of("cub", path):
        lists = tmp_path / "CUB_200_2011"
        for name in ("images.txt", "image_class_labels.txt"):
            lines = (lists / name).read_text().splitlines()
            (lists / name).write_text("\n".join(lines[:-1]) + "\n")
        with pytest.raises(ValueError, match="with 31 images. Expected: 32 images. Pass counts='any'"):
            load("cub", path=path)


def test_a_missing_list_is_named(name, path):
    for list_name in LISTS[name]:
        place = path / ROOTS[name] / list_name
        contents = place.read_bytes()
        place.unlink()
        with pytest.raises(FileNotFoundError, match=rf"there is no {re.escape(str(place))}\. "):
            load(name, path=path, counts="any")
        place.write_bytes(contents)
    assert len(load(name, path=path, counts="any")) == 24


def test_missing_images_are_named(name, path):
    dataset = load(name, path=path, counts="any")
    lost = dataset.images[[3, 11]].tolist()
    for image in lost:
        miniatures.pathlib.Path(image).unlink()
    with pytest.raises(FileNotFoundError, match="2 of 24 images.*were not found. Received: no") as error:
        load(name, path=path, counts="any")
    assert all(image in str(error.value) for image in lost)
    assert len(load(name, path=path, counts="any", verify=False)) == 24


@pytest.mark.parametrize(
    "name, advice",
    [
        ("cub", r"Put CUB_200_2011.tgz, from https://data.caltech.edu/\S+, into the folder (\S+). Then run: .* cub "),
        ("cars196", r"Put car_ims.tgz, from \S+, into the folder (\S+). Put cars_annos.mat.*Then run: .* cars196 "),
        ("sop", r"Put Stanford_Online_Products.zip, from \S+, into the folder (\S+). Then run: .* sop "),
        ("in_shop", r"Put img.zip, from https://mmlab\S+, into the folder (\S+)/Img. Then run.*license"),
    ],
)
def test_says_what_to_put_where(tmp_path, name, advice):
    with pytest.raises(FileNotFoundError, match=advice) as error:
        load(name, path=tmp_path / "nowhere")
    assert re.search(advice, str(error.value))[1] == str(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name, list_name, change, message",
    [
        ("cub", "images.txt", lambda text: text.replace("\n", " and more\n", 1), "images.txt with line 1: '1 001.*e'"),
        ("cub", "images.txt", lambda text: "", "images.txt without entries"),
        ("cub", "images.txt", lambda text: text.split("\n", 1)[1], "are inconsistent. Received: images.txt with 23"),
        ("cub", "image_class_labels.txt", lambda text: text.replace(" 6\n", " 7\n", 1), "are inconsistent"),
        ("cub", "image_class_labels.txt", lambda text: text.replace(" 6\n", " six\n", 1), "line 21: '21 six'. Exp"),
        ("sop", "Ebay_test.txt", lambda text: text.replace(" 4 1 ", " 3 1 ", 1), "with 1 classes in both, such as 3"),
        ("sop", "Ebay_train.txt", lambda text: text[: text.index("\n") + 1], "Ebay_train.txt without entries"),
        ("in_shop", "Eval/list_eval_partition.txt", lambda text: text.replace("query", "asked", 1), "status 'asked'"),
        ("in_shop", "Eval/list_eval_partition.txt", lambda text: text.replace("train", "query"), "without one of them"),
    ],
)
def test_damaged_lists(tmp_path, name, list_name, change, message):
    path = miniatures.make(name, tmp_path, classes=6, per_class=4)
    place = path / ROOTS[name] / list_name
    place.write_text(change(place.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        load(name, path=path, counts="any")
    assert str(path) in str(error.value)


def test_damaged_matlab_files(tmp_path):
    path = miniatures.make_cars196(tmp_path)
    place = path / "cars_annos.mat"
    contents = place.read_bytes()
    for damaged, message in ((contents[:500], "Expected: a MATLAB file"), (b"", "MATLAB"), (contents[:128], "without")):
        place.write_bytes(damaged)
        with pytest.raises(ValueError, match=message) as error:
            load("cars196", path=path, counts="any")
        assert str(place) in str(error.value)
    miniatures.write_cars_lists(path, ["one car"], [0, 1])
    with pytest.raises(ValueError, match="classes 1 to 2. Expected: 1 to 1"):
        load("cars196", path=path, counts="any")


@pytest.mark.integration
def test_the_augmentation_of_the_protocols(tmp_path):
    """A random crop of 16-100 % of the area, resized to 227x227, and a flip; the test takes the centre."""
    path = miniatures.make("cub", tmp_path, classes=6, per_class=4)
    splits = split_classes(load("cub", path=path, counts="any"), validation=None, test="published")
    preprocessing = Preprocessing((227, 227), 3, short_side=256)
    augmentation = Augmentation(horizontal_flip=True, crop_area=(0.16, 1.0))
    images, labels = next(iter(balanced_batches(splits.train, 3, 4, 0, preprocessing, augmentation)))
    assert images.shape == (12, 227, 227, 3)
    assert labels.numpy().tolist() == np.repeat(labels[::4], 4).tolist()
    assert 0 <= images.numpy().min() < images.numpy().max() <= 1
    (images, labels), *_ = evaluation_batches(splits.test, 12, preprocessing)
    assert images.shape == (12, 227, 227, 3)
    image = Image.open(splits.test.images[0]).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 227) // 2, (height - 227) // 2
    expected = image.resize((width, height), Image.BILINEAR).crop((left, top, left + 227, top + 227))
    np.testing.assert_allclose(images[0], np.asarray(expected) / 255, atol=0.02)
