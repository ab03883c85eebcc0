import os

import numpy as np
import pytest
from PIL import Image

from tfdml import data
from tfdml.data import LabeledImages


@pytest.fixture
def table(tmp_path):
    """A function that writes a CSV file next to four images."""
    for name in ("a", "b", "c", "d"):
        Image.fromarray(np.full((4, 5, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")

    def write(text, name="my.csv", **options):
        (tmp_path / name).write_bytes(text.encode(**options))
        return tmp_path / name

    return write


def test_paths_and_labels(table, tmp_path):
    path = table("label,path,more\nowl,a.png,1\nfinch,b.png,2\n\nowl,c.png,3\n")
    images = LabeledImages.from_csv(path)
    assert images.class_names == ("finch", "owl") and images.labels.tolist() == [1, 0, 1]
    assert data.get("csv", path=path, max_pixels=50).max_pixels == 50
    assert images.images.tolist() == [str(tmp_path / f"{name}.png") for name in "abc"] and images.name == "my"
    again = data.get("csv", path=path)
    assert again.images.tolist() == images.images.tolist() and "csv" in data.names()
    batch = next(iter(data.evaluation_batches(images, 3, data.Preprocessing((4, 5), 3))))
    np.testing.assert_allclose(batch[0][:, 0, 0, 0] * 255, [ord("a"), ord("b"), ord("c")], atol=0.5)


def test_columns_root_delimiter_and_encoding(table, tmp_path):
    text = f'file;kind\n"a.png";9\n{tmp_path / "b.png"};10\nc.png;9\n'
    path = table(text, "other.csv", encoding="utf-8-sig")
    (tmp_path / "deep").mkdir()
    images = LabeledImages.from_csv(
        path.replace(tmp_path / "deep" / "other.csv"), "file", "kind", root=tmp_path, delimiter=";", name="mine"
    )
    # Numbers are sorted as such.
    assert images.class_names == ("9", "10") and images.labels.tolist() == [0, 1, 0] and images.name == "mine"
    assert LabeledImages.from_csv(table("path,label\na.png,007\nb.png,7\n")).class_names == ("007", "7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty\. Received: .*my\.csv\. Expected: a header such as 'path,label'"),
        ("path,label\n", r"is empty\. Received: .*my\.csv with a header only"),
        ("path,lable\na.png,owl\n", r"Received: 'label'; .* columns \['path', 'lable'\]\. Did you mean 'lable'"),
        ("path;label\na.png;owl\n", r"Received: 'path'; .*\['path;label'\]\..* delimiter if it is not a comma"),
        ("path,label,label\na.png,owl,1\n", r"Duplicate column\. Received: 'label'"),
        ("path,label\na.png,owl\nb.png\nc.png,\n", r"2 rows .* Received: line 3 \(1 values\), line 4 \(no label\) of"),
        ('path,label\na.png,owl\n"b.png,finch\n', r"damaged\. Received: .*my\.csv, line 3"),
        ("path,label\na.png,owl\nb.png,owl\n", r"at least 2 classes\. .*2 rows .*\['owl'\] in the column 'label'"),
    ],
)  # fmt: skip
def test_wrong_files(table, text, message):
    with pytest.raises(ValueError, match=message):
        LabeledImages.from_csv(table(text))


def test_missing_files(table, tmp_path):
    path = table("path,label\na.png,owl\nx.png,owl\ny.png,finch\nx.png,owl\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 image files are missing\. Received: .*x\.png, .*y\.png\. Exp"):
        LabeledImages.from_csv(path)
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Received: path=.*none\.csv"):
        LabeledImages.from_csv(tmp_path / "none.csv")
    os.remove(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="3 of 3"):
        data.get("csv", path=path, verify=False)


def test_unreadable_images(table, tmp_path, caplog):
    (tmp_path / "d.png").write_bytes(b"no image")
    path = table("path,label\na.png,owl\nb.png,finch\nd.png,finch\n")
    with pytest.raises(ValueError, match=r"Unreadable images\. Received: .*d\.png"):
        LabeledImages.from_csv(path)
    with caplog.at_level("WARNING", "tfdml"):
        assert len(LabeledImages.from_csv(path, on_unreadable="skip")) == 2
    assert "Skipped 1 unreadable images" in caplog.text and "d.png" in caplog.text
    assert len(LabeledImages.from_csv(path, verify=False)) == 3
    with pytest.raises(ValueError, match="on_unreadable='skip' with verify=False"):
        LabeledImages.from_csv(path, verify=False, on_unreadable="skip")
    with pytest.raises(ValueError, match="delimiter=';;'"):
        LabeledImages.from_csv(path, delimiter=";;")
