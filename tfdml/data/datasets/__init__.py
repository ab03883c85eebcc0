"""Datasets by name: one loader a file."""

from tfdml.data.datasets import registry
from tfdml.data.datasets.cars196 import cars196
from tfdml.data.datasets.cifar import cifar10, cifar100
from tfdml.data.datasets.collage import Collages, cifar_collage, collage
from tfdml.data.datasets.cub import cub
from tfdml.data.datasets.digits import digits
from tfdml.data.datasets.features import features
from tfdml.data.datasets.folder import folder
from tfdml.data.datasets.glyphs import glyphs
from tfdml.data.datasets.in_shop import in_shop
from tfdml.data.datasets.mnist import fashion_mnist, mnist
from tfdml.data.datasets.registry import dataset_names, dataset_options, load
from tfdml.data.datasets.sop import sop

registry._LOADERS.update(
    {
        "cars196": cars196,
        "cifar10": cifar10,
        "cifar100": cifar100,
        "cifar_collage": cifar_collage,
        "collage": collage,
        "cub": cub,
        "digits": digits,
        "fashion_mnist": fashion_mnist,
        "features": features,
        "folder": folder,
        "glyphs": glyphs,
        "in_shop": in_shop,
        "mnist": mnist,
        "sop": sop,
    }
)

__all__ = [
    "Collages",
    "cars196",
    "cifar10",
    "cifar100",
    "cifar_collage",
    "collage",
    "cub",
    "dataset_names",
    "dataset_options",
    "digits",
    "fashion_mnist",
    "features",
    "folder",
    "glyphs",
    "in_shop",
    "load",
    "mnist",
    "sop",
]
