"""Backbones: from images to maps of local features."""

from tfdml.backbones.registry import backbone_names, get_backbone, register
from tfdml.backbones.resnet20 import resnet20, resnet20v2

__all__ = ["backbone_names", "get_backbone", "register", "resnet20", "resnet20v2"]
