"""Build a network: of the value of ``--arch``, or of a spec of either kind."""

from __future__ import annotations

from backbones.backbone import Backbone
from backbones.build import build
from backbones.timm_models import TimmBackbone
from search_space import NetworkSpec, TimmSpec
from search_space.timm_spec import find_network

Network = Backbone | TimmBackbone


def resolve(arch: str) -> tuple[str, Network]:
    """Return name and model, newly initialized, of a preset, of ``timm:NAME`` or of a spec's .json file.

    Raises:
        SpecError: names the choices, or the error in the file.
    """
    if arch.startswith("timm:"):
        return arch, TimmBackbone(arch.removeprefix("timm:"))
    name, spec = find_network(arch)
    return name, build_network(spec)


def build_network(spec: NetworkSpec) -> Network:
    """Build the network of a spec, newly initialized, in training mode.

    Raises:
        SpecError: Its parameters do not fit into this machine's memory, or timm cannot build it.
    """
    return TimmBackbone(spec.name, spec.neck_dim) if isinstance(spec, TimmSpec) else build(spec)
