"""Backbones: networks from images to maps of local features."""

from tfdml._utils.naming import former_names
from tfdml.backbones.bn_inception import bn_inception
from tfdml.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
from tfdml.backbones.expected_range import expected_range
from tfdml.backbones.googlenet import googlenet
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.registry import deserialize, get, is_known, names, names_like, register, serialize
from tfdml.backbones.resnet20 import resnet20, resnet20v2
from tfdml.backbones.resnet50 import resnet50
from tfdml.backbones.token_layout import TokenLayout, token_layout
from tfdml.backbones.weights import convert_weights, load_weights

__all__ = [
    "InputConvention",
    "TokenLayout",
    "bn_inception",
    "convert_weights",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "expected_range",
    "deserialize",
    "get",
    "is_known",
    "googlenet",
    "load_weights",
    "names",
    "names_like",
    "register",
    "resnet20",
    "resnet20v2",
    "resnet50",
    "serialize",
    "token_layout",
]

__getattr__ = former_names(__name__, backbone_names="names", get_backbone="get")
