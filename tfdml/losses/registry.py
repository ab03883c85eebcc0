"""Losses by name."""

import functools

import keras

from tfdml._utils.keras_compat import register_loss_names
from tfdml._utils.naming import resolve
from tfdml.losses.angular import AngularLoss
from tfdml.losses.arc_face import ArcFaceLoss
from tfdml.losses.circle import CircleLoss
from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.losses.cos_face import CosFaceLoss
from tfdml.losses.fast_ap import FastAPLoss
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
from tfdml.losses.soft_triple import SoftTripleLoss
from tfdml.losses.supervised_contrastive import SupervisedContrastiveLoss
from tfdml.losses.triplet import TripletLoss

_FACTORIES = {
    "angular": AngularLoss,
    "arc_face": ArcFaceLoss,
    "c1": functools.partial(ContrastiveLoss, distance="cosine", average="anchor", name="c1"),
    "c2": functools.partial(ContrastiveLoss, name="c2"),
    "circle": CircleLoss,
    "contrastive": ContrastiveLoss,
    "cos_face": CosFaceLoss,
    "fast_ap": FastAPLoss,
    "generalized_lifted_structure": GeneralizedLiftedStructureLoss,
    "hadsell": functools.partial(ContrastiveLoss, negative_margin=1.0, power=2, average="pairs", name="hadsell"),
    "in_batch_negatives": InBatchNegativesLoss,
    "info_nce": InfoNCELoss,
    "lifted_structure": LiftedStructureLoss,
    "margin": MarginLoss,
    "multi_similarity": MultiSimilarityLoss,
    "n_pairs": NPairsLoss,
    "normalized_softmax": NormalizedSoftmaxLoss,
    "nt_xent": functools.partial(InfoNCELoss, temperature=0.5, name="nt_xent"),
    "pair_contrastive": PairContrastiveLoss,
    "proxy_anchor": ProxyAnchorLoss,
    "proxy_nca": ProxyNCALoss,
    "proxy_nca_plus_plus": ProxyNCAPlusPlusLoss,
    "proxy_proxy": ProxyProxyLoss,
    "proxy_proxy_through_batch": functools.partial(
        ProxyProxyLoss, through_batch=True, name="proxy_proxy_through_batch"
    ),
    "ranked_list": RankedListLoss,
    "soft_triple": SoftTripleLoss,
    "supervised_contrastive": SupervisedContrastiveLoss,
    "triplet": TripletLoss,
    "triplet_all": functools.partial(TripletLoss, mining="all", average="nonzero", name="triplet_all"),
    "triplet_hard": functools.partial(TripletLoss, mining="hard", name="triplet_hard"),
    "triplet_soft": functools.partial(TripletLoss, margin="soft", mining="hard", name="triplet_soft"),
}


register_loss_names(_FACTORIES)


def loss_names():
    """The names that `get` knows, sorted."""
    return sorted(_FACTORIES)


def get(identifier, **options):
    """A loss from its name, its configuration, or itself.

    `MetricModel.compile` takes names itself. A plain Keras model takes what this function gives,
    `model.compile(loss=tfdml.losses.get("multi_similarity"))`; the name alone is known to Keras 2, not to Keras 3.

    Args:
        identifier: A name of `loss_names()`, a serialised loss (as `keras.saving.serialize_keras_object` gives), or
            a Keras loss, which is returned as it is.
        **options: Arguments of the loss, for a name.

    Returns:
        A `keras.losses.Loss`.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested) or takes no such option.
        TypeError: If the identifier is none of these.

    Example:
        >>> get("c1").distance
        'cosine'
    """
    return resolve("loss", identifier, _FACTORIES, keras.losses.Loss, options)
