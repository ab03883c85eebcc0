"""DeepFashion In-shop Clothes Retrieval: photographs of clothes with separate queries and gallery."""

from __future__ import annotations

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.labeled_samples import BOTH, GALLERY, QUERY
from tfdml.data.list_files import read_columns, train_classes_first

_LIST = "Eval/list_eval_partition.txt"
_ROLES = {"train": BOTH, "query": QUERY, "gallery": GALLERY}


def in_shop(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Load In-shop Clothes Retrieval: photographs of 7,982 pieces of clothing; 3,997 of them are for training.

    Of the other classes, 14,218 images are queries, and 12,612 images are their gallery.

    Args:
        path: str or `os.PathLike`. Folder `In-shop Clothes Retrieval Benchmark` with `Eval/list_eval_partition.txt` and
            `Img/img` (or `img`), or its parent folder.
        verify: bool. Check that all listed images exist. `tfdml-prepare` also reads them. Default `True`.
        counts: `"published"`, or `"any"` to accept other numbers of classes and images. Default `"published"`.

    Returns:
        `LabeledImages` of paths with `roles`; the training classes come first. Class names are names of items, such as
        "id_00000002"; superclasses are the folders of their first images, such as "WOMEN/Dresses".

    Raises:
        FileNotFoundError: If the list or an image is missing; the message says what to put where.
        ValueError: If the list is damaged, or the counts differ from the published ones.

    Example:
        `splits = split_classes(in_shop("~/datasets/in_shop"), validation=0.1, test="published")`

    Reference:
        Liu et al., "DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations", CVPR 2016.
    """
    published = PUBLISHED["in_shop"]
    root = published.require(path)
    list_file = root / _LIST
    names, items, statuses = read_columns(list_file, header=2, image_name=str, item_id=str, evaluation_status=str)
    unknown = set(statuses) - set(_ROLES)
    if unknown:
        raise ValueError(
            f"Damaged list file. Received: {list_file} with the status {min(unknown)!r}. Expected: {tuple(_ROLES)}."
        )
    is_train = np.array(statuses) == "train"
    order = np.concatenate([np.flatnonzero(is_train), np.flatnonzero(~is_train)])
    items = [items[index] for index in order]
    split = int(is_train.sum())
    class_names, labels, num_train_classes = train_classes_first(items[:split], items[split:], list_file)
    folder = root / "Img" if (root / "Img" / "img").is_dir() else root
    categories: dict[str, str] = {}
    for index, item in zip(order, items):
        # img/WOMEN/Dresses/id_00000002/02_1_front.jpg
        categories.setdefault(item, "/".join(names[index].split("/")[1:-2]))
    images = LabeledImages(
        np.array([str(folder / names[index]) for index in order]),
        labels,
        class_names,
        name="in_shop",
        num_train_classes=num_train_classes,
        superclasses=[categories[name] for name in class_names],
        roles=np.array([_ROLES[statuses[index]] for index in order]),
    )
    return published.checked(images, path, verify, counts)
