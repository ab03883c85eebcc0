"""Published facts about datasets: sources, layouts on disk and counts."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from tfdml._utils.arguments import check_choice
from tfdml.data.list_files import counts_of, missing_files


class Part(NamedTuple):
    """Archive or file of a published dataset.

    Attributes:
        target: str. Folder or file that must exist, relative to the dataset's folder; "" is that folder itself.
        archive: str. Name of the archive, next to the target, that contains it; `None` if the target itself is
            published.
        url: str. Official address, or `None` if it must be requested.
        md5: str. Checksum of the archive or file, or `None` if none is published.
    """

    target: str
    archive: str | None = None
    url: str | None = None
    md5: str | None = None

    def place(self, root):
        """Return the path of the target, which may not exist."""
        return root / self.target if self.target else root

    def source(self, root):
        """Return the path of the published archive or file, which may not exist."""
        place = self.place(root)
        return place if self.archive is None else place.with_name(self.archive)


class Layout(NamedTuple):
    """Arrangement of a dataset's files on disk.

    Attributes:
        parts: Tuple of `Part`.
        lists: Tuple of str. Files that list the images and their classes, relative to the dataset's folder.
    """

    parts: tuple[Part, ...]
    lists: tuple[str, ...]


class PublishedSet(NamedTuple):
    """Published dataset.

    Attributes:
        name: str. Name in `tfdml.data.names()`.
        title: str. Name in the literature.
        page: str. Address of its description.
        layouts: Tuple of `Layout`, the usual one first.
        counts: dict. Published counts, such as `{"classes": 200, "images": 11788}`.
        folder: str. Name of its folder; a `path` is this folder or contains it. `None` if its parts are in any folder.
        note: str. Additional advice for obtaining it.
    """

    name: str
    title: str
    page: str
    layouts: tuple[Layout, ...]
    counts: dict[str, int]
    folder: str | None = None
    note: str = ""

    def root(self, path):
        """Return the dataset's folder, which may not exist: `path`, or the folder of the right name in it."""
        path = pathlib.Path(path).expanduser()
        if self.folder is None:
            return path
        inner = path / self.folder
        if inner.is_dir():
            return inner
        whole = [part for layout in self.layouts for part in layout.parts if not part.target]
        if not whole:
            return path
        is_it = path.name == self.folder or any((path / name).exists() for name in self.layouts[0].lists)
        return path if is_it and not whole[0].source(inner).is_file() else inner

    def layout(self, root):
        """Return the layout of which most files exist."""

        def pieces(layout):
            sources = sum(part.source(root).exists() for part in layout.parts)
            return sources + sum(part.place(root).exists() for part in layout.parts)

        return max(self.layouts, key=pieces)

    def require(self, path):
        """Return the dataset's folder after checking that all list files of its layout exist.

        Raises:
            FileNotFoundError: If one is missing; the message says what to put where.
        """
        root = self.root(path)
        for name in self.layout(root).lists:
            if not (root / name).is_file():
                raise FileNotFoundError(
                    f"{self.title} was not found. Received: path={str(path)!r}, where there is no {root / name}. "
                    f"{self.advice(path)}"
                )
        return root

    def advice(self, path):
        """Return instructions: what to put where, and which command to run."""
        root = self.root(path)
        missing = [part for part in self.layout(root).parts if not part.place(root).exists()]
        if not missing:
            return f"The content of {root} is incomplete: remove it, and extract or copy it again. {self.note}".rstrip()
        steps, absent = [], []
        for part in missing:
            source = part.source(root)
            if source.is_file():
                steps.append(f"{source} exists, but is not extracted.")
            else:
                absent.append(part)
                steps.append(f"Put {source.name}, from {part.url or self.page}, into the folder {source.parent}.")
        command = f"python -m tfdml.data.prepare {self.name} {str(path)!r}"
        can_download = absent and all(part.url is not None for part in absent)
        fetches = " (with --download it downloads missing files)" if can_download else ""
        steps.append(f"{'Then run' if absent else 'Run'}: {command}{fetches}.")
        return " ".join([*steps, self.note]).rstrip()

    def checked(self, images, path, verify, counts):
        """Return the `LabeledImages` that a loader has read from the lists after checking them.

        Raises:
            ValueError: If counts differ from the published ones.
            FileNotFoundError: If `verify` is true and images are missing.
        """
        self.check_counts(counts_of(images), self.root(path), counts)
        if verify:
            missing = missing_files(images.images.tolist())
            if missing:
                more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise FileNotFoundError(
                    f"{len(missing)} of {len(images)} images listed by {self.title} were not found. "
                    f"Received: no {', '.join(missing[:5])}{more}. {self.advice(path)}"
                )
        return images

    def check_counts(self, found, path, counts):
        """Raise a ValueError if `counts` is "published" and the counts found differ from the published ones.

        Args:
            found: dict with the keys of `self.counts`.
            path: Path of the dataset, for the message.
            counts: `"published"` or `"any"`.
        """
        check_choice("counts", counts, ("published", "any"))
        wrong = [kind for kind, number in self.counts.items() if found[kind] != number]
        if counts == "published" and wrong:
            received, expected = (", ".join(f"{of[kind]:,} {kind}" for kind in wrong) for of in (found, self.counts))
            raise ValueError(
                f"These are not the published images of {self.title}. Received: {path} with {received}. "
                f"Expected: {expected}. Pass counts='any' to accept other counts."
            )


_CUB = PublishedSet(
    name="cub",
    title="CUB-200-2011",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    folder="CUB_200_2011",
    layouts=(
        Layout(
            parts=(
                Part(
                    target="",
                    archive="CUB_200_2011.tgz",
                    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                    md5="97eceeb196236b17998738112f37df78",
                ),
            ),
            lists=("images.txt", "image_class_labels.txt", "classes.txt"),
        ),
    ),
    counts={"classes": 200, "images": 11_788, "training classes": 100, "training images": 5_864},
)

_SOP = PublishedSet(
    name="sop",
    title="Stanford Online Products",
    page="https://cvgl.stanford.edu/projects/lifted_struct/",
    folder="Stanford_Online_Products",
    layouts=(
        Layout(
            parts=(
                Part(
                    target="",
                    archive="Stanford_Online_Products.zip",
                    url="ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                    md5="7f73d41a2f44250d4779881525aea32e",
                ),
            ),
            lists=("Ebay_train.txt", "Ebay_test.txt"),
        ),
    ),
    counts={"classes": 22_634, "images": 120_053, "training classes": 11_318, "training images": 59_551},
)

_IN_SHOP_LIST = "Eval/list_eval_partition.txt"

_IN_SHOP = PublishedSet(
    name="in_shop",
    title="DeepFashion In-shop Clothes Retrieval",
    page="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    folder="In-shop Clothes Retrieval Benchmark",
    layouts=tuple(
        Layout(parts=(Part(target=_IN_SHOP_LIST), Part(target=target, archive="img.zip")), lists=(_IN_SHOP_LIST,))
        for target in ("Img/img", "img")
    ),
    counts={
        "classes": 7_982,
        "training classes": 3_997,
        "training images": 25_882,
        "query classes": 3_985,
        "query images": 14_218,
        "gallery classes": 3_985,
        "gallery images": 12_612,
    },
    note="Its license does not allow redistribution of the images: its page says how to request them.",
)

_CARS_HOST = "https://ai.stanford.edu/~jkrause"
_CARS_TEST = "cars_test_annos_withlabels.mat"


def _cars_part(target, archive, address, md5):
    return Part(target, archive, f"{_CARS_HOST}/{address}", md5)


_CARS_IN_ONE = Layout(
    parts=(
        _cars_part("car_ims", "car_ims.tgz", "car196/car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14"),
        _cars_part("cars_annos.mat", None, "car196/cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc"),
    ),
    lists=("cars_annos.mat",),
)
# The labels of the test images were published later; they are next to the devkit or in it.
_CARS_IN_TWO = tuple(
    Layout(
        parts=(
            _cars_part("cars_train", "cars_train.tgz", "car196/cars_train.tgz", "065e5b463ae28d29e77c1b4b166cfe61"),
            _cars_part("cars_test", "cars_test.tgz", "car196/cars_test.tgz", "4ce7ebf6a94d07f1952d94dd34c4d501"),
            _cars_part("devkit", "car_devkit.tgz", "cars/car_devkit.tgz", "c3b158d763b6e2245038c8ad08e45376"),
            _cars_part(test, None, f"car196/{_CARS_TEST}", "b0a2b23655a3edd16d84508592a98d10"),
        ),
        lists=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", test),
    )
    for test in (_CARS_TEST, f"devkit/{_CARS_TEST}")
)

_CARS196 = PublishedSet(
    name="cars196",
    title="Cars196",
    page=f"{_CARS_HOST}/cars/car_dataset.html",
    layouts=(_CARS_IN_ONE, *_CARS_IN_TWO),
    counts={"classes": 196, "images": 16_185, "training classes": 98, "training images": 8_054},
    note=(
        "If the official address no longer answers, use a copy from elsewhere: checksums and counts show whether it is "
        "complete."
    ),
)

_CIFAR_HOST = "https://www.cs.toronto.edu/~kriz"


def _cifar(name, title, part, folder, lists, classes):
    return PublishedSet(
        name=name,
        title=title,
        page=f"{_CIFAR_HOST}/cifar.html",
        layouts=(Layout((part,), lists),),
        counts={"classes": classes, "images in the training files": 50_000, "images in the test files": 10_000},
        folder=folder,
        note="The Python version, which contains pickles, is not read.",
    )


_CIFAR10 = _cifar(
    "cifar10",
    "CIFAR-10",
    Part("", "cifar-10-binary.tar.gz", f"{_CIFAR_HOST}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    folder="cifar-10-batches-bin",
    lists=("batches.meta.txt",),
    classes=10,
)

_CIFAR100 = _cifar(
    "cifar100",
    "CIFAR-100",
    Part("", "cifar-100-binary.tar.gz", f"{_CIFAR_HOST}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    folder="cifar-100-binary",
    lists=("coarse_label_names.txt", "fine_label_names.txt"),
    classes=100,
)

# By name. Datasets that are made of another dataset's files are prepared under its name.
PUBLISHED = {published.name: published for published in (_CUB, _CARS196, _SOP, _IN_SHOP, _CIFAR10, _CIFAR100)}
