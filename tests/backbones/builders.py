"""Small stages of every block kind and option, specs of them, and models whose norms are not trivial."""

import torch

from search_space import ArchSpec, StageSpec

ATTENTION = {"expansion": 2.0, "heads": 2}
WINDOWED = {**ATTENTION, "window": 2, "cpb_hidden": 8}

STAGES = {
    "c2f": StageSpec("c2f", 2, 16, expansion=0.5),
    "c2f wide": StageSpec("c2f", 1, 16, expansion=1.0),
    "c2f kernel": StageSpec("c2f", 1, 16, expansion=0.5, kernel=5),
    "light_c2f": StageSpec("light_c2f", 2, 16, expansion=0.5),
    "light_c2f kernel": StageSpec("light_c2f", 1, 16, expansion=0.5, kernel=3),
    "basic": StageSpec("basic", 2, 16, expansion=0.5),
    "bottleneck": StageSpec("bottleneck", 2, 16, expansion=0.25),
    "bottleneck grouped": StageSpec("bottleneck", 1, 16, expansion=1.0, group_width=4),
    "bottleneck squeezed": StageSpec("bottleneck", 1, 16, expansion=0.5, group_width=4, squeeze=0.25),
    "mbconv": StageSpec("mbconv", 2, 16, expansion=2.0),
    "mbconv squeezed": StageSpec("mbconv", 1, 16, expansion=2.0, squeeze=0.25),
    "mbconv kernel": StageSpec("mbconv", 1, 16, expansion=2.0, kernel=7),
    "fused_mbconv": StageSpec("fused_mbconv", 2, 16, expansion=2.0),
    "convnext": StageSpec("convnext", 2, 16, expansion=2.0),
    "convnext kernel": StageSpec("convnext", 1, 16, expansion=2.0, kernel=5),
    "repdw": StageSpec("repdw", 2, 16, expansion=2.0),
    "repdw squeezed": StageSpec("repdw", 3, 16, expansion=2.0, squeeze=0.25),
    "repdw kernel": StageSpec("repdw", 1, 16, expansion=2.0, kernel=5),
    "pool": StageSpec("pool", 2, 16, expansion=2.0),
    "attention": StageSpec("attention", 2, 16, pre_conv="none", **ATTENTION),
    "attention dense": StageSpec("attention", 1, 16, pre_conv="dense", **ATTENTION),
    "window": StageSpec("window", 2, 16, pre_conv="none", **WINDOWED),
    "window depthwise": StageSpec("window", 1, 16, pre_conv="depthwise", **WINDOWED),
    "mr_window conv": StageSpec("mr_window", 2, 16, pre_conv="dense", subsampling="conv", **WINDOWED),
    "mr_window pool": StageSpec("mr_window", 1, 16, pre_conv="none", subsampling="pool", **WINDOWED),
    "linear_attention": StageSpec("linear_attention", 2, 16, **ATTENTION),
    "single_head": StageSpec("single_head", 2, 16, expansion=2.0, key_width=4),
    "bn_attention": StageSpec("bn_attention", 2, 16, expansion=2.0, heads=3, key_width=4, grid=2),
    "swin": StageSpec("swin", 2, 16, window=2, **ATTENTION),
    "swin odd": StageSpec("swin", 2, 16, window=3, **ATTENTION),
    "maxvit": StageSpec("maxvit", 1, 16, window=2, **ATTENTION),
    "maxvit squeezed": StageSpec("maxvit", 1, 16, window=3, squeeze=0.25, **ATTENTION),
    "carrier": StageSpec("carrier", 2, 16, **WINDOWED),
    "carrier odd": StageSpec("carrier", 1, 16, **{**WINDOWED, "window": 3}),
    "vit": StageSpec("vit", 2, 16, grid=3, **ATTENTION),
    "vit windows": StageSpec("vit", 4, 16, grid=3, window=5, global_every=2, registers=4, **ATTENTION),
    "vit conditional": StageSpec(
        "vit", 1, 16, expansion=8.0, heads=2, window=2, positions="conditional", mlp="swiglu", layer_scale=0.5
    ),
    "vit rotary": StageSpec(
        "vit", 2, 16, window=3, global_every=2, registers=1, positions="rotary", layer_scale=0.5, **ATTENTION
    ),
}

# Names of stages: the first of every block, and the vit whose layers differ.
KINDS = (*{spec.block: name for name, spec in reversed(STAGES.items())}.values(), "vit windows")


def spec_of(stage, **options):
    """Return a spec of four equal stages; by default with a convolutional stem of width 8."""
    return ArchSpec((stage,) * 4, **({"stem_width": 8} | options))


def calibrate(model):
    """Set the statistics of every norm to those of its input, so that activations stay of order 1 in eval mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    model.train().encode(torch.randn(8, 3, 64, 64))


def randomized(module):
    """Return `module` in eval mode, its norms and weights far from the initial ones, so that folding has an effect."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module.eval()


@torch.no_grad()
def outputs(model, x):
    """Return all outputs of a backbone by name."""
    features, stages = model.forward_intermediates(x)
    pooled, neck = model.encode(x)
    named = {f"stage{i}": stage for i, stage in enumerate(stages)}
    return named | {"features": features, "pooled": pooled, "neck": neck, "logits": model(x)}
