"""Data: sets of labelled pictures, class-disjoint splits and balanced batches, all ending in tf.data."""

from tfdml.data.augmentation import Augmentation
from tfdml.data.batches import balanced_batches, class_pool, evaluation_batches
from tfdml.data.cifar import cifar10, cifar100
from tfdml.data.collage import Collages, cifar_collage, collage
from tfdml.data.glyph_rendering import glyphs
from tfdml.data.image_folder import folder
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.mnist_files import fashion_mnist, mnist
from tfdml.data.preprocessing import Preprocessing
from tfdml.data.registry import dataset_names, dataset_options, load
from tfdml.data.sampler import BalancedSampler, steps_per_epoch
from tfdml.data.sklearn_digits import digits
from tfdml.data.splits import Splits, split_classes

__all__ = [
    "Augmentation",
    "BalancedSampler",
    "Collages",
    "LabeledImages",
    "Preprocessing",
    "Splits",
    "balanced_batches",
    "cifar10",
    "cifar100",
    "cifar_collage",
    "class_pool",
    "collage",
    "dataset_names",
    "dataset_options",
    "digits",
    "evaluation_batches",
    "fashion_mnist",
    "folder",
    "glyphs",
    "load",
    "mnist",
    "split_classes",
    "steps_per_epoch",
]
