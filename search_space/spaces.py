"""The search spaces by name."""

from __future__ import annotations

from dataclasses import replace

from search_space.arch import ArchSpec
from search_space.genes import Layout, StageChoices
from search_space.space import Space
from search_space.stage import KERNELS, POSITIONS, SUBSAMPLINGS, UNGROUPED_PRE_CONVS

CONV_BLOCKS = ("c2f", "basic", "mbconv", "convnext", "pool")
ALL_BLOCKS = (*CONV_BLOCKS, "window", "mr_window", "attention")
ZOO_CONV_BLOCKS = ("light_c2f", "bottleneck", "fused_mbconv", "repdw")
ZOO_BLOCKS = (*ZOO_CONV_BLOCKS, "linear_attention", "single_head", "bn_attention", "swin", "maxvit", "carrier", "vit")
PHOTO_PX = 224  # for specs of no space
STEMS4 = ("conv", "overlap", "patch")  # those of stride 4
STEMS16 = ("conv16", "patch16")
PLAIN_DOWNSAMPLINGS = ("conv", "patch", "pool")
DOWNSAMPLINGS16 = (*PLAIN_DOWNSAMPLINGS, "attention")  # whose cost grows with the square of a map's places
FAST_BLOCKS = ("light_c2f", "repdw", "single_head", "bn_attention")
NECK_DIMS = (256, 512, 1024, 1536)
SQUEEZES = (None, 0.25)
KEY_WIDTHS = (16, 32)
REGISTERS = (None, 4)
NECKS = ("none", "stage2", "stage3")

# For 64 px inputs: maps of 16, 8, 4 and 2 tokens a side, so attention starts at stage 3 and windows are 2 or the map.
# Depths and widths end where a training step of 32 images takes about 0.1 s on one CPU thread. The space is frozen,
# because results of its searches are published.
MICRO = Space(
    name="micro",
    stages=(
        StageChoices(
            blocks=CONV_BLOCKS,
            depths=(1, 2),
            widths=(16, 24, 32),
            conv_expansions=(0.5, 1.0),
            mlp_expansions=(1.0, 2.0, 4.0),
        ),
        StageChoices(
            blocks=CONV_BLOCKS,
            depths=(1, 2),
            widths=(32, 48, 64),
            conv_expansions=(0.5, 1.0),
            mlp_expansions=(1.0, 2.0, 4.0),
        ),
        StageChoices(
            blocks=ALL_BLOCKS,
            depths=(1, 2, 3),
            widths=(64, 96, 128, 160),
            conv_expansions=(0.5, 1.0),
            mlp_expansions=(1.0, 2.0, 4.0),
            heads=(2, 4, 8),
            pre_convs=UNGROUPED_PRE_CONVS,
            windows=(2, 4),
            mr_windows=(2,),
            subsamplings=SUBSAMPLINGS,
        ),
        StageChoices(
            blocks=("c2f", "basic", "mbconv", "convnext", "pool", "window", "attention"),
            depths=(1, 2),
            widths=(96, 128, 192, 256),
            conv_expansions=(0.5, 1.0),
            mlp_expansions=(1.0, 2.0, 4.0),
            heads=(4, 8, 16),
            pre_convs=UNGROUPED_PRE_CONVS,
            windows=(2,),
        ),
    ),
    layouts=(Layout(STEMS4, PLAIN_DOWNSAMPLINGS, stem_widths=(8, 16, 24), necks=NECKS, neck_dims=(64, 128, 192, 256)),),
    image_px=64,
    reference="eradio_pico",
    baselines=("eradio_femto", "eradio_pico", "eradio_nano"),
)

# Like "micro", which it contains, with the blocks and layouts of today's fast networks.
LAPTOP = Space(
    name="laptop",
    stages=(
        replace(MICRO.stages[0], blocks=(*CONV_BLOCKS, "light_c2f", "repdw"), squeezes=SQUEEZES, kernels=KERNELS),
        replace(MICRO.stages[1], blocks=(*CONV_BLOCKS, "light_c2f", "repdw"), squeezes=SQUEEZES, kernels=KERNELS),
        replace(
            MICRO.stages[2],
            blocks=(*ALL_BLOCKS, *FAST_BLOCKS),
            depths=(1, 2, 3, 4, 6),
            widths=(64, 96, 128, 160, 192),
            squeezes=SQUEEZES,
            key_widths=(8, 16),
            kernels=KERNELS,
            grid=4,
        ),
        replace(
            MICRO.stages[3],
            blocks=(*MICRO.stages[3].blocks, *FAST_BLOCKS),
            depths=(1, 2, 3),
            squeezes=SQUEEZES,
            key_widths=(8, 16),
            grid=2,
        ),
    ),
    layouts=(
        Layout(STEMS4, PLAIN_DOWNSAMPLINGS, (8, 16, 24), NECKS, (64, 128, 192, 256), last_strides=(16, 32)),
        Layout(STEMS16, PLAIN_DOWNSAMPLINGS, (), ("none", "stage3"), (64, 128, 192, 256), last_strides=(16, 32)),
    ),
    image_px=64,
    reference="eradio_pico",
    baselines=(*MICRO.baselines, "timm:starnet_s050", "timm:resnet10t"),  # see experiments.timm_baselines
)

# For 224 px inputs: maps of 56, 28, 14 and 7 tokens a side; of 14, 7 and 4 for stems of stride 16.
FULL = Space(
    name="full",
    stages=(
        StageChoices(
            blocks=(*CONV_BLOCKS, *ZOO_CONV_BLOCKS),
            depths=(1, 2, 3, 4),
            widths=(32, 48, 64, 80, 96, 128, 192),
            conv_expansions=(0.25, 0.5, 1.0),
            mlp_expansions=(2.0, 3.0, 4.0, 6.0),
            group_widths=(None, 4),
            squeezes=SQUEEZES,
            kernels=KERNELS,
        ),
        StageChoices(
            blocks=(*CONV_BLOCKS, *ZOO_CONV_BLOCKS),
            depths=(1, 2, 3, 4, 6),
            widths=(64, 96, 128, 160, 192, 256, 384),
            conv_expansions=(0.25, 0.5, 1.0),
            mlp_expansions=(2.0, 3.0, 4.0, 6.0),
            group_widths=(None, 8),
            squeezes=SQUEEZES,
            kernels=KERNELS,
        ),
        StageChoices(
            blocks=(*ALL_BLOCKS, *ZOO_BLOCKS),
            depths=(2, 3, 4, 5, 6, 9, 12),
            widths=(128, 192, 256, 320, 384, 512, 768),
            conv_expansions=(0.25, 0.5, 1.0),
            mlp_expansions=(2.0, 3.0, 4.0, 6.0),
            heads=(4, 8, 16),
            pre_convs=UNGROUPED_PRE_CONVS,
            windows=(7, 14),
            mr_windows=(7,),
            subsamplings=SUBSAMPLINGS,
            cpb_hidden=512,
            vit_windows=(None, 7),
            global_everies=(2,),
            registers=REGISTERS,
            positions=POSITIONS,
            group_widths=(None, 16),
            squeezes=SQUEEZES,
            kernels=KERNELS,
            key_widths=KEY_WIDTHS,
        ),
        StageChoices(
            blocks=("c2f", "basic", "mbconv", "convnext", "pool", "window", "attention", *ZOO_BLOCKS),
            depths=(1, 2, 3, 5, 6),
            widths=(256, 384, 512, 640, 768, 1024, 1536),
            conv_expansions=(0.25, 0.5, 1.0),
            mlp_expansions=(2.0, 3.0, 4.0, 6.0),
            heads=(8, 16, 32),
            pre_convs=UNGROUPED_PRE_CONVS,
            windows=(7,),
            cpb_hidden=512,
            grid=7,
            registers=REGISTERS,
            positions=POSITIONS,
            group_widths=(None, 32),
            squeezes=SQUEEZES,
            kernels=KERNELS,
            key_widths=KEY_WIDTHS,
        ),
        StageChoices(
            blocks=("mbconv", "convnext", "repdw", "attention", "single_head", "bn_attention", "vit"),
            depths=(1, 2, 4, 6),
            widths=(384, 512, 640, 768, 1024),
            mlp_expansions=(2.0, 3.0, 4.0, 6.0),
            heads=(8, 16, 32),
            pre_convs=UNGROUPED_PRE_CONVS,
            grid=4,
            squeezes=SQUEEZES,
            kernels=KERNELS,
            key_widths=KEY_WIDTHS,
        ),
    ),
    layouts=(
        Layout(
            STEMS4,
            (*PLAIN_DOWNSAMPLINGS, "mbconv", "fused_mbconv"),
            (32, 64),
            NECKS,
            NECK_DIMS,
            downsampling_expansions=(4.0, 16.0),
            last_strides=(16, 32),
        ),
        Layout(
            STEMS16,
            (*DOWNSAMPLINGS16, "mbconv"),
            (),
            ("none", "stage3"),
            NECK_DIMS,
            downsampling_expansions=(4.0,),
            last_strides=(16, 32, 64),
        ),
    ),
)

SPACES: dict[str, Space] = {space.name: space for space in (MICRO, LAPTOP, FULL)}


def space_of(spec: ArchSpec) -> Space | None:
    """Return the first space that contains a spec; None where none does."""
    return next((space for space in SPACES.values() if space.contains(spec)), None)
