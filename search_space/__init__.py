"""The search space as plain data: specs of backbones, named presets, and spaces to sample them from. No torch."""

from search_space.arch import ArchSpec
from search_space.checks import SpecError
from search_space.presets import PRESETS, find_spec, preset
from search_space.space import Space
from search_space.spaces import SPACES
from search_space.stage import BLOCK_FIELDS, StageSpec
from search_space.timm_spec import NetworkSpec, TimmSpec, network_spec

__all__ = [
    "BLOCK_FIELDS",
    "PRESETS",
    "SPACES",
    "ArchSpec",
    "NetworkSpec",
    "Space",
    "SpecError",
    "StageSpec",
    "TimmSpec",
    "find_spec",
    "network_spec",
    "preset",
]
