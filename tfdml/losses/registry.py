"""Losses by name."""

import functools

import keras

from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.naming import resolve

_FACTORIES = {
    "contrastive": ContrastiveLoss,
    "c1": functools.partial(ContrastiveLoss, distance="cosine", average="anchor", name="c1"),
    "c2": functools.partial(ContrastiveLoss, name="c2"),
    "hadsell": functools.partial(ContrastiveLoss, negative_margin=1.0, power=2, average="pairs", name="hadsell"),
}


def loss_names():
    """The names that `get` knows, sorted."""
    return sorted(_FACTORIES)


def get(identifier, **options):
    """A loss from its name, its configuration, or itself.

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
