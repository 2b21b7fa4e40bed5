"""Architectures as frozen, validated, hashable data.

Every `ArchSpec` is valid. Fields that the chosen block, stem or neck doesn't read, and options at their defaults, are
None before comparing and hashing. Equal specs have equal identities and build the same network.

Unequal specs may build the same network too. Identities of earlier studies must stay, so these are not made equal:

- `expansion`, `downsampling_expansion` and `squeeze` that lead to the same whole numbers of channels;
- in mr_window, another `subsampling` where all ratios are 1, another `pre_conv` where none is 1, and the same sequence
  of blocks as ratios times depth in another way, or as a stage of window;
- `layer_scale`, which is an initial value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from search_space.checks import SpecError, check_keys, shown, whole, within, within_choices
from search_space.stage import StageSpec

STEM_STRIDES = {"conv": 4, "overlap": 4, "patch": 4, "conv16": 16, "patch16": 16}  # stride
EXPANDING_DOWNSAMPLINGS = ("mbconv", "fused_mbconv")
DOWNSAMPLINGS = ("conv", "patch", "pool", "attention", *EXPANDING_DOWNSAMPLINGS)
TILING_DOWNSAMPLINGS = ("patch", "pool")  # they would leave out the last row and column of a map of odd sides
NECKS = ("none", "stage1", "stage2", "stage3", "stage4")
SUMMARIES = (None, "token")
STAGES = 4
MAX_STRIDE = 64  # a map of stride 64 has ceil(side / 64) places a side
# Of the downsampling "attention", wherever it is: side of the first map that LeViT shrinks, at 224 px. Its second map
# has 7, but another grid would change the shape of tables in weights that are saved already.
SHRINKING_GRID = 14
SIZE_MULTIPLE_PX = 32  # sides of images are multiples of it


@dataclass(frozen=True)
class ArchSpec:
    """A backbone: a stem, one to four stages, and an optional neck for dense features.

    Each stage has twice the stride of the previous one. E-RADIO and most other families have four stages, at strides 4,
    8, 16 and 32; LeViT and SHViT have three, at strides 16, 32 and 64; a ViT has one, at stride 16.

    Attributes:
        stages: the stages in the order they run.
        stem: one of `STEM_STRIDES`, which also has their strides.
        stem_width: channels between the two convolutions of the "conv" stem; None for the others.
        downsampling: the layers between stages, one of `DOWNSAMPLINGS`; "conv" where there is one stage only.
        neck: "stageN" fuses stage N and all later ones at stage N's resolution; "none": no neck.
        neck_dim: channels of the neck's map; None without a neck.
        downsampling_expansion: channels inside a downsampling layer / channels of the map before it; None for layers
            that do not expand.
        summary: the summary of an image, one of `SUMMARIES`. None: the mean of the last map; "token": the first
            register of the last stage, a vit, after a norm.
    """

    stages: tuple[StageSpec, ...]
    stem: str = "conv"
    stem_width: int | None = None
    downsampling: str = "conv"
    neck: str = "none"
    neck_dim: int | None = None
    downsampling_expansion: float | None = None
    summary: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not 1 <= len(self.stages) <= STAGES or not all(isinstance(s, StageSpec) for s in self.stages):
            raise SpecError(f"stages: got {len(self.stages)} entries; need 1 to {STAGES} StageSpec")
        within_choices("stem", self.stem, STEM_STRIDES)
        if self.strides[-1] > MAX_STRIDE:
            max_stages = (MAX_STRIDE // STEM_STRIDES[self.stem]).bit_length()
            raise SpecError(
                f"stages: got {len(self.stages)} entries; the stem {self.stem!r} allows {max_stages} at most"
            )
        within_choices("downsampling", self.downsampling, DOWNSAMPLINGS)
        if len(self.stages) == 1:
            object.__setattr__(self, "downsampling", DOWNSAMPLINGS[0])
        expands = self.downsampling in EXPANDING_DOWNSAMPLINGS
        expansion = within("downsampling_expansion", self.downsampling_expansion, 1, 32) if expands else None
        object.__setattr__(self, "downsampling_expansion", expansion)
        within_choices("neck", self.neck, NECKS)
        if self.stem != "conv":
            object.__setattr__(self, "stem_width", None)
        else:
            whole("stem_width", self.stem_width, 8192)
        if self.neck == "none":
            object.__setattr__(self, "neck_dim", None)
        else:
            whole("neck_dim", self.neck_dim, 8192)
            within_choices("neck", self.neck, NECKS[: len(self.stages) + 1])
        within_choices("summary", self.summary, SUMMARIES)
        if self.summary == "token" and self.stages[-1].registers is None:
            raise SpecError("summary: 'token' is a register of the last stage, which must be a vit with registers")

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's map with respect to the image."""
        return tuple(STEM_STRIDES[self.stem] * 2**i for i in range(len(self.stages)))

    def is_padded(self, index: int) -> bool:
        """Return whether the map of stage `index` passes a padding to even sides before it is downsampled."""
        return self.downsampling in TILING_DOWNSAMPLINGS and self.strides[index] % SIZE_MULTIPLE_PX == 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without the fields that don't apply."""
        plain = {k: v for k, v in asdict(self).items() if v is not None}
        plain["stages"] = [{k: v for k, v in stage.items() if v is not None} for stage in plain["stages"]]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArchSpec:
        """Build a spec from the data of `to_dict`.

        Raises:
            SpecError: names the field, its value and the allowed values.
        """
        check_keys("spec", data, required=("stages",), allowed=[f.name for f in fields(cls)])
        if not isinstance(data["stages"], list | tuple):
            raise SpecError(f"stages: {shown(data['stages'])}; need a list of 1 to {STAGES} stages")
        stages = []
        for number, stage in enumerate(data["stages"], start=1):
            try:
                stages.append(StageSpec.from_dict(stage))
            except SpecError as error:
                raise SpecError(f"stage {number}: {error}") from None
        return cls(**{**data, "stages": tuple(stages)})

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces. Equal specs have equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ArchSpec:
        """Build a spec from JSON of any layout. Raises SpecError."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # brackets in brackets, a thousand deep
            raise SpecError(f"spec: not JSON ({error})") from None
        return cls.from_dict(data)

    @cached_property
    def arch_id(self) -> str:
        """Identity of the architecture: the first 12 hex digits of the SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def shrinking_heads(width: int) -> tuple[int, int]:
    """Return number of heads and key width of the downsampling "attention" after a stage of `width` channels.

    LeViT's rule: keys have 32 channels (16 in its narrower networks), and all heads together as many as the stage.
    """
    key_width = 32 if width >= 192 else 16
    return max(width // key_width, 1), key_width
