"""Pure functions on tensors: no variables, no Keras."""

from tfdml.ops.clipped_distances import clipped_distances
from tfdml.ops.distances import check_metric, pairwise_distances
from tfdml.ops.k_center import greedy_k_center
from tfdml.ops.normalization import l2_clip, l2_normalize
from tfdml.ops.optimal_transport import PartialTransport, partial_transport
from tfdml.ops.pair_masks import PairMasks, pair_masks
from tfdml.ops.precision import at_least_float32

__all__ = [
    "PairMasks",
    "PartialTransport",
    "at_least_float32",
    "check_metric",
    "clipped_distances",
    "greedy_k_center",
    "l2_clip",
    "l2_normalize",
    "pair_masks",
    "pairwise_distances",
    "partial_transport",
]
