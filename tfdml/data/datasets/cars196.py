"""Cars196: photographs of cars."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import first_half


def cars196(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Load Cars196: 16,185 photographs of 196 car models; the first 98 are for training.

    Both published forms are read: `car_ims` with `cars_annos.mat`; and `cars_train`, `cars_test`, `devkit` with
    `cars_test_annos_withlabels.mat`. They have the same images and classes. Their own division into training and test
    images, which have the same classes, is not used.

    Args:
        path: str or `os.PathLike`. Folder that contains these files.
        verify: bool. Check that all listed images exist. `tfdml-prepare` also reads them. Default `True`.
        counts: `"published"`, or `"any"` to accept other numbers of classes and images. Default `"published"`.

    Returns:
        `LabeledImages` of paths. The first half of the classes is the published training split.

    Raises:
        FileNotFoundError: If a list or an image is missing; the message says what to put where.
        ValueError: If a list is damaged, or the counts differ from the published ones.

    Example:
        `splits = split_classes(cars196("~/datasets/cars196"), validation=0.1, test="published")`

    Reference:
        Krause et al., "3D Object Representations for Fine-Grained Categorization", 3dRR 2013.
    """
    published = PUBLISHED["cars196"]
    root = published.require(path)
    lists = [root / name for name in published.layout(root).lists]
    class_names = _read_mat(lists[0], "class_names").tolist()
    if len(lists) == 1:
        names, numbers = _columns(lists[0], "relative_im_path", "class")
    else:
        names, numbers = [], []
        for folder, list_file in zip(("cars_train", "cars_test"), lists[1:]):
            of_part, numbers_of_part = _columns(list_file, "fname", "class")
            names += [f"{folder}/{name}" for name in of_part]
            numbers += numbers_of_part
    if not 1 <= min(numbers) <= max(numbers) <= len(class_names):
        raise ValueError(
            f"Damaged list file. Received: {lists[-1]} with classes {min(numbers)} to {max(numbers)}. "
            f"Expected: 1 to {len(class_names)}."
        )
    images = LabeledImages(
        np.array([str(root / name) for name in names]),
        np.array(numbers) - 1,
        class_names,
        name="cars196",
        num_train_classes=first_half(len(class_names)),
    )
    return published.checked(images, path, verify, counts)


def _read_mat(path, name):
    """Return a variable of a MATLAB file as an array of rank 1."""
    from scipy.io import loadmat

    try:
        contents = loadmat(path, squeeze_me=True)
    except Exception as error:  # SciPy's readers raise many kinds of error.
        raise ValueError(f"Damaged list file. Received: {path} ({error}). Expected: a MATLAB file.") from error
    if name not in contents or not np.size(contents[name]):
        raise ValueError(f"Damaged list file. Received: {path} without {name!r}.")
    return np.atleast_1d(contents[name])


def _columns(path, *fields):
    """Return fields of the annotations in a MATLAB file as lists."""
    annotations = _read_mat(path, "annotations")
    known = annotations.dtype.names or ()
    for field in fields:
        if field not in known:
            raise ValueError(f"Damaged list file. Received: {path} with the fields {known}. Expected: {field!r}, too.")
    return [annotations[field].tolist() for field in fields]
