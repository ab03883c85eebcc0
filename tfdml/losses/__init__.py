"""Metric-learning losses for Keras models.

Each loss compares a batch of embeddings with references: the batch itself, class proxies, or a memory of past batches.
"""

from tfdml._utils.naming import former_names
from tfdml.losses.angular import AngularLoss
from tfdml.losses.arc_face import ArcFaceLoss
from tfdml.losses.base import MarginRequirements, MetricLoss
from tfdml.losses.circle import CircleLoss
from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.losses.cos_face import CosFaceLoss
from tfdml.losses.fast_ap import FastAPLoss
from tfdml.losses.function import FunctionLoss
from tfdml.losses.in_batch_negatives import InBatchNegativesLoss
from tfdml.losses.info_nce import InfoNCELoss
from tfdml.losses.lifted_structure import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from tfdml.losses.margin import MarginLoss
from tfdml.losses.multi_similarity import MultiSimilarityLoss
from tfdml.losses.n_pairs import NPairsLoss
from tfdml.losses.normalized_softmax import NormalizedSoftmaxLoss
from tfdml.losses.pair_contrastive import PairContrastiveLoss
from tfdml.losses.proxy_anchor import ProxyAnchorLoss
from tfdml.losses.proxy_nca import ProxyNCALoss
from tfdml.losses.proxy_nca_plus_plus import ProxyNCAPlusPlusLoss
from tfdml.losses.proxy_proxy import ProxyProxyLoss
from tfdml.losses.ranked_list import RankedListLoss
from tfdml.losses.registry import deserialize, get, names, register, serialize
from tfdml.losses.soft_triple import SoftTripleLoss
from tfdml.losses.supervised_contrastive import SupervisedContrastiveLoss
from tfdml.losses.triplet import TripletLoss

__all__ = [
    "AngularLoss",
    "ArcFaceLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "FastAPLoss",
    "FunctionLoss",
    "GeneralizedLiftedStructureLoss",
    "InBatchNegativesLoss",
    "InfoNCELoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MetricLoss",
    "MultiSimilarityLoss",
    "NPairsLoss",
    "NormalizedSoftmaxLoss",
    "PairContrastiveLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "ProxyNCAPlusPlusLoss",
    "ProxyProxyLoss",
    "RankedListLoss",
    "MarginRequirements",
    "SoftTripleLoss",
    "SupervisedContrastiveLoss",
    "TripletLoss",
    "deserialize",
    "get",
    "names",
    "register",
    "serialize",
]

__getattr__ = former_names(__name__, loss_names="names")
