"""Losses by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfdml._utils.keras_compat import register_loss_names
from tfdml._utils.registry import Registry, register_with_keras
from tfdml.losses.angular import AngularLoss
from tfdml.losses.arc_face import ArcFaceLoss
from tfdml.losses.circle import CircleLoss
from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.losses.cos_face import CosFaceLoss
from tfdml.losses.fast_ap import FastAPLoss
from tfdml.losses.function import FunctionLoss, check_loss_function
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

_FACTORIES: dict[str, Callable[..., Any]] = {
    "angular": AngularLoss,
    "arc_face": ArcFaceLoss,
    "bell_bala": functools.partial(
        ContrastiveLoss, negative_margin=1.0, distance="squared_l2", average="pairs", name="bell_bala"
    ),
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


class _Losses(Registry):
    """A registry that also accepts the losses of Keras and functions of `(y_true, y_pred)`."""

    def register(self, name: str, factory: Callable | None = None) -> Callable:
        if inspect.isfunction(factory) and _is_loss_function(factory):
            register_with_keras(factory)
            super().register(name, functools.partial(FunctionLoss, factory))
        else:
            factory = super().register(name, factory)
        if name in self._factories:
            register_loss_names([name], self.get)
        return factory

    def _factory_of_foreign_name(self, name):
        kind = getattr(keras.losses, name, None)
        if inspect.isclass(kind) and issubclass(kind, keras.losses.Loss) and kind is not keras.losses.Loss:
            return kind
        try:
            found = keras.losses.get(name)
        except (ValueError, TypeError):
            return None
        # Keras 2 finds anything in its module, such as "serialize".
        return functools.partial(FunctionLoss, found) if _is_loss_function(found) else None

    def _factory_of_callable(self, function):
        return functools.partial(FunctionLoss, check_loss_function(function))


def _is_loss_function(function):
    """Whether the first two arguments have the names that Keras gives them."""
    return inspect.isfunction(function) and list(inspect.signature(function).parameters)[:2] == ["y_true", "y_pred"]


_REGISTRY = _Losses("loss", keras.losses.Loss, _FACTORIES)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> keras.losses.Loss:
    """Create a loss from an identifier.

    `MetricModel.compile` accepts the same identifiers. In a plain Keras model, pass the loss that this function
    returns: `model.compile(loss=tfdml.losses.get("multi_similarity"))`. Keras 2 also knows the names; Keras 3 does not.

    Args:
        identifier: One of: a name from `names()` or of a class (`"ContrastiveLoss"`); a name that Keras knows
            (`"CosineSimilarity"`); a class; a function of labels and embeddings, `(y_true, y_pred)`, that returns one
            value per sample; a configuration from `serialize`; or a Keras loss, which is returned unchanged.
        **options: Arguments of the loss, if the identifier is a name or a class.

    Returns:
        A `keras.losses.Loss`.

    Raises:
        ValueError: If the name is unknown (the message suggests the closest one) or does not accept an option.
        TypeError: If the identifier is none of these.

    Example:
        >>> from tfdml import losses
        >>> losses.get("contrastive", negative_margin=0.8).negative_margin
        0.8
        >>> losses.get("c1").distance
        'cosine'
        >>> float(losses.get(lambda labels, embeddings: embeddings[:, 0] ** 2)([1, 2], [[1.0], [3.0]]))
        5.0
    """
    return _REGISTRY.get(identifier, **options)


register_loss_names(names(), get)
