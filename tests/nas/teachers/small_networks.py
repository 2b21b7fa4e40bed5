"""Small networks of the teachers' own architecture classes, in timm's registry: the real path, names included."""

import sys
from dataclasses import replace

import timm
import torch
from safetensors.torch import save_file
from timm.models import (
    eva,
    get_pretrained_cfg,
    register_model,
    swin_transformer,
    vision_transformer,
    vision_transformer_sam,
)
from timm.models._pretrained import DefaultCfg

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
NETWORKS = {  # small name -> (timm's builder, tag, what is smaller)
    "small_dinov2": (vision_transformer.vit_small_patch14_reg4_dinov2, "lvd142m", VIT),
    "small_dinov3": (eva.vit_small_patch16_dinov3, "lvd1689m", VIT),
    "small_clip": (vision_transformer.vit_base_patch16_clip_224, "laion2b", VIT),
    "small_clip_quickgelu": (vision_transformer.vit_base_patch16_clip_quickgelu_224, "openai", VIT),
    "small_siglip": (vision_transformer.vit_base_patch16_siglip_224, "v2_webli", VIT),
    "small_siglip_gap": (vision_transformer.vit_base_patch16_siglip_gap_224, "v2_webli", VIT),
    "samvit_small": (
        vision_transformer_sam.samvit_base_patch16,
        "sa1b",
        {**VIT, "window_size": 4, "global_attn_indexes": (), "neck_chans": 32},
    ),
    "small_swin": (
        swin_transformer.swin_tiny_patch4_window7_224,
        "ms_in1k",
        {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    ),
}


def register():
    """Puts the small networks into timm's registry, once; their weights have no place on any hub."""
    module = sys.modules[__name__]
    module.default_cfgs = getattr(module, "default_cfgs", {})
    for name, (builder, tag, smaller) in NETWORKS.items():
        if timm.is_model(name):
            continue
        config = replace(get_pretrained_cfg(f"{builder.__name__}.{tag}"), hf_hub_id=None, architecture=name, notes=None)
        cfgs = DefaultCfg(cfgs={tag: config}, is_pretrained=True)
        cfgs.tags.append(tag)
        module.default_cfgs[name] = cfgs

        def entry(pretrained=False, builder=builder, smaller=smaller, **given):
            return builder(pretrained, **{**smaller, **given})

        entry.__name__, entry.__module__ = name, __name__
        register_model(entry)


def full_name(name):
    return f"{name}.{NETWORKS[name][1]}"


def seeded(name, **given):
    """The network with every tensor drawn at random: nothing is zero or one that could hide a mistake."""
    torch.manual_seed(3)
    network = timm.create_model(name, **given).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
        for key, buffer in network.named_buffers():
            if "running" in key:
                buffer.uniform_(0.5, 1.5)
    return network


def saved(name, folder, **given):
    """A safetensors file with the seeded network's weights."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        save_file({k: v.contiguous() for k, v in seeded(full_name(name), **given).state_dict().items()}, path)
    return path
