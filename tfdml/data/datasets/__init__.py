"""Loaders of datasets, one per file, and their registry."""

from tfdml.data.datasets.cars196 import cars196
from tfdml.data.datasets.cifar import cifar10, cifar100
from tfdml.data.datasets.collage import Collages, cifar_collage, collage
from tfdml.data.datasets.csv_file import csv
from tfdml.data.datasets.cub import cub
from tfdml.data.datasets.digits import digits
from tfdml.data.datasets.emoji import emoji
from tfdml.data.datasets.features import features
from tfdml.data.datasets.folder import folder
from tfdml.data.datasets.glyphs import glyphs
from tfdml.data.datasets.in_shop import in_shop
from tfdml.data.datasets.mnist import fashion_mnist, mnist
from tfdml.data.datasets.registry import deserialize, get, load, names, register, serialize
from tfdml.data.datasets.sop import sop

for _loader in (
    cars196, cifar10, cifar100, cifar_collage, collage, csv, cub, digits, emoji, fashion_mnist, features, folder,
    glyphs, in_shop, mnist, sop,
):  # fmt: skip
    register(_loader.__name__, _loader)

__all__ = [
    "Collages",
    "cars196",
    "cifar10",
    "cifar100",
    "cifar_collage",
    "collage",
    "csv",
    "cub",
    "deserialize",
    "digits",
    "emoji",
    "fashion_mnist",
    "features",
    "folder",
    "get",
    "glyphs",
    "in_shop",
    "load",
    "mnist",
    "names",
    "register",
    "serialize",
    "sop",
]
