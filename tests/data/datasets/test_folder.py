import numpy as np
import pytest
from PIL import Image

from tfdml.data import Preprocessing, evaluation_batches, folder


@pytest.fixture
def tree(tmp_path):
    """Classes of solid images of different sizes, kinds and modes."""
    root = tmp_path / "animals"
    for class_name, images in {
        "dog": [("b.jpg", "RGB", 200), ("a.png", "L", 50)],
        "cat": [("one.JPEG", "L", 100), ("two.PNG", "RGBA", 150), ("three.png", "RGB", 250)],
    }.items():
        (root / class_name).mkdir(parents=True)
        for number, (name, mode, value) in enumerate(images):
            array = np.full((20 + number, 30, {"L": 1, "RGB": 3, "RGBA": 4}[mode]), value, np.uint8)
            if mode == "RGBA":
                array[..., 3] = 255
            Image.fromarray(array.squeeze()).save(root / class_name / name)
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / ".hidden.png").write_text("not an image")
    (root / ".git").mkdir()
    (root / "README.md").write_text("not a class")
    return root


@pytest.mark.parametrize("verify", [True, False])
def test_classes_and_images_in_order_of_their_names(tree, verify):
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


def test_images_are_decoded_in_the_pipeline(tree):
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


def test_class_without_images(tree):
    (tree / "emu").mkdir()
    with pytest.raises(ValueError, match="Classes without images.*emu"):
        folder(tree)


def noise_file(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["empty", "rubbish", "truncated", "cut short a little"])
def test_unreadable_images_are_named(tree, ending, damage):
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
    with pytest.raises(ValueError, match="Unreadable images") as error:
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


def test_a_format_is_known_by_its_bytes_not_its_ending(tree):
    path = tree / "dog" / "bitmap.png"
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(path, "BMP")
    dataset = folder(tree).subset([1])
    ((images, _),) = evaluation_batches(dataset, 3, Preprocessing((4, 4), 1))
    np.testing.assert_allclose(images[list(dataset.images).index(str(path))], 9 / 255, rtol=1e-6)


def test_all_formats_are_used(tree):
    for ending in ("gif", "bmp", "webp", "tif", "TIFF", "jfif"):
        image = Image.fromarray(np.full((6, 6), 80, np.uint8))
        image.save(tree / "dog" / f"x.{ending}", "JPEG" if ending == "jfif" else None)
    dataset = folder(tree).subset([1])
    assert len(dataset) == 8
    ((images, _),) = evaluation_batches(dataset, 8, Preprocessing((4, 4), 1))
    np.testing.assert_allclose(images[2:], 80 / 255, atol=0.01)


def test_what_is_skipped_is_counted_and_named(tree, caplog):
    (tree / "cat" / "kittens").mkdir()
    Image.new("L", (3, 3)).save(tree / "cat" / "kittens" / "k.png")
    (tree / "cat" / "Thumbs.db").write_text("not an image")
    with caplog.at_level("WARNING", "tfdml"):
        assert len(folder(tree)) == 5
    assert "Skipped 2 files" in caplog.text
    assert "notes.txt" in caplog.text and "k.png" in caplog.text
    assert "1 of them are images in nested folders: pass nested='same_class' or 'own_class'" in caplog.text


def test_nested_folders(tree):
    (tree / "cat" / "kittens" / "of 2020").mkdir(parents=True)
    (tree / "emu" / "young").mkdir(parents=True)
    for place in ("cat/kittens/of 2020", "emu/young"):
        Image.new("L", (3, 3)).save(tree / place / "k.png")
    with pytest.raises(ValueError, match="Classes without images.*emu.*2 of them are images in nested folders"):
        folder(tree)
    same = folder(tree, nested="same_class")
    assert (same.class_names, same.class_counts.tolist()) == (("cat", "dog", "emu"), [4, 2, 1])
    own = folder(tree, nested="own_class")
    assert own.class_names == ("cat", "cat/kittens/of 2020", "dog", "emu/young")
    assert own.class_counts.tolist() == [3, 1, 2, 1]
    assert own.superclasses.tolist() == ["cat", "cat", "dog", "emu"] and same.superclasses is None
    (tree / "cat" / "back").symlink_to(tree)
    assert len(folder(tree, nested="same_class")) == 7


def test_unreadable_images_can_be_skipped(tree, caplog):
    (tree / "dog" / "broken.png").write_bytes(b"")
    with caplog.at_level("WARNING", "tfdml"):
        dataset = folder(tree, on_unreadable="skip")
    assert dataset.class_counts.tolist() == [3, 2]
    assert "Skipped 1 unreadable images" in caplog.text and "broken.png (the file is empty)" in caplog.text
    for path in (tree / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="Classes without images.*dog"):
        folder(tree, on_unreadable="skip")
    with pytest.raises(ValueError, match="Received: on_unreadable='skip' with verify=False"):
        folder(tree, on_unreadable="skip", verify=False)
    with pytest.raises(ValueError, match="on_unreadable='drop'"):
        folder(tree, on_unreadable="drop")
    with pytest.raises(ValueError, match="nested='deep'"):
        folder(tree, nested="deep")


def test_too_large_images_are_unreadable(tree):
    with pytest.raises(ValueError, match=r"three.png \(an image of 22 x 30 pixels. Expected: at most 650"):
        folder(tree, max_pixels=650)


def test_jpeg_for_print_is_decoded_to_colour(tree):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image.save(tree / "dog" / "c.jpg", quality=95)
    images, _ = next(iter(evaluation_batches(folder(tree).subset([1]), 3, Preprocessing((8, 8), 3))))
    np.testing.assert_allclose(images[2], np.broadcast_to([1.0, 0.0, 0.0], (8, 8, 3)), atol=0.02)


def test_many_unreadable_images_are_counted(tree):
    for number in range(13):
        (tree / "dog" / f"broken{number:02d}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="and 3 more"):
        folder(tree)
