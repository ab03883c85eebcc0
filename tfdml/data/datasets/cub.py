"""CUB-200-2011: photographs of birds."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import first_half, read_columns


def cub(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Load CUB-200-2011: 11,788 photographs of 200 bird species; the first 100 are for training.

    Args:
        path: str or `os.PathLike`. Folder `CUB_200_2011` of the archive, or its parent folder.
        verify: bool. Check that all listed images exist. `tfdml-prepare` also reads them. Default `True`.
        counts: `"published"`, or `"any"` to accept other numbers of classes and images. Default `"published"`.

    Returns:
        `LabeledImages` of paths. The first half of the classes is the published training split.

    Raises:
        FileNotFoundError: If a list or an image is missing; the message says what to put where.
        ValueError: If a list is damaged, or the counts differ from the published ones.

    Example:
        `splits = split_classes(cub("~/datasets/CUB_200_2011"), validation=0.1, test="published")`

    Reference:
        Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    published = PUBLISHED["cub"]
    root = published.require(path)
    numbers, class_names = read_columns(root / "classes.txt", class_id=int, class_name=str)
    image_ids, names = read_columns(root / "images.txt", image_id=int, image_name=str)
    labeled_ids, class_ids = read_columns(root / "image_class_labels.txt", image_id=int, class_id=int)
    class_of = dict(zip(labeled_ids, class_ids))
    label_of = {number: label for label, number in enumerate(numbers)}
    if set(class_of) != set(image_ids) or not set(class_ids) <= set(numbers):
        raise ValueError(
            f"The lists of {root} are inconsistent. Received: images.txt with {len(image_ids)} images, "
            f"image_class_labels.txt with {len(class_of)}, and classes.txt with {len(numbers)} classes."
        )
    images = LabeledImages(
        np.array([str(root / "images" / name) for name in names]),
        np.array([label_of[class_of[image]] for image in image_ids]),
        class_names,
        name="cub",
        num_train_classes=first_half(len(class_names)),
    )
    return published.checked(images, path, verify, counts)
