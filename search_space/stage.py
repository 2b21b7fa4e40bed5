"""One stage of an architecture as frozen, validated, hashable data.

Fields that the stage's block doesn't read are set to None before comparing and hashing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from search_space.checks import SpecError, check_keys, shown, whole, within, within_choices

# What each block reads in addition to `depth` and `width`. `backbones.build.BLOCK_BUILDERS` builds the blocks.
_LAYER = frozenset({"pre_conv_groups", "mlp", "qkv_bias", "layer_scale"})
BLOCK_FIELDS: dict[str, frozenset[str]] = {
    "c2f": frozenset({"expansion", "kernel"}),
    "light_c2f": frozenset({"expansion", "kernel"}),
    "basic": frozenset({"expansion"}),
    "bottleneck": frozenset({"expansion", "group_width", "squeeze"}),
    "mbconv": frozenset({"expansion", "squeeze", "kernel"}),
    "fused_mbconv": frozenset({"expansion"}),
    "convnext": frozenset({"expansion", "kernel"}),
    "repdw": frozenset({"expansion", "squeeze", "kernel"}),
    "pool": frozenset({"expansion"}),
    "window": frozenset({"expansion", "heads", "pre_conv", "window", "cpb_hidden"}) | _LAYER,
    "mr_window": frozenset({"expansion", "heads", "pre_conv", "window", "cpb_hidden", "subsampling", "ratios"})
    | _LAYER,
    "attention": frozenset({"expansion", "heads", "pre_conv"}) | _LAYER,
    "linear_attention": frozenset({"expansion", "heads"}),
    "single_head": frozenset({"expansion", "key_width"}),
    "bn_attention": frozenset({"expansion", "heads", "key_width", "grid"}),
    "swin": frozenset({"expansion", "heads", "window"}),
    "maxvit": frozenset({"expansion", "heads", "window", "squeeze"}),
    "carrier": frozenset({"expansion", "heads", "window", "cpb_hidden"}),
    "vit": frozenset({"expansion", "heads", "positions", "grid", "window", "global_every", "registers"})
    | {"mlp", "layer_scale"},
}
ALTERNATING = frozenset({"repdw"})  # blocks every other one of which has the stage's squeeze-excitation
KERNELS = (3, 5, 7)
DEFAULT_KERNELS = {"light_c2f": 5, "convnext": 7}  # other blocks: 3
UNGROUPED_PRE_CONVS = ("none", "depthwise", "dense")  # those without a number of groups
PRE_CONVS = (*UNGROUPED_PRE_CONVS, "grouped")
MLPS = ("gelu", "swiglu")
MR_RATIOS = (2, 1)
SUBSAMPLINGS = ("conv", "pool")
POSITIONS = (None, "conditional", "rotary")


@dataclass(frozen=True)
class StageSpec:
    """One stage: `depth` blocks of one kind at `width` channels. Fields that the block doesn't read become None.

    The sources of the blocks are named in the docstring of `backbones.layers`.

    Attributes:
        block: one of `BLOCK_FIELDS`.
        depth: number of blocks.
        width: channels of the stage's map.
        expansion: hidden width / width (c2f: of each half, 0.5 in YOLOv8; attention blocks: of the MLP).
        heads: number of attention heads.
        pre_conv: 3x3 convolution before attention, one of `PRE_CONVS`.
        window: side of a window in tokens; mr_window may have one for each of its ratios. In vit: largest side of a
            window of its layers; None: all layers are global.
        cpb_hidden: width of the position-bias MLP.
        subsampling: how mr_window makes its coarser maps, one of `SUBSAMPLINGS`.
        ratios: subsampling ratio of each attention block of mr_window; None: (2, 1).
        pre_conv_groups: groups of a "grouped" pre_conv.
        mlp: None (GELU) or "swiglu".
        qkv_bias: None (off) or True.
        layer_scale: initial value of the per-channel factors; None: no factors.
        group_width: channels per group in bottleneck's 3x3 convolution; None: dense.
        squeeze: width of squeeze-excitation / width, in repdw only of every other block; None: no squeeze-excitation.
        grid: side of the map that positions are learned for: vit's embeddings, bn_attention's biases of offsets. They
            are interpolated to other sizes. None where a vit's `positions` are others.
        key_width: channels of a head's queries and keys.
        kernel: side of the spatial convolutions' kernel, one of `KERNELS`; None: the block's default.
        global_every: every such layer of a vit with windows attends to the whole map; None: no layer does.
        registers: number of vit's learned tokens without a place in the map. They take part in its global layers.
        positions: how vit knows its tokens' places. None: learned embeddings of a `grid`; "conditional": a depthwise
            convolution before the first layer; "rotary": queries and keys are rotated by rows and columns.
    """

    block: str
    depth: int
    width: int
    expansion: float | None = None
    heads: int | None = None
    pre_conv: str | None = None
    window: int | tuple[int, ...] | None = None
    cpb_hidden: int | None = None
    subsampling: str | None = None
    ratios: tuple[int, ...] | None = None
    pre_conv_groups: int | None = None
    mlp: str | None = None
    qkv_bias: bool | None = None
    layer_scale: float | None = None
    group_width: int | None = None
    squeeze: float | None = None
    grid: int | None = None
    key_width: int | None = None
    kernel: int | None = None
    global_every: int | None = None
    registers: int | None = None
    positions: str | None = None

    def __post_init__(self) -> None:
        within_choices("block", self.block, BLOCK_FIELDS)
        whole("depth", self.depth, 64)
        whole("width", self.width, 8192)
        for name in OPTIONAL:
            if name not in BLOCK_FIELDS[self.block]:
                object.__setattr__(self, name, None)
        if "expansion" in BLOCK_FIELDS[self.block]:
            self._check_expansion()
        self._check_convolutions()
        self._check_attention()

    def _check_expansion(self) -> None:
        expansion = within("expansion", self.expansion, 1 / 16, 16)
        object.__setattr__(self, "expansion", expansion)  # 4 and 4.0 must have the same hash
        if int(self.width * expansion) < 1:
            raise SpecError(f"expansion: {expansion} leaves no channel of width {self.width}; use a larger one")

    def _check_convolutions(self) -> None:
        if self.group_width is not None:
            hidden = int(self.width * (self.expansion or 0))
            if hidden % whole("group_width", self.group_width, hidden):
                raise SpecError(f"group_width: {self.group_width} does not divide the hidden width {hidden}")
            object.__setattr__(self, "group_width", None if self.group_width == hidden else self.group_width)
        if self.squeeze is not None:
            object.__setattr__(self, "squeeze", within("squeeze", self.squeeze, 1 / 64, 1))
            if int(self.width * self.squeeze) < 1:
                raise SpecError(f"squeeze: {self.squeeze} leaves no channel of width {self.width}; use a larger one")
        if self.kernel is not None:
            within_choices("kernel", whole("kernel", self.kernel, max(KERNELS)), KERNELS)
            object.__setattr__(self, "kernel", None if self.kernel == default_kernel(self.block) else self.kernel)

    def _check_attention(self) -> None:
        reads = BLOCK_FIELDS[self.block]
        if "heads" in reads:
            heads = whole("heads", self.heads, self.width)
            if self.width % heads and "key_width" not in reads:
                raise SpecError(f"heads: {heads} does not divide width {self.width}; choose a divisor")
        if "pre_conv" in reads:
            self._check_pre_conv()
        if "cpb_hidden" in reads:
            whole("cpb_hidden", self.cpb_hidden, 4096)
        if "window" in reads and not ("global_every" in reads and self.window is None):
            self._check_windows()
        if "global_every" in reads:
            self._check_global_layers()
        if "positions" in reads:
            self._check_positions()
        elif "grid" in reads:
            whole("grid", self.grid, 256)
        if "key_width" in reads:
            whole("key_width", self.key_width, self.width)
        if "subsampling" in reads:
            within_choices("subsampling", self.subsampling, SUBSAMPLINGS)
        if "mlp" in reads:
            self._check_layer()

    def _check_pre_conv(self) -> None:
        within_choices("pre_conv", self.pre_conv, PRE_CONVS)
        if self.pre_conv != "grouped":
            object.__setattr__(self, "pre_conv_groups", None)
        elif self.width % whole("pre_conv_groups", self.pre_conv_groups, self.width):
            raise SpecError(f"pre_conv_groups: {self.pre_conv_groups} does not divide width {self.width}")
        elif self.pre_conv_groups in (1, self.width):
            raise SpecError(f"pre_conv_groups: {self.pre_conv_groups}; use pre_conv 'dense' or 'depthwise'")

    def _check_windows(self) -> None:
        if "ratios" in BLOCK_FIELDS[self.block] and self.ratios is not None:
            ratios = tuple(self.ratios) if isinstance(self.ratios, list | tuple) else ()
            if not 1 <= len(ratios) <= 8:
                raise SpecError(f"ratios: {shown(self.ratios)}; need 1 to 8 whole numbers, one an attention block")
            for ratio in ratios:
                whole("ratios", ratio, 16)
            object.__setattr__(self, "ratios", None if ratios == MR_RATIOS else ratios)
        if not isinstance(self.window, list | tuple):
            whole("window", self.window, 64)
            return
        for window in self.window:
            whole("window", window, 64)
        if len(self.window) != len(self.attention_ratios):
            raise SpecError(
                f"window: {shown(self.window)}; need one number, or {len(self.attention_ratios)}, one a ratio"
            )
        same = len(set(self.window)) == 1
        object.__setattr__(self, "window", self.window[0] if same else tuple(self.window))

    def _check_global_layers(self) -> None:
        if self.window is None:
            object.__setattr__(self, "global_every", None)
        elif self.global_every is not None and whole("global_every", self.global_every, self.depth) == 1:
            raise SpecError("global_every: 1 makes all layers global; leave out window and global_every instead")
        if self.registers is not None:
            whole("registers", self.registers, 64)
            if not any(self.global_layers):
                raise SpecError(f"registers: {self.registers} take part in global layers only; set global_every")

    def _check_positions(self) -> None:
        within_choices("positions", self.positions, POSITIONS)
        if self.positions is None:
            whole("grid", self.grid, 256)
        else:
            object.__setattr__(self, "grid", None)
        head_width = self.width // (self.heads or 1)
        if self.positions == "rotary" and head_width % 4:
            raise SpecError(f"positions: 'rotary' needs heads of a multiple of 4 channels, not {head_width}")

    def _check_layer(self) -> None:
        if self.mlp is not None:
            within_choices("mlp", self.mlp, MLPS)
        if self.mlp == "swiglu" and int(self.width * (self.expansion or 0) / 2) < 64:
            raise SpecError(
                f"mlp: 'swiglu' needs width x expansion of 128 or more, not {self.width} x {self.expansion}"
            )
        object.__setattr__(self, "mlp", None if self.mlp == "gelu" else self.mlp)
        within_choices("qkv_bias", self.qkv_bias, (None, False, True))
        object.__setattr__(self, "qkv_bias", True if self.qkv_bias else None)
        if self.layer_scale is not None:
            object.__setattr__(self, "layer_scale", within("layer_scale", self.layer_scale, 0, 1e3))

    @property
    def attention_ratios(self) -> tuple[int, ...]:
        """Subsampling ratio of each attention block of a windowed layer, in the order they run."""
        return (1,) if "ratios" not in BLOCK_FIELDS[self.block] else self.ratios or MR_RATIOS

    @property
    def windows(self) -> tuple[int, ...]:
        """Window of each attention block of a windowed layer, in the order they run."""
        assert self.window is not None
        return self.window if isinstance(self.window, tuple) else (self.window,) * len(self.attention_ratios)

    @property
    def kernel_size(self) -> int:
        """Side of the spatial convolutions' kernel, in blocks that have such convolutions."""
        return self.kernel or default_kernel(self.block)

    @property
    def global_layers(self) -> tuple[bool, ...]:
        """Whether each layer of vit attends to the whole map, in the order they run."""
        every = 1 if self.window is None else self.global_every
        return tuple(every is not None and place % every == 0 for place in range(1, self.depth + 1))

    @property
    def single_head_channels(self) -> int:
        """Channels among which single_head attends: width / 4.67, in steps of 8 for the kernels of GPUs."""
        return min(max(round(self.width / (14 / 3) / 8), 1) * 8, self.width)

    @property
    def period(self) -> int:
        """Number of blocks after which the stage repeats itself.

        2 where every other block has squeeze-excitation, `global_every` where every such layer is global.
        """
        return self.global_every or (2 if self.block in ALTERNATING and self.squeeze is not None else 1)

    def shortened(self) -> tuple[StageSpec, StageSpec, int]:
        """Return the stage with its first blocks only, with one period more of them, and how many periods it has more.

        A sum over all blocks is that of the first stage, plus the difference of the two for each of these periods.
        """
        fewest = self.global_every or 1  # with less, no layer would be global
        repeats, rest = divmod(self.depth - fewest, self.period)
        short = replace(self, depth=fewest + rest)
        return short, replace(short, depth=min(short.depth + self.period, self.depth)), repeats

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageSpec:
        """Build a stage from a stage of `ArchSpec.to_dict`. Raises SpecError for an unknown or missing field."""
        check_keys("stage", data, required=("block", "depth", "width"), allowed=[f.name for f in fields(cls)])
        return cls(**data)


OPTIONAL = tuple(field.name for field in fields(StageSpec) if field.default is None)  # those that a block may read


def default_kernel(block: str) -> int:
    """Return the side of the kernel of a block's spatial convolutions where the spec names none."""
    return DEFAULT_KERNELS.get(block, 3)
