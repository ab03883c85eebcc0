import numpy as np
import pytest
from PIL import Image

from tfdml.data import Preprocessing, evaluation_batches, folder


@pytest.fixture
def tree(tmp_path):
    """Classes of solid pictures of different sizes, kinds and modes."""
    root = tmp_path / "animals"
    for class_name, pictures in {
        "dog": [("b.jpg", "RGB", 200), ("a.png", "L", 50)],
        "cat": [("one.JPEG", "L", 100), ("two.PNG", "RGBA", 150), ("three.png", "RGB", 250)],
    }.items():
        (root / class_name).mkdir(parents=True)
        for number, (name, mode, value) in enumerate(pictures):
            array = np.full((20 + number, 30, {"L": 1, "RGB": 3, "RGBA": 4}[mode]), value, np.uint8)
            if mode == "RGBA":
                array[..., 3] = 255
            Image.fromarray(array.squeeze()).save(root / class_name / name)
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "cat" / ".hidden.png").write_text("not a picture")
    (root / ".git").mkdir()
    (root / "README.md").write_text("not a class")
    return root


@pytest.mark.parametrize("verify", [True, False])
def test_classes_and_pictures_in_order_of_their_names(tree, verify):
    dataset = folder(tree, verify=verify)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert [path.rsplit("/", 1)[1] for path in dataset.images] == [
        "one.JPEG",
        "three.png",
        "two.PNG",
        "a.png",
        "b.jpg",
    ]
    assert dataset.holds_paths
    assert dataset.name == "animals"


def test_pictures_are_decoded_in_the_pipeline(tree):
    ((images, labels),) = evaluation_batches(folder(str(tree)), 10, Preprocessing((8, 8), 3))
    assert images.shape == (5, 8, 8, 3)
    assert labels.numpy().tolist() == [0, 0, 0, 1, 1]
    values = np.array([100, 250, 150, 50, 200]) / 255
    np.testing.assert_allclose(images, np.broadcast_to(values[:, None, None, None], (5, 8, 8, 3)), atol=0.02)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no classes") as error:
        folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_class_without_pictures(tree):
    (tree / "emu").mkdir()
    with pytest.raises(ValueError, match="without pictures.*emu"):
        folder(tree)


def noise_file(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["empty", "rubbish", "truncated", "cut short a little"])
def test_unreadable_pictures_are_named(tree, ending, damage):
    path = tree / "dog" / f"broken.{ending}"
    contents = noise_file(path)
    path.write_bytes(
        {
            "empty": b"",
            "rubbish": b"rubbish",
            "truncated": contents[: len(contents) // 2],
            "cut short a little": contents[:-20],
        }[damage]
    )
    with pytest.raises(ValueError, match="Unreadable pictures") as error:
        folder(tree)
    assert str(path) in str(error.value)
    assert "a.png" not in str(error.value)
    assert len(folder(tree, verify=False)) == 6


def test_damage_inside_a_png_is_found(tree):
    path = tree / "dog" / "broken.png"
    contents = bytearray(noise_file(path))
    contents[len(contents) // 2] ^= 0xFF
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"broken\.png"):
        folder(tree)


def test_other_formats_under_a_png_name_are_refused(tree):
    path = tree / "dog" / "bitmap.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, "BMP")
    with pytest.raises(ValueError, match=r"bitmap\.png"):
        folder(tree)


def test_jpeg_for_print_is_decoded_to_colour(tree):
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture.save(tree / "dog" / "c.jpg", quality=95)
    images, _ = next(iter(evaluation_batches(folder(tree).subset([1]), 3, Preprocessing((8, 8), 3))))
    np.testing.assert_allclose(images[2], np.broadcast_to([1.0, 0.0, 0.0], (8, 8, 3)), atol=0.02)


def test_many_unreadable_pictures_are_counted(tree):
    for number in range(13):
        (tree / "dog" / f"broken{number:02d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="and 3 more"):
        folder(tree)
