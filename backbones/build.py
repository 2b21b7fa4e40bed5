"""From a spec to a network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from backbones.backbone import Backbone
from backbones.layers.attention import Attention, TransformerLayer
from backbones.layers.conv import Basic, C2f, MBConv, PreConv
from backbones.layers.mlp import ConvNeXt, Mlp, PoolMixer
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
from backbones.layers.window import GlobalBlock, WindowBlock, WindowStage
from search_space import ArchSpec, StageSpec

DOWNSAMPLINGS = {"conv": conv_downsampling, "patch": patch_downsampling, "pool": pool_downsampling}
RESAMPLINGS = {"conv": conv_resample, "pool": pool_resample}
CHAINED = {"basic": Basic, "mbconv": MBConv, "convnext": ConvNeXt, "pool": PoolMixer}


def build(spec: ArchSpec) -> Backbone:
    """The network that `spec` describes, freshly initialised with torch's global generator, in training mode."""
    widths = tuple(stage.width for stage in spec.stages)
    down = DOWNSAMPLINGS[spec.downsampling]
    backbone = Backbone(
        spec,
        stem=_stem(spec),
        stages=[build_stage(stage) for stage in spec.stages],
        downs=[down(a, b) for a, b in pairwise(widths)],
        widths=widths,
        neck=_neck(spec, widths),
    )
    if not next(backbone.parameters()).is_meta:  # drawing nothing takes as long as the rest of a build
        backbone.apply(_initialise)
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return backbone


def build_stage(stage: StageSpec) -> nn.Module:
    """One stage: (B, width, H, W) -> (B, width, H, W)."""
    if stage.block == "c2f":
        return C2f(stage.width, stage.depth, _hidden(stage))
    if stage.block in CHAINED:
        block = CHAINED[stage.block]
        return nn.Sequential(*(block(stage.width, _hidden(stage)) for _ in range(stage.depth)))
    if stage.block == "attention":
        return nn.Sequential(*(GlobalBlock(_layer(stage), _pre_conv(stage)) for _ in range(stage.depth)))
    return _window_stage(stage)


def _window_stage(stage: StageSpec) -> nn.Module:
    assert stage.window is not None
    blocks = []
    for _ in range(stage.depth):
        if stage.subsampling is not None:
            resample = RESAMPLINGS[stage.subsampling](stage.width, 2)
            blocks.append(WindowBlock(_layer(stage), stage.window, resample=resample))
        blocks.append(WindowBlock(_layer(stage), stage.window, _pre_conv(stage)))
    return WindowStage(blocks, step=stage.window * (1 if stage.subsampling is None else 2))


def _layer(stage: StageSpec) -> TransformerLayer:
    assert stage.heads is not None
    attention = Attention(stage.width, stage.heads, stage.window, stage.cpb_hidden or 0)
    return TransformerLayer(stage.width, attention, Mlp(stage.width, _hidden(stage)))


def _pre_conv(stage: StageSpec) -> PreConv | None:
    if stage.pre_conv == "none":
        return None
    return PreConv(stage.width, groups=stage.width if stage.pre_conv == "depthwise" else 1)


def _hidden(stage: StageSpec) -> int:
    assert stage.expansion is not None
    return int(stage.width * stage.expansion)


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
