"""Pure functions on tensors, without variables or Keras."""

from tfdml.ops.clipped_distances import clipped_distances
from tfdml.ops.collaborative import covariance_penalty, pairwise_logistic, warp_hinge
from tfdml.ops.counting import count_below, count_sorted_below, sort_masked
from tfdml.ops.distances import DISTANCES, check_distance, pairwise_distances
from tfdml.ops.encoded_images import (
    MAX_PIXELS,
    decode_image,
    encoded_size,
    exif_orientation,
    orient,
    stored_window,
    upright_size,
)
from tfdml.ops.input_ranges import UNIT_RANGE, check_input_range, input_convention, to_input_range
from tfdml.ops.k_center import greedy_k_center
from tfdml.ops.labels import check_label_range, integer_labels, known_labels
from tfdml.ops.masked import (
    LOG_OF_NOTHING,
    masked_count,
    masked_logsumexp,
    masked_max,
    masked_mean,
    masked_min,
    masked_sum,
)
from tfdml.ops.normalization import l2_clip, l2_normalize
from tfdml.ops.optimal_transport import PartialTransport, partial_transport
from tfdml.ops.pair_masks import PairMasks, pair_masks
from tfdml.ops.pairs import Pairs, References, check_embeddings, check_labels, compare
from tfdml.ops.precision import at_least_float32
from tfdml.ops.query_item import query_item_losses, query_item_negatives
from tfdml.ops.replicas import gather_batch, has_replicas, replica_count
from tfdml.ops.ridge import ridge_regression

__all__ = [
    "DISTANCES",
    "LOG_OF_NOTHING",
    "MAX_PIXELS",
    "UNIT_RANGE",
    "PairMasks",
    "Pairs",
    "PartialTransport",
    "References",
    "at_least_float32",
    "check_distance",
    "check_embeddings",
    "check_input_range",
    "check_label_range",
    "check_labels",
    "clipped_distances",
    "compare",
    "count_below",
    "count_sorted_below",
    "covariance_penalty",
    "decode_image",
    "encoded_size",
    "exif_orientation",
    "gather_batch",
    "greedy_k_center",
    "has_replicas",
    "input_convention",
    "integer_labels",
    "known_labels",
    "l2_clip",
    "l2_normalize",
    "masked_count",
    "masked_logsumexp",
    "masked_max",
    "masked_mean",
    "masked_min",
    "masked_sum",
    "orient",
    "pair_masks",
    "pairwise_distances",
    "pairwise_logistic",
    "partial_transport",
    "query_item_losses",
    "query_item_negatives",
    "replica_count",
    "ridge_regression",
    "sort_masked",
    "stored_window",
    "to_input_range",
    "upright_size",
    "warp_hinge",
]
