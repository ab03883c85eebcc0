"""Patches and pairs in the layout of Brown, Hua and Winder, on a miniature."""

import numpy as np
import pytest
from PIL import Image

from tfdml import data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 patches of one gray value each, in two files."""
    folder = tmp_path_factory.mktemp("patches") / "liberty"
    folder.mkdir()
    for number in range(2):
        grays = (np.arange(256) + 3 * number).astype("uint8").reshape(16, 16)
        Image.fromarray(np.kron(grays, np.ones((64, 64), "uint8"))).save(folder / f"patches{number:04d}.bmp")
    (folder / "info.txt").write_text("".join(f"{7 * (index // 3)} 0\n" for index in range(300)))
    (folder / "m50_4_4_0.txt").write_text("0 0 0 1 0 0 0\n2 0 0 299 693 0 0\n")
    return folder


def test_patches_and_scene_points(folder):
    patches = data.brown_patches(folder)
    assert patches.name == "liberty" and patches.images.shape == (300, 64, 64, 1)
    expected = [index % 256 + 3 * (index // 256) for index in range(300)]
    assert patches.images[:, 0, 0, 0].tolist() == [value % 256 for value in expected]
    assert (patches.images == patches.images[:, :1, :1]).all()
    assert patches.labels.tolist() == [index // 3 for index in range(300)]
    assert patches.class_names[1] == "7"


def test_pairs(folder):
    pairs, same = data.brown_pairs(folder / "m50_4_4_0.txt")
    assert pairs.tolist() == [[0, 1], [2, 299]] and same.tolist() == [True, False]


def test_damaged_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder with info.txt"):
        data.brown_patches(tmp_path)
    with pytest.raises(FileNotFoundError, match="The file of pairs is missing"):
        data.brown_pairs(tmp_path / "m50.txt")
    (tmp_path / "info.txt").write_text("5 0\n")
    with pytest.raises(FileNotFoundError, match="with 1 patches. Expected: .*patches0000.bmp"):
        data.brown_patches(tmp_path)
    Image.fromarray(np.zeros((64, 64), "uint8")).save(tmp_path / "patches0000.bmp")
    with pytest.raises(ValueError, match=r"another size. Received: .* of shape \(64, 64\)"):
        data.brown_patches(tmp_path)
    for text in ("x 0\n", ""):
        (tmp_path / "info.txt").write_text(text)
        with pytest.raises(ValueError, match="Damaged list file"):
            data.brown_patches(tmp_path)
    (tmp_path / "pairs.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="line 1: .* Expected: at least 5 integers"):
        data.brown_pairs(tmp_path / "pairs.txt")
