"""CUB-200-2011: photographs of birds."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import first_half, read_columns


def cub(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """CUB-200-2011: 11,788 photographs of birds of 200 species; the first 100 are to train.

    Args:
        path: The folder `CUB_200_2011` of the archive, or the folder it lies in.
        verify: Whether all images that the lists name must be there. `tfdml.data.prepare` reads them, too.
        counts: `"published"` to take the whole set only, `"any"` to take other numbers of classes and images, too.

    Returns:
        `LabeledImages` of paths; the first half of the classes is published to train.

    Raises:
        FileNotFoundError: If a list or an image is not there; the message says what to put where.
        ValueError: If a list is damaged, or does not have the published counts.

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
            f"The lists of {root} do not fit together. Received: images.txt with {len(image_ids)} images, "
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
