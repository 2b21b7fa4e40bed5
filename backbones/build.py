"""From a spec to a network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from backbones.backbone import Backbone
from backbones.layers.attention import Attention, TransformerLayer
from backbones.layers.conv import Basic, C2f, MBConv, PreConv
from backbones.layers.mlp import ConvNeXt, Mlp, PoolMixer, SwiGlu
from backbones.layers.neck import Neck
from backbones.layers.resample import (
    conv_downsampling,
    conv_resample,
    conv_stem,
    overlap_stem,
    patch_downsampling,
    patch_stem,
    pool_downsampling,
    pool_resample,
)
from backbones.layers.stage import Stage
from backbones.layers.window import GlobalBlock, WindowBlock
from search_space import ArchSpec, StageSpec

DOWNSAMPLINGS = {"conv": conv_downsampling, "patch": patch_downsampling, "pool": pool_downsampling}
RESAMPLINGS = {"conv": conv_resample, "pool": pool_resample}
CHAINED = {"basic": Basic, "mbconv": MBConv, "convnext": ConvNeXt, "pool": PoolMixer}


def build(spec: ArchSpec, drop_path_rate: float = 0.0) -> Backbone:
    """The network that `spec` describes, freshly initialised with torch's global generator, in training mode.

    drop_path_rate: stochastic depth of the last block; the rate rises linearly from 0 at the first.
    """
    widths = tuple(stage.width for stage in spec.stages)
    down = DOWNSAMPLINGS[spec.downsampling]
    rates = _drop_path_rates(spec, drop_path_rate)
    backbone = Backbone(
        spec,
        stem=_stem(spec),
        stages=[build_stage(stage, r) for stage, r in zip(spec.stages, rates, strict=True)],
        downs=[down(a, b) for a, b in pairwise(widths)],
        widths=widths,
        neck=_neck(spec, widths),
    )
    if not next(backbone.parameters()).is_meta:  # drawing nothing takes as long as the rest of a build
        backbone.apply(_initialise)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return backbone


def build_stage(stage: StageSpec, drop_path: Sequence[float] | None = None) -> Stage:
    """One stage: (B, width, H, W) -> (B, width, H, W). drop_path: a rate for each of its `depth` blocks."""
    rates = drop_path or (0.0,) * stage.depth
    if stage.block == "c2f":  # one module with `depth` bottlenecks, and no residual branch to drop
        return Stage([C2f(stage.width, stage.depth, _hidden(stage))])
    if stage.block in CHAINED:
        block = CHAINED[stage.block]
        return Stage([block(stage.width, _hidden(stage), rate) for rate in rates])
    if stage.block == "attention":
        return Stage([GlobalBlock(_layer(stage, None, rate), _pre_conv(stage)) for rate in rates])
    ratios, windows = stage.resolutions
    blocks = [_window_block(stage, *rw, rate) for rate in rates for rw in zip(ratios, windows, strict=True)]
    return Stage(blocks, step=max(windows) * max(ratios))


def _window_block(stage: StageSpec, ratio: int, window: int, drop_path: float) -> WindowBlock:
    layer = _layer(stage, window, drop_path)
    if ratio == 1:
        return WindowBlock(layer, window, _pre_conv(stage))
    assert stage.subsampling is not None
    return WindowBlock(layer, window, resample=RESAMPLINGS[stage.subsampling](stage.width, ratio))


def _layer(stage: StageSpec, window: int | None, drop_path: float) -> TransformerLayer:
    assert stage.heads is not None
    attention = Attention(stage.width, stage.heads, window, stage.cpb_hidden or 0, bool(stage.qkv_bias))
    mlp = SwiGlu(stage.width, _hidden(stage)) if stage.mlp == "swiglu" else Mlp(stage.width, _hidden(stage))
    return TransformerLayer(stage.width, attention, mlp, stage.layer_scale, drop_path)


def _pre_conv(stage: StageSpec) -> PreConv | None:
    if stage.pre_conv == "none":
        return None
    groups = {"depthwise": stage.width, "dense": 1, "grouped": stage.pre_conv_groups}[stage.pre_conv or "none"]
    assert groups is not None
    return PreConv(stage.width, groups)


def _hidden(stage: StageSpec) -> int:
    """Hidden width. A gate makes a third matrix, so SwiGLU takes half of the MLP's, in steps of 64."""
    assert stage.expansion is not None
    if stage.mlp == "swiglu":
        return int(stage.width * stage.expansion / 2) // 64 * 64
    return int(stage.width * stage.expansion)


def _drop_path_rates(spec: ArchSpec, last: float) -> list[list[float]]:
    total = sum(stage.depth for stage in spec.stages)
    rates = iter([last * i / max(total - 1, 1) for i in range(total)])
    return [[next(rates) for _ in range(stage.depth)] for stage in spec.stages]


def _stem(spec: ArchSpec) -> nn.Module:
    width = spec.stages[0].width
    if spec.stem_width is not None:
        return conv_stem(spec.stem_width, width)
    return {"overlap": overlap_stem, "patch": patch_stem}[spec.stem](width)


def _neck(spec: ArchSpec, widths: tuple[int, ...]) -> Neck | None:
    if spec.neck_dim is None:
        return None
    return Neck(widths[int(spec.neck.removeprefix("stage")) - 1 :], spec.neck_dim)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # Fan-out of one group: depthwise kernels would start sqrt(C) times too small with PyTorch's own fan-out.
        fan_out = module.weight[:, 0].numel() // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
