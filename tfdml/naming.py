"""Things by name."""

from __future__ import annotations

import difflib

import keras


def unknown_name(kind, name, known):
    """A ValueError that tells the nearest right name and all of them.

    Args:
        kind: What the name is of, for the message.
        name: The name that was received.
        known: The right names, in lower case.

    Example:
        >>> print(unknown_name("loss", "contrastve", ["c1", "contrastive"]))
        Unknown loss. Received: 'contrastve'; expected one of ['c1', 'contrastive']. Did you mean 'contrastive'?
    """
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"Unknown {kind}. Received: {name!r}; expected one of {sorted(known)}.{hint}")


def resolve(kind, identifier, factories, base, options):
    """An object from its name, its configuration, or itself.

    Args:
        kind: What it is, for messages, as in `"loss"`.
        identifier: A name of `factories`, in any case, a configuration as `keras.saving.serialize_keras_object` gives,
            or an instance of `base`, which is returned as it is.
        factories: From names, in lower case, to callables.
        base: The class of which a ready object must be.
        options: Arguments of the factory, for a name.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested), takes no such option, or options come
            without a name.
        TypeError: If the identifier is none of these.
    """
    if isinstance(identifier, str):
        factory = factories.get(identifier.lower())
        if factory is None:
            raise unknown_name(kind, identifier, factories)
        try:
            return factory(**options)
        except TypeError as error:
            raise ValueError(
                f"{kind.capitalize()} {identifier!r} does not take these options: {options}. {error}"
            ) from error
    if options:
        raise ValueError(f"Options go with a {kind}'s name. Received: options {options} with {identifier!r}.")
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, base):
        return identifier
    raise TypeError(
        f"A {kind} must be a name, a configuration or a {base.__name__}. "
        f"Received: {identifier!r} of type {type(identifier).__name__}."
    )
