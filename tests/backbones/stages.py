"""One small stage of every block kind and option: what the block tests run over."""

from search_space import ArchSpec, StageSpec

ATTENTION = {"expansion": 2.0, "heads": 2}
WINDOWED = {**ATTENTION, "window": 2, "cpb_hidden": 8}

STAGES = {
    "c2f": StageSpec("c2f", 2, 16, expansion=0.5),
    "c2f wide": StageSpec("c2f", 1, 16, expansion=1.0),
    "basic": StageSpec("basic", 2, 16, expansion=0.5),
    "bottleneck": StageSpec("bottleneck", 2, 16, expansion=0.25),
    "bottleneck grouped": StageSpec("bottleneck", 1, 16, expansion=1.0, group_width=4),
    "bottleneck squeezed": StageSpec("bottleneck", 1, 16, expansion=0.5, group_width=4, squeeze=0.25),
    "mbconv": StageSpec("mbconv", 2, 16, expansion=2.0),
    "mbconv squeezed": StageSpec("mbconv", 1, 16, expansion=2.0, squeeze=0.25),
    "fused_mbconv": StageSpec("fused_mbconv", 2, 16, expansion=2.0),
    "convnext": StageSpec("convnext", 2, 16, expansion=2.0),
    "pool": StageSpec("pool", 2, 16, expansion=2.0),
    "attention": StageSpec("attention", 2, 16, pre_conv="none", **ATTENTION),
    "attention dense": StageSpec("attention", 1, 16, pre_conv="dense", **ATTENTION),
    "window": StageSpec("window", 2, 16, pre_conv="none", **WINDOWED),
    "window depthwise": StageSpec("window", 1, 16, pre_conv="depthwise", **WINDOWED),
    "mr_window conv": StageSpec("mr_window", 2, 16, pre_conv="dense", subsampling="conv", **WINDOWED),
    "mr_window pool": StageSpec("mr_window", 1, 16, pre_conv="none", subsampling="pool", **WINDOWED),
    "linear_attention": StageSpec("linear_attention", 2, 16, **ATTENTION),
    "swin": StageSpec("swin", 2, 16, window=2, **ATTENTION),
    "swin odd": StageSpec("swin", 2, 16, window=3, **ATTENTION),
    "maxvit": StageSpec("maxvit", 1, 16, window=2, **ATTENTION),
    "maxvit squeezed": StageSpec("maxvit", 1, 16, window=3, squeeze=0.25, **ATTENTION),
    "carrier": StageSpec("carrier", 2, 16, **WINDOWED),
    "carrier odd": StageSpec("carrier", 1, 16, **{**WINDOWED, "window": 3}),
    "vit": StageSpec("vit", 2, 16, grid=3, **ATTENTION),
}


def net(stage, **options):
    """A backbone of that stage four times; a convolutional stem of width 8 unless `options` say otherwise."""
    return ArchSpec((stage,) * 4, **({"stem_width": 8} | options))
