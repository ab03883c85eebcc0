"""Backbones: from images to maps of local features."""

from tfdml.backbones.bn_inception import bn_inception
from tfdml.backbones.expected_range import expected_range
from tfdml.backbones.googlenet import googlenet
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.registry import backbone_names, get_backbone, register
from tfdml.backbones.resnet20 import resnet20, resnet20v2
from tfdml.backbones.resnet50 import resnet50
from tfdml.backbones.weights import convert_weights, load_weights

__all__ = [
    "InputConvention",
    "backbone_names",
    "bn_inception",
    "convert_weights",
    "expected_range",
    "get_backbone",
    "googlenet",
    "load_weights",
    "register",
    "resnet20",
    "resnet20v2",
    "resnet50",
]
