"""Backbones: models built from specs, timm's models with the same interface, weights, and fusing for deployment.

Importing this package registers the presets with timm.
"""

from backbones import entrypoints
from backbones.backbone import Backbone, Features, InputSizeError
from backbones.build import build
from backbones.eradio_public import eradio_from_public
from backbones.fuse import fuse
from backbones.resolve import Network, build_network, resolve
from backbones.timm_models import TimmBackbone
from backbones.weights import WeightsError, load, save

__all__ = [
    "Backbone",
    "Features",
    "InputSizeError",
    "Network",
    "TimmBackbone",
    "WeightsError",
    "build",
    "build_network",
    "entrypoints",
    "eradio_from_public",
    "fuse",
    "load",
    "resolve",
    "save",
]
