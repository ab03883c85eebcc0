"""Which tokens of a vision transformer are patches, and on which grid they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras

from tfdml._utils.arguments import check_whole_number
from tfdml.backbones.expected_range import is_of_keras_hub


class TokenLayout(NamedTuple):
    """How the tokens `(b, n, c)` of an image are laid out.

    Attributes:
        skip: int. Number of leading tokens that are not patches: the class token, then register tokens.
        grid: `(height, width)` of the patches, or `None` if they have no known grid.
    """

    skip: int
    grid: tuple[int, int] | None


def token_layout(model: keras.Model) -> TokenLayout | None:
    """Infers the layout of the tokens of a KerasHub model from its patch embedding.

    Args:
        model: A Keras model from images to tokens `(b, n, c)`, with a vision transformer of KerasHub inside.

    Returns:
        The layout, or `None` if the model has no patch embedding of KerasHub, or the images have no fixed size and the
        embedding does not say how many leading tokens it adds.

    Example:
        >>> images = keras.Input((8, 8, 3))
        >>> token_layout(keras.Model(images, keras.layers.Reshape((16, 12))(images))) is None
        True
    """
    found = _patch_embedding(model) if len(model.outputs[0].shape) == 3 else None
    if found is None:
        return None
    embedding, (height, width) = found
    count = model.outputs[0].shape[1]
    if None in (height, width, count):
        registers = getattr(embedding, "num_register_tokens", None)
        return None if registers is None else TokenLayout(1 + registers, None)
    sides = embedding.patch_size
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    grid = (height // sides[0], width // sides[1])
    skip = count - math.prod(grid)
    return TokenLayout(skip, grid) if skip >= 0 else None


def _patch_embedding(model):
    """The first patch embedding of KerasHub, at any depth of models, and the size of its images; or `None`."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found = _patch_embedding(layer)
            if found is not None:
                return found
        elif is_of_keras_hub(layer) and hasattr(layer, "patch_size"):
            shape = tuple(model.inputs[0].shape)
            return layer, shape[1:3]
    return None


def resolve_token_layout(
    count: int | None,
    skip_tokens: int | None = None,
    token_grid: Sequence[int] | None = None,
    known: TokenLayout | None = None,
) -> TokenLayout:
    """Completes what is given of a token layout.

    Args:
        count: int. Number of tokens, n, or `None` if it is unknown.
        skip_tokens: int. Number of leading tokens that are not patches. `None` takes it from `known` or the grid; with
            neither it is 0, which a known number of tokens must confirm by being square.
        token_grid: `(height, width)` of the patches. `None` takes it from `known`, or is a square if the number of
            patches is one.
        known: What the model tells, as `token_layout` returns it.

    Returns:
        A `TokenLayout`; without a grid if the patches have none that is known.

    Raises:
        ValueError: If the tokens do not fit what is given, or nothing tells how many to skip.

    Example:
        >>> resolve_token_layout(197, skip_tokens=1)
        TokenLayout(skip=1, grid=(14, 14))
        >>> resolve_token_layout(7, token_grid=(2, 3))
        TokenLayout(skip=1, grid=(2, 3))
    """
    if skip_tokens is not None:
        skip_tokens = check_whole_number("skip_tokens", skip_tokens, minimum=0)
    grid: tuple[int, int] | None = None
    if token_grid is not None:
        if not isinstance(token_grid, (tuple, list)) or len(token_grid) != 2:
            raise ValueError(f"A grid has two sides. Received: token_grid={token_grid!r}. Expected: (height, width).")
        height, width = (check_whole_number("token_grid", side, minimum=1) for side in token_grid)
        grid = (height, width)
    if count is None:
        skip = skip_tokens if skip_tokens is not None else known.skip if known else 0
        return TokenLayout(skip, grid)
    if skip_tokens is None:
        skip_tokens = _inferred_skip(count, grid, known)
    patches = count - skip_tokens
    if patches < 1 or grid is not None and math.prod(grid) != patches:
        expected = f"skip_tokens < {count}"
        if grid is not None:
            expected = f"skip_tokens + height × width = {count}"
        raise ValueError(
            f"The tokens do not fit their grid. Received: {count} tokens with skip_tokens={skip_tokens} and "
            f"token_grid={grid}. Expected: {expected}."
        )
    if grid is None:
        if known is not None and known.grid is not None and math.prod(known.grid) == patches:
            grid = known.grid
        elif _is_square(patches):
            grid = (math.isqrt(patches),) * 2
    return TokenLayout(skip_tokens, grid)


def _inferred_skip(count, grid, known):
    if grid is not None:
        return max(count - math.prod(grid), 0)
    if known is not None:
        return known.skip
    if _is_square(count):
        return 0
    squares = [f"skip_tokens={skip} for {count - skip} patches" for skip in (1, 2, 5) if _is_square(count - skip)]
    hint = f" It may be {' or '.join(squares)}." if squares else ""
    raise ValueError(
        f"It is unknown which of the tokens are patches. Received: {count} tokens with skip_tokens=None. Expected: "
        f"skip_tokens, the number of leading class and register tokens, or 0 if all tokens are to be pooled.{hint}"
    )


def _is_square(count):
    return count > 0 and math.isqrt(count) ** 2 == count
