"""Cars196: photographs of cars."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import first_half


def cars196(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Cars196: 16,185 photographs of cars of 196 models; the first 98 are to train.

    It was published twice, and both forms are read: `car_ims` with `cars_annos.mat`, and `cars_train`, `cars_test`,
    `devkit` with `cars_test_annos_withlabels.mat`. Their images and classes are the same; their own division into
    training and test images, which is not one of classes, is not used.

    Args:
        path: The folder that holds them.
        verify: Whether all images that the lists name must be there. `tfdml.data.prepare` reads them, too.
        counts: `"published"` to take the whole set only, `"any"` to take other numbers of classes and images, too.

    Returns:
        `LabeledImages` of paths; the first half of the classes is published to train.

    Raises:
        FileNotFoundError: If a list or an image is not there; the message says what to put where.
        ValueError: If a list is damaged, or does not have the published counts.

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
            f"Damaged list file. Received: {lists[-1]} with classes {min(numbers)} to {max(numbers)}; "
            f"expected 1 to {len(class_names)}."
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
    """A variable of a MATLAB file, as an array of rank 1."""
    from scipy.io import loadmat

    try:
        contents = loadmat(path, squeeze_me=True)
    except Exception as error:  # SciPy's readers raise many kinds of error.
        raise ValueError(f"Damaged list file. Received: {path} ({error}); expected a MATLAB file.") from error
    if name not in contents or not np.size(contents[name]):
        raise ValueError(f"Damaged list file. Received: {path} without {name!r}.")
    return np.atleast_1d(contents[name])


def _columns(path, *fields):
    """Fields of the annotations in a MATLAB file, as lists."""
    annotations = _read_mat(path, "annotations")
    known = annotations.dtype.names or ()
    for field in fields:
        if field not in known:
            raise ValueError(f"Damaged list file. Received: {path} with the fields {known}; expected {field!r}, too.")
    return [annotations[field].tolist() for field in fields]
