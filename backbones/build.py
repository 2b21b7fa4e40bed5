"""Build backbones from specs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

import torch
from torch import nn

from backbones.backbone import Backbone, count_parameters
from backbones.layers.bn_attention import AttentionDownsampling, BnAttention
from backbones.layers.bottleneck import Bottleneck
from backbones.layers.carrier import Carrier
from backbones.layers.conv import Basic, C2f, ConvNorm, MBConv, PreConv
from backbones.layers.eradio_attention import Attention, EradioLayer
from backbones.layers.fused_mbconv import FusedMBConv
from backbones.layers.linear_attention import LinearAttention
from backbones.layers.maxvit import MaxViT
from backbones.layers.mlp import ConvNeXt, Mlp, PoolMixer, SwiGlu
from backbones.layers.neck import Neck
from backbones.layers.repdw import RepDW
from backbones.layers.resample import (
    ToEven,
    conv16_stem,
    conv_downsampling,
    conv_resample,
    conv_stem,
    fused_mbconv_downsampling,
    mbconv_downsampling,
    overlap_stem,
    patch_downsampling,
    patch_stem,
    pool_downsampling,
    pool_resample,
)
from backbones.layers.single_head import SingleHead
from backbones.layers.stage import Stage
from backbones.layers.swin import PartitionedLayer
from backbones.layers.vit import PositionEmbedding, TokenEmbedding, ViT, ViTStage
from backbones.layers.vit_layer import ViTLayer
from backbones.layers.window import GlobalBlock, WindowBlock
from search_space import ArchSpec, StageSpec
from search_space.arch import SHRINKING_GRID, shrinking_heads
from search_space.checks import SpecError, shown
from search_space.memory import check_memory

DOWNSAMPLING_BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": conv_downsampling,
    "patch": patch_downsampling,
    "pool": pool_downsampling,
    "attention": lambda c, width: AttentionDownsampling(c, width, *shrinking_heads(c), SHRINKING_GRID),
}
EXPANDING_DOWNSAMPLING_BUILDERS = {"mbconv": mbconv_downsampling, "fused_mbconv": fused_mbconv_downsampling}
RESAMPLINGS = {"conv": conv_resample, "pool": pool_resample}
STEM_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "overlap": overlap_stem,
    "patch": patch_stem,
    "conv16": conv16_stem,
    "patch16": lambda width: ConvNorm(3, width, 16, 16),
}
T = TypeVar("T")


def build(spec: ArchSpec, drop_path_rate: float = 0.0) -> Backbone:
    """Build a backbone from a spec, initialized with torch's global generator, in training mode.

    Args:
        spec: the architecture.
        drop_path_rate: stochastic depth of the last block; the rate rises linearly from 0 at the first block.

    Raises:
        SpecError: `spec` is no spec, or the parameters do not fit into this machine's memory.
    """
    if not isinstance(spec, ArchSpec):
        how = "resolve(NAME) builds a preset, ArchSpec.from_dict(DICT) makes a spec"
        raise SpecError(f"spec: {shown(spec)}: must be an ArchSpec; {how}")
    check_size(spec)
    return _build(spec, drop_path_rate)


@cache
def check_size(spec: ArchSpec) -> None:
    """Raise SpecError for an architecture whose parameters do not fit into this machine's memory."""
    check_memory(spec.arch_id, parameters_of(spec))


def parameters_of(spec: ArchSpec) -> int:
    """Return the number of an architecture's parameters, without memory for them.

    Of each stage the first blocks are built, on the meta device: further ones have as many parameters.
    """
    with torch.device("meta"):  # not `skip_init`: another thread may be building a network that is used
        *stages, repeats = zip(*(stage.shortened() for stage in spec.stages), strict=True)
        short, longer = (_build(replace(spec, stages=each)) for each in stages)
    params = count_parameters(short)
    for times, few, more in zip(repeats, short.stages, longer.stages, strict=True):
        params += times * (count_parameters(more) - count_parameters(few))
    return params


def _build(spec: ArchSpec, drop_path_rate: float = 0.0) -> Backbone:
    widths = tuple(stage.width for stage in spec.stages)
    rates = _drop_path_rates(spec, drop_path_rate)
    backbone = Backbone(
        spec,
        stem=build_stem(spec),
        stages=[build_stage(stage, r) for stage, r in zip(spec.stages, rates, strict=True)],
        downs=[build_downsampling(spec, i) for i in range(len(widths) - 1)],
        widths=widths,
        neck=_neck(spec, widths),
        summary_norm=nn.LayerNorm(widths[-1], eps=1e-5) if spec.summary == "token" else None,
    )
    if not next(backbone.parameters()).is_meta:  # on the meta device, both steps would only cost time
        backbone.apply(_initialize)
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return backbone


def build_downsampling(spec: ArchSpec, index: int) -> nn.Module:
    """Build the layer from stage `index` to the next, (B, C, H, W) -> (B, width, ceil(H/2), ceil(W/2))."""
    channels, width = spec.stages[index].width, spec.stages[index + 1].width
    if spec.downsampling_expansion is not None:
        hidden = int(channels * spec.downsampling_expansion)
        return EXPANDING_DOWNSAMPLING_BUILDERS[spec.downsampling](channels, width, hidden)
    layer = DOWNSAMPLING_BUILDERS[spec.downsampling](channels, width)
    return nn.Sequential(ToEven(), layer) if spec.is_padded(index) else layer


def build_stage(stage: StageSpec, drop_path: Sequence[float] | None = None) -> Stage:
    """Build a stage, (B, width, H, W) -> same; `drop_path` has a rate for each of its `depth` blocks."""
    return BLOCK_BUILDERS[stage.block](stage, drop_path or (0.0,) * stage.depth)


def _each(block: Callable[[StageSpec, float], nn.Module]) -> Callable[[StageSpec, Sequence[float]], Stage]:
    """Return a function that builds a stage of blocks that differ in their drop path rate only."""
    return lambda stage, rates: Stage([block(stage, rate) for rate in rates])


def _c2f(stage: StageSpec, rates: Sequence[float]) -> Stage:
    """Build a stage of one module with `depth` bottlenecks; it has no residual branch to drop."""
    return Stage([C2f(stage.width, stage.depth, _hidden(stage), stage.kernel_size, light=stage.block == "light_c2f")])


def _windowed(stage: StageSpec, rates: Sequence[float]) -> Stage:
    ratios, windows = stage.attention_ratios, stage.windows
    blocks = [_window_block(stage, *rw, rate) for rate in rates for rw in zip(ratios, windows, strict=True)]
    return Stage(blocks, step=max(windows) * max(ratios))


def _window_block(stage: StageSpec, ratio: int, window: int, drop_path: float) -> WindowBlock:
    layer = _layer(stage, window, drop_path)
    if ratio == 1:
        return WindowBlock(layer, window, _pre_conv(stage))
    return WindowBlock(layer, window, resample=RESAMPLINGS[_required(stage.subsampling)](stage.width, ratio))


def _layer(stage: StageSpec, window: int | None, drop_path: float) -> EradioLayer:
    attention = Attention(stage.width, _required(stage.heads), window, stage.cpb_hidden or 0, bool(stage.qkv_bias))
    mlp = SwiGlu(stage.width, _hidden(stage)) if stage.mlp == "swiglu" else Mlp(stage.width, _hidden(stage))
    return EradioLayer(stage.width, attention, mlp, stage.layer_scale, drop_path)


def _pre_conv(stage: StageSpec) -> PreConv | None:
    if stage.pre_conv == "none":
        return None
    groups = {"depthwise": stage.width, "dense": 1, "grouped": stage.pre_conv_groups}[stage.pre_conv or "none"]
    assert groups is not None
    return PreConv(stage.width, groups)


def _hidden(stage: StageSpec) -> int:
    """Return the hidden width; SwiGLU has half the MLP's, in steps of 64, because its gate needs a third matrix."""
    expansion = _required(stage.expansion)
    if stage.mlp == "swiglu":
        return int(stage.width * expansion / 2) // 64 * 64
    return int(stage.width * expansion)


def _squeeze(stage: StageSpec) -> int | None:
    return None if stage.squeeze is None else int(stage.width * stage.squeeze)


def _only_window(stage: StageSpec) -> int:
    """Return the only window of a stage."""
    (window,) = stage.windows
    return window


def _required(value: T | None) -> T:
    """Return the value of a field that the stage's block reads, which is never None."""
    assert value is not None
    return value


def _swin(stage: StageSpec, rates: Sequence[float]) -> Stage:
    window = _only_window(stage)
    layer = partial(PartitionedLayer, stage.width, _hidden(stage), _required(stage.heads), window)
    return Stage([layer(rate, shift=window // 2 * (i % 2)) for i, rate in enumerate(rates)])


def _single_head(stage: StageSpec, drop_path: float) -> SingleHead:
    return SingleHead(stage.width, _hidden(stage), stage.single_head_channels, _required(stage.key_width), drop_path)


def _bn_attention(stage: StageSpec, drop_path: float) -> BnAttention:
    heads, key_width, grid = _required(stage.heads), _required(stage.key_width), _required(stage.grid)
    return BnAttention(stage.width, _hidden(stage), heads, key_width, grid, drop_path)


def _maxvit(stage: StageSpec, drop_path: float) -> MaxViT:
    return MaxViT(stage.width, _hidden(stage), _required(stage.heads), _only_window(stage), drop_path, _squeeze(stage))


def _repdw(stage: StageSpec, rates: Sequence[float]) -> Stage:
    """Build a stage in which the first block of each period has squeeze-excitation, if any has."""
    squeezes = [None if i % stage.period else _squeeze(stage) for i in range(stage.depth)]
    blocks = zip(rates, squeezes, strict=True)
    return Stage([RepDW(stage.width, _hidden(stage), rate, squeeze, stage.kernel_size) for rate, squeeze in blocks])


def _carrier(stage: StageSpec, rates: Sequence[float]) -> Stage:
    window, heads = _only_window(stage), _required(stage.heads)
    carrier = Carrier(stage.width, _hidden(stage), heads, window, _required(stage.cpb_hidden), rates)
    return Stage([carrier], step=window)


def _vit(stage: StageSpec, rates: Sequence[float]) -> ViTStage:
    heads, gated = _required(stage.heads), stage.mlp == "swiglu"
    layer = partial(ViTLayer, stage.width, _hidden(stage), heads, gated=gated, layer_scale=stage.layer_scale)
    layers = [
        ViT(layer(drop_path=rate), None if is_global else _only_window(stage))
        for rate, is_global in zip(rates, stage.global_layers, strict=True)
    ]
    embedding = TokenEmbedding(_positions(stage), stage.width, stage.registers)
    return ViTStage([embedding, *layers], stage.width // heads if stage.positions == "rotary" else None)


def _positions(stage: StageSpec) -> nn.Module:
    """Return the module that tells tokens of a map their positions; rotations are the attention's part."""
    if stage.positions is None:
        return PositionEmbedding(stage.width, _required(stage.grid))
    return PreConv(stage.width, stage.width) if stage.positions == "conditional" else nn.Identity()


# Builders of the stages of each block. The fields that they read are listed in `search_space.stage.BLOCK_FIELDS`.
BLOCK_BUILDERS: dict[str, Callable[[StageSpec, Sequence[float]], Stage]] = {
    "c2f": _c2f,
    "light_c2f": _c2f,
    "basic": _each(lambda stage, rate: Basic(stage.width, _hidden(stage), rate)),
    "bottleneck": _each(
        lambda stage, rate: Bottleneck(stage.width, _hidden(stage), rate, stage.group_width, _squeeze(stage))
    ),
    "mbconv": _each(lambda stage, rate: MBConv(stage.width, _hidden(stage), rate, _squeeze(stage), stage.kernel_size)),
    "fused_mbconv": _each(lambda stage, rate: FusedMBConv(stage.width, _hidden(stage), rate)),
    "convnext": _each(lambda stage, rate: ConvNeXt(stage.width, _hidden(stage), rate, stage.kernel_size)),
    "repdw": _repdw,
    "pool": _each(lambda stage, rate: PoolMixer(stage.width, _hidden(stage), rate)),
    "window": _windowed,
    "mr_window": _windowed,
    "attention": _each(lambda stage, rate: GlobalBlock(_layer(stage, None, rate), _pre_conv(stage))),
    "linear_attention": _each(
        lambda stage, rate: LinearAttention(stage.width, _hidden(stage), _required(stage.heads), rate)
    ),
    "single_head": _each(_single_head),
    "bn_attention": _each(_bn_attention),
    "swin": _swin,
    "maxvit": _each(_maxvit),
    "carrier": _carrier,
    "vit": _vit,
}


def _drop_path_rates(spec: ArchSpec, last: float) -> list[list[float]]:
    total = sum(stage.depth for stage in spec.stages)
    rates = iter([last * i / max(total - 1, 1) for i in range(total)])
    return [[next(rates) for _ in range(stage.depth)] for stage in spec.stages]


def build_stem(spec: ArchSpec) -> nn.Module:
    """Build the stem: images (B, 3, H, W) -> (B, width of stage 1, H / stride, W / stride)."""
    width = spec.stages[0].width
    if spec.stem_width is not None:
        return conv_stem(spec.stem_width, width)
    return STEM_BUILDERS[spec.stem](width)


def _neck(spec: ArchSpec, widths: tuple[int, ...]) -> Neck | None:
    if spec.neck_dim is None:
        return None
    return Neck(widths[int(spec.neck.removeprefix("stage")) - 1 :], spec.neck_dim)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # Fan-out of one group: with PyTorch's fan-out, depthwise kernels would start sqrt(C) times too small.
        fan_out = module.weight[:, 0].numel() // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
