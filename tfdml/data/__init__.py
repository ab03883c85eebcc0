"""Data: sets of labelled images, class-disjoint splits and balanced batches, all ending in tf.data."""

import tfdml
from tfdml._utils.naming import former_names

# The help of the command `tfdml-prepare` does not wait for TensorFlow.
if not tfdml.starts("prepare"):
    from tfdml.data.augmentation import Augmentation
    from tfdml.data.batches import balanced_batches, class_pool, evaluation_batches
    from tfdml.data.datasets import (
        Collages,
        cars196,
        cifar10,
        cifar100,
        cifar_collage,
        collage,
        csv,
        cub,
        deserialize,
        digits,
        emoji,
        fashion_mnist,
        features,
        folder,
        get,
        glyphs,
        in_shop,
        load,
        mnist,
        names,
        register,
        serialize,
        sop,
    )
    from tfdml.data.encoding import encode_labels
    from tfdml.data.labeled_features import LabeledFeatures
    from tfdml.data.labeled_images import LabeledImages
    from tfdml.data.labeled_samples import LabeledSamples
    from tfdml.data.preprocessing import Preprocessing
    from tfdml.data.sampler import BalancedSampler, steps_per_epoch
    from tfdml.data.splits import Splits, split_classes

__all__ = [
    "Augmentation",
    "BalancedSampler",
    "Collages",
    "LabeledFeatures",
    "LabeledImages",
    "LabeledSamples",
    "Preprocessing",
    "Splits",
    "balanced_batches",
    "cars196",
    "cifar10",
    "cifar100",
    "cifar_collage",
    "class_pool",
    "collage",
    "csv",
    "cub",
    "deserialize",
    "digits",
    "emoji",
    "encode_labels",
    "evaluation_batches",
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
    "split_classes",
    "steps_per_epoch",
]

__getattr__ = former_names(__name__, dataset_names="names")
