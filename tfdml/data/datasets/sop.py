"""Stanford Online Products: photographs of products."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import read_columns, train_classes_first


def sop(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Load Stanford Online Products: 120,053 photographs of 22,634 products; 11,318 of them are for training.

    Args:
        path: str or `os.PathLike`. Folder `Stanford_Online_Products` of the archive, or its parent folder.
        verify: bool. Check that all listed images exist. `tfdml-prepare` also reads them. Default `True`.
        counts: `"published"`, or `"any"` to accept other numbers of classes and images. Default `"published"`.

    Returns:
        `LabeledImages` of paths, with the 12 categories as superclasses. The classes of `Ebay_train.txt` precede those
        of `Ebay_test.txt`. Class names consist of category and number, such as "bicycle 1".

    Raises:
        FileNotFoundError: If a list or an image is missing; the message says what to put where.
        ValueError: If a list is damaged, or the counts differ from the published ones.

    Example:
        `splits = split_classes(sop("~/datasets/Stanford_Online_Products"), validation=0.1, test="published")`

    Reference:
        Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
    """
    published = PUBLISHED["sop"]
    root = published.require(path)
    (train_classes, train_names), (test_classes, test_names) = (
        read_columns(root / name, header=1, image_id=int, class_id=int, super_class_id=int, path=str)[1::2]
        for name in ("Ebay_train.txt", "Ebay_test.txt")
    )
    names = train_names + test_names
    classes, labels, num_train_classes = train_classes_first(train_classes, test_classes, root / "Ebay_test.txt")
    kind_of = {
        of_class: name.split("/")[0].replace("_final", "").replace("_", " ")
        for of_class, name in zip(train_classes + test_classes, names)
    }
    images = LabeledImages(
        np.array([str(root / name) for name in names]),
        labels,
        [f"{kind_of[number]} {number}" for number in classes],
        name="sop",
        num_train_classes=num_train_classes,
        superclasses=[kind_of[number] for number in classes],
    )
    return published.checked(images, path, verify, counts)
