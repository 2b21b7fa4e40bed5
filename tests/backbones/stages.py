"""One small stage of every block kind and option: what the block tests run over."""

from search_space import ArchSpec, StageSpec

ATTENTION = {"expansion": 2.0, "heads": 2}
WINDOWED = {**ATTENTION, "window": 2, "cpb_hidden": 8}

STAGES = {
    "c2f": StageSpec("c2f", 2, 16, expansion=0.5),
    "c2f wide": StageSpec("c2f", 1, 16, expansion=1.0),
    "basic": StageSpec("basic", 2, 16, expansion=0.5),
    "mbconv": StageSpec("mbconv", 2, 16, expansion=2.0),
    "convnext": StageSpec("convnext", 2, 16, expansion=2.0),
    "pool": StageSpec("pool", 2, 16, expansion=2.0),
    "attention": StageSpec("attention", 2, 16, pre_conv="none", **ATTENTION),
    "attention dense": StageSpec("attention", 1, 16, pre_conv="dense", **ATTENTION),
    "window": StageSpec("window", 2, 16, pre_conv="none", **WINDOWED),
    "window depthwise": StageSpec("window", 1, 16, pre_conv="depthwise", **WINDOWED),
    "mr_window conv": StageSpec("mr_window", 2, 16, pre_conv="dense", subsampling="conv", **WINDOWED),
    "mr_window pool": StageSpec("mr_window", 1, 16, pre_conv="none", subsampling="pool", **WINDOWED),
}


def net(stage, **options):
    """A backbone of that stage four times; a convolutional stem of width 8 unless `options` say otherwise."""
    return ArchSpec((stage,) * 4, **({"stem_width": 8} | options))
