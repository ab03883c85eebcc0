"""Wrong options name the right ones, in every registry."""

import functools

import pytest

from tfdml import backbones, data, losses, miners
from tfdml._utils.naming import accepted_options, check_options
from tfdml.layers import pooling as poolings


@pytest.mark.parametrize(
    ("get", "name", "option", "nearest", "others"),
    [
        (losses.get, "c2", "positive_margn", "positive_margin", ["negative_margin", "power", "name"]),
        (losses.get, "multi_similarity", "alhpa", "alpha", ["beta", "miner", "name"]),
        (miners.get, "hard", "distanse", "distance", []),
        (poolings.get, "gsp", "prototype", "prototypes", ["ratio", "smoothing", "solver", "name", "trainable"]),
        (poolings.get, "gsp_gmp", "ratios", "ratio", ["prototypes", "name", "dtype"]),
        (poolings.get, "netvlad_8x16", "channel", "channels", ["prototypes", "name"]),
        (
            functools.partial(backbones.get, input_shape=(32, 32, 3)),
            "resnet20",
            "frozen_batchnorm",
            "frozen_batch_norm",
            ["name"],
        ),
        (data.get, "glyphs", "min_typeface", "min_typefaces", ["size"]),
    ],
)
def test_right_options_are_named(get, name, option, nearest, others):
    with pytest.raises(ValueError, match=f"{name!r} does not take these options. Received: {option!r}. Exp") as error:
        get(name, **{option: 1})
    message = str(error.value)
    assert message.endswith(f"Did you mean {nearest!r}?")
    assert all(repr(other) in message for other in (nearest, *others))
    assert "input_shape" not in message and "kwargs" not in message


@pytest.mark.parametrize(
    ("get", "names"),
    [
        (losses.get, losses.names()),
        (miners.get, miners.names()),
        (poolings.get, poolings.names()),
        (functools.partial(backbones.get, input_shape=(64, 64, 3)), backbones.names()),
        (data.get, data.names()),
    ],
)
def test_no_name_takes_an_unknown_option(get, names):
    for name in names:
        with pytest.raises(ValueError, match=r"does not take these options\. Received: 'zzz'\. Expected: ('\w+'|none)"):
            get(name, zzz=1)


def test_all_options_of_an_object_are_accepted():
    """What is listed can be given: the configuration of an object makes it again."""
    for name in poolings.names():
        layer = poolings.get(name)
        config = {key: value for key, value in layer.get_config().items() if key != "dtype"}
        assert set(config) <= set(accepted_options(type(layer))), name
        assert type(poolings.get(name, **config)) is type(layer)


def test_factories():
    def takes_all(margin, **options):
        """Any option is right."""

    assert accepted_options(takes_all) is None
    check_options("loss", "mine", None, {"anything": 1})
    assert accepted_options(functools.partial(lambda a, *, b=2: None, a=1)) == ["a", "b"]
    assert accepted_options(functools.partial(lambda a, *, b=2: None, 1)) == ["b"]
    with pytest.raises(ValueError, match=r"Loss 'mine' does not take these options. Received: 'a'. Expected: none\.$"):
        check_options("loss", "mine", accepted_options(lambda: None), {"a": 1})
