"""Resolve the value of ``--arch`` to a model."""

from __future__ import annotations

from backbones.backbone import Backbone
from backbones.build import build
from backbones.timm_models import TimmBackbone
from search_space import find_spec


def resolve(arch: str) -> tuple[str, Backbone | TimmBackbone]:
    """Return name and model, newly initialized, of a preset, of ``timm:NAME`` or of a spec's .json file.

    Raises:
        SpecError: names the choices, or the error in the file.
    """
    if arch.startswith("timm:"):
        return arch, TimmBackbone(arch.removeprefix("timm:"))
    name, spec = find_spec(arch)
    return name, build(spec)
