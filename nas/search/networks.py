"""The networks that a search names: its reference, its baselines and its comparison networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas.study.config import SearchConfig, is_of_timm
from nas.validation import ConfigError
from search_space import PRESETS, SPACES, ArchSpec, SpecError, TimmSpec, network_spec
from search_space.presets import unknown_preset
from search_space.timm_names import PREFIX
from search_space.timm_spec import check_arch, find_network

_ID_CHARACTERS = 8  # of an architecture's id, in the name of one that was read from a file


def read_spec_files(config: SearchConfig) -> SearchConfig:
    """Return the settings with the architectures of the spec files that they name in `specs`.

    The study and other machines have them from there. The architecture of winner.json is named winner-1a2b3c4d: the end
    is the beginning of its id, so that two files of one name do not mix.

    Raises:
        ConfigError: A file cannot be read or has no valid spec.
    """
    specs: dict[str, dict[str, Any]] = {}

    def name_of(flag: str, arch: str) -> str:
        if arch in config.specs:
            specs[arch] = config.specs[arch]
        if arch in config.specs or not arch.endswith(".json"):
            return arch
        try:
            file_name, spec = find_network(arch)
        except SpecError as error:
            raise ConfigError(f"--{flag}: {str(error).removeprefix('arch: ')}") from None
        if isinstance(spec, TimmSpec) and spec.neck_dim is None:
            return f"{PREFIX}{spec.name}"
        name = f"{file_name}-{spec.arch_id[:_ID_CHARACTERS]}"
        specs[name] = spec.to_dict()
        return name

    reference = name_of("reference", config.reference)
    baselines = tuple(name_of("baselines", arch) for arch in config.baselines)
    scale = tuple(name_of("scale", arch) for arch in config.scale)
    return replace(config, reference=reference, baselines=baselines, scale=scale, specs=specs)


def check_networks(config: SearchConfig) -> None:
    """Check that every named network exists, and that the reference and the baselines take the study's images.

    Raises:
        ConfigError: A network does not, or a baseline has no map for a neck.
    """
    for flag, names in (("reference", (config.reference,)), ("baselines", config.baselines), ("scale", config.scale)):
        for name in names:
            try:
                _check_network(flag, name, config)
            except ValueError as error:
                raise ConfigError(f"--{flag}: {str(error).removeprefix('arch: ')}") from None


def check_new_baselines(config: SearchConfig) -> None:
    """Check what a new study needs of its baselines together.

    Raises:
        ConfigError: Two are one architecture, whose results would be mixed up.
    """
    names: dict[str, str] = {}
    for name in config.baselines:
        spec = config.spec(name)
        if config.baselines.count(name) > 1:
            raise ConfigError(f"--baselines: {name} is named twice")
        if (earlier := names.setdefault(spec.arch_id, name)) != name:
            raise ConfigError(f"--baselines: {earlier} and {name} are one architecture; name it once")


def _check_network(flag: str, name: str, config: SearchConfig) -> None:
    """Raise ValueError for a network that does not exist, does not fit into the memory or, if needed, the images."""
    if name in PRESETS:
        return
    if is_of_timm(name):
        check_arch(name)
    elif name not in config.specs:
        raise unknown_preset(name)
    arch = config.arch(name)
    if isinstance(arch, dict) and isinstance(spec := network_spec(arch), ArchSpec):
        from backbones.build import check_size  # imports torch

        check_size(spec)
    elif flag != "scale" and name not in SPACES[config.space].baselines:  # which take images of any size
        from nas.measure.counts import network_totals  # imports torch and timm

        network_totals(arch, config.distill.img_size)
