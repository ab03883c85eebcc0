"""Backbones by name."""

from tfdml._utils.naming import accepted_options, check_options, unknown_name

_BUILDERS = {}


def register(name):
    """Makes a builder known by a name: a decorator.

    Args:
        name: The name, in lower case.

    Returns:
        A decorator for a function `(input_shape, **options) -> keras.Model` from images to a feature map `(b,
        h, w, channels)`; it returns the function as it is.

    Raises:
        ValueError: If the name is no non-empty lower-case string or belongs to another builder.
    """
    if not isinstance(name, str) or not name or name != name.lower():
        raise ValueError(f"A backbone's name is a string in lower case. Received: name={name!r}.")

    def decorator(builder):
        known = _BUILDERS.setdefault(name, builder)
        if known is not builder:
            raise ValueError(
                f"There is a backbone of this name. Received: name={name!r}; it belongs to {known}."
            )
        return builder

    return decorator


def backbone_names():
    """The names that `get_backbone` knows, sorted."""
    return sorted(_BUILDERS)


def get_backbone(name, /, input_shape, **options):
    """Builds a backbone: a model from images to their local features.

    Args:
        name: A name of `backbone_names()`, in any case.
        input_shape: `(height, width, channels)` of the images; height and width can be `None`.
        **options: Arguments of the builder.

    Returns:
        A new functional `keras.Model` from images, float32 in 0–1, `(b, height, width, channels)` to a
        feature map `(b, h', w', features)`.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested), takes no such option, or the
            backbone takes no such images.
        TypeError: If the name is no string.

    Example:
        >>> import tfdml.backbones
        >>> get_backbone("resnet20", (32, 32, 3)).count_params()
        273392
    """
    if not isinstance(name, str):
        raise TypeError(f"A backbone's name is a string. Received: {name!r} of type {type(name).__name__}.")
    builder = _BUILDERS.get(name.lower())
    if builder is None:
        raise unknown_name("backbone", name, _BUILDERS)
    accepted = accepted_options(builder)
    check_options("backbone", name, accepted and [option for option in accepted if option != "input_shape"], options)
    return builder(input_shape, **options)
