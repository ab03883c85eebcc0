"""Which tokens are patches, and where they lie."""

import pytest

from tfdml.backbones.token_layout import TokenLayout, resolve_token_layout

DINOV2 = TokenLayout(5, (2, 8))


@pytest.mark.parametrize(
    ("count", "given", "expected"),
    [
        (16, {}, (0, (4, 4))),
        (17, {"skip_tokens": 1}, (1, (4, 4))),
        (17, {"skip_tokens": 0}, (0, None)),
        (None, {}, (0, None)),
        (None, {"skip_tokens": 1, "token_grid": (2, 3)}, (1, (2, 3))),
        (None, {"known": DINOV2}, (5, None)),
        (11, {"token_grid": [2, 5]}, (1, (2, 5))),
        (21, {"known": DINOV2}, (5, (2, 8))),
        (21, {"known": DINOV2, "token_grid": (4, 4)}, (5, (4, 4))),
        (20, {"known": DINOV2, "skip_tokens": 4}, (4, (2, 8))),
    ],
)
def test_what_is_not_given_is_inferred(count, given, expected):
    assert resolve_token_layout(count, **given) == expected


@pytest.mark.parametrize(
    ("count", "given", "message"),
    [
        (17, {}, "17 tokens with skip_tokens=None.*may be skip_tokens=1 for 16 patches"),
        (201, {}, "may be skip_tokens=5 for 196 patches"),
        (15, {}, "or 0 if all tokens are to be pooled.$"),
        (17, {"skip_tokens": 17}, "Expected: skip_tokens < 17"),
        (17, {"skip_tokens": 1, "token_grid": (3, 4)}, "Expected: skip_tokens . height × width = 17"),
        (17, {"token_grid": (5, 5)}, "height × width = 17"),
        (17, {"skip_tokens": -1}, "skip_tokens=-1"),
        (17, {"token_grid": (0, 5)}, "token_grid=0"),
        (17, {"token_grid": 4}, "A grid has two sides. Received: token_grid=4"),
    ],
)
def test_tokens_that_do_not_fit(count, given, message):
    with pytest.raises(ValueError, match=message):
        resolve_token_layout(count, **given)
