"""Check the input shape of a backbone."""

from tfdml._utils.arguments import is_integer


def check_input_shape(input_shape, smallest, largest=None, channels=(1, 3)):
    """Return a backbone's input shape as a tuple of integers (or `None`) after checking it.

    Args:
        input_shape: Sequence (height, width, channels); height and width may be `None` (unknown).
        smallest: int. Smallest height and width.
        largest: int. Largest height and width, or `None`. Default `None`.
        channels: Tuple of int. Accepted numbers of channels. Default (1, 3).

    Returns:
        Tuple (height, width, channels).

    Raises:
        ValueError: If the shape is not accepted.

    Example:
        >>> check_input_shape([28, None, 1], smallest=28, largest=64)
        (28, None, 1)
    """
    sides = f"at least {smallest}" if largest is None else f"from {smallest} to {largest}"
    expected = (
        f"Expected: (height, width, channels) with height and width {sides} or None and "
        f"channels one of {tuple(channels)}."
    )
    try:
        shape = tuple(input_shape)
    except TypeError:
        raise ValueError(f"Invalid input_shape. Received: input_shape={input_shape!r}. {expected}") from None

    def fits(size):
        if size is None:
            return True
        return is_integer(size) and smallest <= size and (largest is None or size <= largest)

    right = (
        len(shape) == 3
        and fits(shape[0])
        and fits(shape[1])
        and is_integer(shape[2])
        and shape[2] in channels
    )
    if not right:
        raise ValueError(f"Invalid input_shape. Received: input_shape={input_shape!r}. {expected}")
    return tuple(None if size is None else int(size) for size in shape)
