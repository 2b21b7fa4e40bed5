"""Networks of timm as architectures, which a training takes where it takes a spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search_space.arch import ArchSpec
from search_space.checks import SpecError, shown, whole
from search_space.presets import PRESETS, read_spec
from search_space.timm_names import PREFIX, check_timm_name, is_other_name

FIELD, NECK = "timm", "neck_dim"  # of plain data
MAX_CHARACTERS = 100  # of a name


@dataclass(frozen=True)
class TimmSpec:
    """A network of timm with random weights.

    Args:
        name: Its name in timm, as in ``timm.create_model(name)``, without a tag of pretrained weights.
        neck_dim: Channels of a neck, which fuses its maps from stride 16 on; None: no neck.

    Raises:
        SpecError: timm has no such network, the name has a tag, or the width is none.
    """

    name: str
    neck_dim: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > MAX_CHARACTERS:
            raise SpecError(f"{FIELD}: {shown(self.name)}: must be the name of a network of timm")
        if "." in self.name:
            network = self.name.partition(".")[0]
            raise SpecError(f"arch: {PREFIX}{self.name}: it begins with random weights; write {PREFIX}{network}")
        check_timm_name(self.name)
        if is_other_name(self.name):
            raise SpecError(
                f"arch: {PREFIX}{self.name}: this process has registered it; timm itself has no such network"
            )
        if self.neck_dim is not None:
            whole(NECK, self.neck_dim, 8192)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without a neck that it does not have."""
        return {FIELD: self.name} | ({} if self.neck_dim is None else {NECK: self.neck_dim})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TimmSpec:
        """Return the network of the result of `to_dict`; SpecError where there is none."""
        return cls(plain[FIELD], plain.get(NECK))

    def to_json(self) -> str:
        """Return the canonical JSON text."""
        return json.dumps(self.to_dict())

    @cached_property
    def arch_id(self) -> str:
        """Identity of the network: the first 12 hex digits of the SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


NetworkSpec = ArchSpec | TimmSpec


def network_spec(plain: Mapping[str, Any]) -> NetworkSpec:
    """Return the architecture of plain JSON data, which is a name, perhaps with a neck, where it is a network of timm.

    Raises:
        SpecError: There is no such architecture; the message names the field.
    """
    return TimmSpec.from_dict(plain) if {FIELD} <= set(plain) <= {FIELD, NECK} else ArchSpec.from_dict(plain)


def find_network(arch: str) -> tuple[str, NetworkSpec]:
    """Return name and spec of a preset, of timm:NAME or of a .json file of either kind; SpecError as `find_spec`."""
    if arch.startswith(PREFIX):
        return arch, TimmSpec(arch.removeprefix(PREFIX))
    return (arch, PRESETS[arch]) if arch in PRESETS else read_spec(arch, network_spec_from_json)


def check_arch(arch: str) -> None:
    """Raise SpecError for an arch that is no preset, no readable spec file and surely no network of timm."""
    if arch.startswith(PREFIX):
        check_timm_name(arch.removeprefix(PREFIX))  # which may have the tag of pretrained weights
    else:
        find_network(arch)


def network_spec_from_json(text: str) -> NetworkSpec:
    """Return the architecture of JSON text; SpecError as `network_spec`, also for text that is no JSON object."""
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None  # ArchSpec says what is wrong with the text
    return network_spec(plain) if isinstance(plain, dict) else ArchSpec.from_json(text)
