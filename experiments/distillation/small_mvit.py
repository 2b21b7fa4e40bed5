"""A small MViTv2 (arXiv 2112.01526) as a network of timm, whose own smallest one has 755 MMACs at 96 px."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

WIDTH = 32  # mvitv2_tiny has 96
DEPTHS = (1, 2, 5, 2)  # those of mvitv2_tiny

default_cfgs = generate_default_cfgs({"mvitv2_32_wide": {"input_size": (3, 96, 96)}})


@register_model
def mvitv2_32_wide(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build timm's mvitv2_tiny with a third of its width, with random weights."""
    config = MultiScaleVitCfg(depths=DEPTHS, embed_dim=WIDTH)
    network: nn.Module = build_model_with_cfg(MultiScaleVit, "mvitv2_32_wide", pretrained, model_cfg=config, **options)
    return network
