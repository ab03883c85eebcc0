"""The public names of `tfdml.data`, which imports this module when one of them is first used."""

from tfdml.data import datasets
from tfdml.data.augmentation import Augmentation
from tfdml.data.batches import balanced_batches, class_pool, evaluation_batches, related_batches
from tfdml.data.datasets import *  # noqa: F403
from tfdml.data.encoding import encode_labels
from tfdml.data.hard_negatives import HardNegatives, mine_hard_negatives
from tfdml.data.interactions import Interactions
from tfdml.data.labeled_features import LabeledFeatures
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.labeled_samples import LabeledSamples
from tfdml.data.movielens_files import movielens
from tfdml.data.patch_files import brown_pairs, brown_patches
from tfdml.data.preprocessing import Preprocessing
from tfdml.data.query_items import query_item_batches
from tfdml.data.related_sampler import RelatedSampler, encode_tags, position_cells
from tfdml.data.sampler import BalancedSampler, steps_per_epoch
from tfdml.data.splits import Splits, split_classes

__all__: list[str] = [
    "Augmentation",
    "BalancedSampler",
    "Interactions",
    "HardNegatives",
    "LabeledFeatures",
    "LabeledImages",
    "LabeledSamples",
    "Preprocessing",
    "RelatedSampler",
    "Splits",
    "balanced_batches",
    "brown_pairs",
    "brown_patches",
    "class_pool",
    "encode_labels",
    "encode_tags",
    "evaluation_batches",
    "movielens",
    "mine_hard_negatives",
    "query_item_batches",
    "position_cells",
    "related_batches",
    "split_classes",
    "steps_per_epoch",
    *datasets.__all__,
]
