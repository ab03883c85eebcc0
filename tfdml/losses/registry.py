"""Losses by name."""

import functools

import keras

from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.naming import unknown_name

_FACTORIES = {
    "contrastive": ContrastiveLoss,
    "c1": functools.partial(ContrastiveLoss, distance="cosine", average="anchor", name="c1"),
    "c2": functools.partial(ContrastiveLoss, name="c2"),
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
    if isinstance(identifier, str):
        factory = _FACTORIES.get(identifier.lower())
        if factory is None:
            raise unknown_name("loss", identifier, _FACTORIES)
        try:
            return factory(**options)
        except TypeError as error:
            raise ValueError(f"Loss {identifier!r} does not take these options: {options}. {error}") from error
    if options:
        raise ValueError(f"Options go with a loss' name. Received: options {options} with {identifier!r}.")
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, keras.losses.Loss):
        return identifier
    raise TypeError(
        f"A loss must be a name, a configuration or a keras.losses.Loss. Received: {identifier!r} "
        f"of type {type(identifier).__name__}."
    )


