"""The families that E-RADIO's paper compares with, and others, as specs. "like_": none equals its namesake exactly.

All have the macro layout of our specs: a stem, stages of equal blocks, a downsampling layer between stages, BatchNorm
wherever it can be folded, and a last BatchNorm. In the papers the first block of a stage downsamples. The original
networks are available as `timm:NAME`.

The table has million parameters / GMACs of our spec, of the namesake without its classifier (timm's build; FasterViT's
from its paper), and as its paper reports them. Images have 224 px, 384 px for EfficientNetV2, 256 px for SHViT, the ViT
with registers and DINOv3.

| preset                | ours         | namesake     | its paper    | arXiv      |
|-----------------------|--------------|--------------|--------------|------------|
| like_resnet18         | 12.7 / 1.90  | 11.2 / 1.81  | 11.7 / 1.8   | 1512.03385 |
| like_resnet50         | 24.2 / 3.92  | 23.5 / 4.09  | 25.6 / 3.8   | 1512.03385 |
| like_regnetx_032      | 15.0 / 3.15  | 14.3 / 3.18  | 15.3 / 3.2   | 2003.13678 |
| like_regnety_016      | 11.2 / 1.60  | 10.3 / 1.61  | 11.2 / 1.6   | 2003.13678 |
| like_convnext_tiny    | 27.8 / 4.46  | 27.8 / 4.46  | 29 / 4.5     | 2201.03545 |
| like_efficientnetv2_s | 19.7 / 8.53  | 19.9 / 8.37  | 22 / 8.8     | 2104.00298 |
| like_efficientvit_b1  | 4.8 / 0.53   | 4.6 / 0.52   | 9.1 / 0.52   | 2205.14756 |
| like_efficientvit_l1  | 38.6 / 5.11  | 38.0 / 5.17  | 53 / 5.3     | 2205.14756 |
| like_hgnetv2_b4       | 13.6 / 2.68  | 13.6 / 2.73  | -            | 2304.08069 |
| like_swin_tiny        | 27.5 / 4.49  | 27.5 / 4.49  | 29 / 4.5     | 2103.14030 |
| like_maxvit_tiny      | 32.2 / 5.04  | 30.1 / 5.55  | 31 / 5.6     | 2204.01697 |
| like_poolformer_s12   | 11.4 / 1.81  | 11.4 / 1.81  | 12 / 1.8     | 2111.11418 |
| like_fastervit_0      | 28.2 / 3.38  | 30.9 / 3.3   | 31.4 / 3.3   | 2306.06189 |
| like_repvit_m0_9      | 4.8 / 0.82   | 4.7 / 0.82   | 5.1 / 0.8    | 2307.09283 |
| like_shvit_s4         | 16.1 / 0.97  | 16.1 / 0.99  | 16.5 / 0.99  | 2401.16456 |
| like_levit_256        | 17.9 / 1.13  | 17.9 / 1.13  | 18.9 / 1.12  | 2104.01136 |
| like_vit_base16       | 85.8 / 17.47 | 85.8 / 17.56 | 86 / 17.6    | 2010.11929 |
| like_samvit_base16    | 85.8 / 17.47 | 85.7 / 17.52 | -            | 2304.02643 |
| like_vit_medium_reg4  | 38.4 / 10.75 | 38.4 / 10.75 | -            | 2309.16588 |
| like_vitdet_medium    | 38.3 / 8.00  | 38.3 / 8.12  | -            | 2203.16527 |
| like_dinov3_small16   | 21.6 / 6.25  | 21.6 / 6.25  | 21 / -       | 2508.10104 |

ResNet cannot be matched closer than 14 %: where it has one block that downsamples, our spec has a downsampling layer
and a block. EfficientViT's paper counts heads of 4.5 and 15 M. ResNet-50's 3.8 GMACs are of the version whose 1x1
convolutions downsample; in timm's version they don't. like_vitdet_medium's namesake is that of like_vit_medium_reg4 at
224 px, where the windows are the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_space.arch import ArchSpec
from search_space.stage import StageSpec


def _stages(
    block: str, depths: Sequence[int], widths: Sequence[int], head_width: int | None = None, **fields: Any
) -> tuple[StageSpec, ...]:
    """Return stages of one block that differ in depth, width and number of heads only."""
    return tuple(
        StageSpec(block, depth, width, heads=width // head_width if head_width else None, **fields)
        for depth, width in zip(depths, widths, strict=True)
    )


FAMILIES: dict[str, ArchSpec] = {
    "like_resnet18": ArchSpec(
        _stages("basic", (2, 2, 2, 2), (64, 128, 256, 512), expansion=1.0), stem="overlap", downsampling="pool"
    ),
    "like_resnet50": ArchSpec(
        _stages("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048), expansion=0.25),
        stem="overlap",
        downsampling="pool",
    ),
    "like_regnetx_032": ArchSpec(
        _stages("bottleneck", (2, 6, 15, 2), (96, 192, 432, 1008), expansion=1.0, group_width=48),
        stem_width=32,
        downsampling="pool",
    ),
    "like_regnety_016": ArchSpec(
        _stages("bottleneck", (2, 6, 17, 2), (48, 120, 336, 888), expansion=1.0, group_width=24, squeeze=0.25),
        stem_width=32,
        downsampling="pool",
    ),
    "like_convnext_tiny": ArchSpec(
        _stages("convnext", (3, 3, 9, 3), (96, 192, 384, 768), expansion=4.0), stem="patch", downsampling="patch"
    ),
    # The paper's six stages have 2, 4, 4, 6, 9 and 15 blocks; its first is at stride 2, its fourth and fifth at 16. Our
    # downsampling layers are blocks there.
    "like_efficientnetv2_s": ArchSpec(
        _stages("fused_mbconv", (4, 3), (48, 64), expansion=4.0)
        + _stages("mbconv", (11, 14), (160, 256), expansion=6.0, squeeze=0.25),
        stem_width=24,
        downsampling="mbconv",
        downsampling_expansion=4.0,
    ),
    "like_efficientvit_b1": ArchSpec(
        _stages("mbconv", (2, 3), (32, 64), expansion=4.0)
        + _stages("linear_attention", (3, 4), (128, 256), head_width=16, expansion=4.0),
        stem_width=16,
    ),
    # The paper's depths are 1, 1, 6 and 6 after one block at stride 2. It downsamples by fused_mbconv of expansion 16
    # before the first two stages, by mbconv of expansion 16 and 24 before the last two.
    "like_efficientvit_l1": ArchSpec(
        _stages("fused_mbconv", (2, 1), (64, 128), expansion=4.0)
        + _stages("mbconv", (7,), (256,), expansion=4.0)
        + _stages("linear_attention", (6,), (512,), head_width=32, expansion=6.0),
        stem_width=32,
        downsampling="mbconv",
        downsampling_expansion=24.0,
    ),
    # HGNetV2 has 6, 6, 18 and 6 convolutions of these hidden widths, light in the last two stages; a block of six
    # concatenates the outputs of all, ours of every second one. It downsamples by depthwise convolutions.
    "like_hgnetv2_b4": ArchSpec(
        (
            StageSpec("c2f", 4, 128, expansion=48 / 128),
            StageSpec("c2f", 3, 512, expansion=96 / 512),
            StageSpec("light_c2f", 9, 1024, expansion=192 / 1024),
            StageSpec("light_c2f", 3, 2048, expansion=384 / 2048),
        ),
        stem_width=32,
        downsampling="pool",
    ),
    "like_swin_tiny": ArchSpec(
        _stages("swin", (2, 2, 6, 2), (96, 192, 384, 768), head_width=32, expansion=4.0, window=7),
        stem="patch",
        downsampling="patch",
    ),
    "like_maxvit_tiny": ArchSpec(
        _stages("maxvit", (2, 2, 5, 2), (64, 128, 256, 512), head_width=32, expansion=4.0, window=7, squeeze=0.25),
        stem_width=64,
    ),
    "like_poolformer_s12": ArchSpec(_stages("pool", (2, 2, 6, 2), (64, 128, 320, 512), expansion=4.0), stem="overlap"),
    # At 224 px the last stage is one window, which needs no carriers; the paper leaves them out as well.
    "like_fastervit_0": ArchSpec(
        _stages("basic", (2, 3), (64, 128), expansion=1.0)
        + _stages("carrier", (6,), (256,), head_width=32, expansion=4.0, window=7, cpb_hidden=512)
        + _stages("swin", (5,), (512,), head_width=32, expansion=4.0, window=7),
        stem_width=64,
    ),
    # The paper's depths are 2, 2, 14 and 2. It downsamples with a block before and an MLP after: blocks of our stages.
    "like_repvit_m0_9": ArchSpec(
        _stages("repdw", (3, 4, 16, 3), (48, 96, 192, 384), expansion=2.0, squeeze=0.25),
        stem_width=24,
        downsampling="pool",
    ),
    # The paper's depths are 4, 7 and 6. Its downsampling layers have squeeze-excitation, and a block without attention
    # before and after them: these are blocks of our last two stages.
    "like_shvit_s4": ArchSpec(
        _stages("repdw", (4,), (224,), expansion=2.0)
        + _stages("single_head", (9, 8), (336, 448), expansion=2.0, key_width=16),
        stem="conv16",
        downsampling="mbconv",
        downsampling_expansion=4.0,
    ),
    "like_levit_256": ArchSpec(
        _stages("bn_attention", (4,), (256,), head_width=64, expansion=2.0, key_width=32, grid=14)
        + _stages("bn_attention", (4,), (384,), head_width=64, expansion=2.0, key_width=32, grid=7)
        + _stages("bn_attention", (4,), (512,), head_width=64, expansion=2.0, key_width=32, grid=4),
        stem="conv16",
        downsampling="attention",
    ),
    # As in RADIO: one stage at stride 16, position embeddings interpolated from a 14 x 14 grid.
    "like_vit_base16": ArchSpec(_stages("vit", (12,), (768,), head_width=64, expansion=4.0, grid=14), stem="patch16"),
    # Segment Anything's encoder, which is ViTDet's, has a bias for relative positions as well.
    "like_samvit_base16": ArchSpec(
        _stages("vit", (12,), (768,), head_width=64, expansion=4.0, grid=14, window=14, global_every=3), stem="patch16"
    ),
    "like_vit_medium_reg4": ArchSpec(
        _stages("vit", (12,), (512,), head_width=64, expansion=4.0, grid=16, registers=4), stem="patch16"
    ),
    # The same for 224 px, with ViTDet's windows, as C-RADIOv4 runs its networks at high resolution (arXiv 2601.17237).
    "like_vitdet_medium": ArchSpec(
        _stages(*("vit", (12,), (512,), 64), expansion=4.0, grid=14, window=14, global_every=3, registers=4),
        stem="patch16",
    ),
    # Class token and four registers are five registers here.
    "like_dinov3_small16": ArchSpec(
        _stages("vit", (12,), (384,), head_width=64, expansion=4.0, positions="rotary", registers=5),
        stem="patch16",
        summary="token",
    ),
}
