"""The networks of `experiments.distillation.network_study`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from backbones import Features, TimmBackbone, build_network
from backbones.layers.neck import Neck
from experiments.distillation.small_mvit import mvitv2_32_wide
from search_space import ArchSpec, StageSpec, TimmSpec
from search_space.presets import eradio

NECK_STRIDE, NECK_DIM = 16, 256


@dataclass(frozen=True)
class WithNeck:
    """A network of timm with the neck of E-RADIO, which fuses its maps at stride 16, the targets'.

    Attributes:
        name: The network's name in timm.
    """

    name: str


class BackboneWithNeck(nn.Module):
    """A network of timm, trained from random weights, whose spatial map is that of a neck over its last maps.

    The summary is the network's own. The neck fuses the map of stride 16 and the one after it.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = TimmBackbone(name)
        start = self.backbone.strides.index(NECK_STRIDE)
        self.fused_maps = len(self.backbone.strides) - start
        self.neck = Neck(self.backbone.widths[start:], NECK_DIM)
        self.spatial_dim, self.spatial_stride = NECK_DIM, NECK_STRIDE
        self.summary_dim = self.backbone.summary_dim

    def encode(self, x: Tensor) -> Features:
        """Return summary (B, summary_dim) and map (B, NECK_DIM, H / 16, W / 16) of images (B, 3, H, W)."""
        last, maps = self.backbone.forward_intermediates(x, indices=self.fused_maps)
        return Features(self.backbone.forward_head(last), self.neck(maps))

    def forward(self, x: Tensor) -> Tensor:
        """Return the summary (B, summary_dim)."""
        return self.encode(x).summary

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the network itself exempts from weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


StudiedNetwork = ArchSpec | TimmSpec | WithNeck


def build_studied(network: StudiedNetwork) -> nn.Module:
    """Build a network of a study, with random weights."""
    return BackboneWithNeck(network.name) if isinstance(network, WithNeck) else build_network(network)


@dataclass(frozen=True)
class NetworkStudy:
    """Networks that are trained alike.

    Attributes:
        image_px: Side of the images in px.
        rungs: Steps at which a training is scored; the last is its length.
        reference: Network whose throughput the others' is compared with.
        networks: Each network by its name in tables.
        widths: Networks that are the reference in other widths.
        top1: Published ImageNet accuracy in % of networks that have one.
        attention: Networks with attention in some of their blocks.
        variants: Networks that are another one with a change; agreements of orders leave them and `widths` out.
        images: Training images; None for as many as a search has.
        precision: Of the trainings.
    """

    image_px: int
    rungs: tuple[int, ...]
    reference: str
    networks: Mapping[str, StudiedNetwork]
    widths: tuple[str, ...] = ()
    top1: Mapping[str, float] = field(default_factory=dict)
    attention: frozenset[str] = frozenset()
    variants: frozenset[str] = frozenset()
    images: int | None = None
    precision: str = "fp32"

    @property
    def families(self) -> list[str]:
        """Names of the networks of which none is another one with a change."""
        return [name for name in self.networks if name not in self.variants and name not in self.widths]


def _eradio(stages: Mapping[int, StageSpec] | None = None, width: int = 32, **changes: Any) -> ArchSpec:
    """Return the study's E-RADIO with other stages, counted from 1, another width, or other fields."""
    base = eradio(
        width, depths=(1, 2, 2, 2), window=4, in_dim=16, heads=(4, 8), subsampling="pool", pre_conv="depthwise",
        cpb_hidden=64, neck="stage3", neck_dim=256,
    )  # fmt: skip
    others = stages or {}
    return replace(base, stages=tuple(others.get(i, stage) for i, stage in enumerate(base.stages, start=1)), **changes)


_WIDTHS = {"24 channels wide": 24, "40 channels wide": 40}


def _ablation() -> dict[str, StudiedNetwork]:
    _, _, third, fourth = _eradio().stages
    windowed = {"expansion": 4.0, "pre_conv": "depthwise", "window": 4, "cpb_hidden": 64}
    plain = {"expansion": 4.0, "pre_conv": "depthwise"}
    networks: dict[str, StudiedNetwork] = {
        "E-RADIO": _eradio(),
        "stage 3: 4 windowed layers": _eradio({3: StageSpec("window", 4, 128, heads=4, **windowed)}),
        "stage 3: 2 windowed layers": _eradio({3: StageSpec("window", 2, 128, heads=4, **windowed)}),
        "stage 4: multi-resolution": _eradio({4: replace(fourth, block="mr_window", depth=1, subsampling="pool")}),
        "stages 3, 4: global attention": _eradio(
            {3: StageSpec("attention", 4, 128, heads=4, **plain), 4: StageSpec("attention", 2, 256, heads=8, **plain)}
        ),
        "windows of 2": _eradio({3: replace(third, window=2), 4: replace(fourth, window=2)}),
        "stages 1, 2: residual blocks": _eradio(
            {1: StageSpec("basic", 1, 32, expansion=1.0), 2: StageSpec("basic", 2, 64, expansion=1.0)}
        ),
        "stage 2: multi-resolution": _eradio(
            {2: StageSpec("mr_window", 1, 64, heads=2, subsampling="pool", **windowed)}
        ),
        "stage 3: c2f": _eradio({3: StageSpec("c2f", 4, 128, expansion=0.5)}),
        "all stages: c2f": _eradio(
            {3: StageSpec("c2f", 4, 128, expansion=0.5), 4: StageSpec("c2f", 2, 256, expansion=0.5)}
        ),
        "subsampling: conv": _eradio({3: replace(third, subsampling="conv")}),
        "downsampling: 2x2 patches": _eradio(downsampling="patch"),
        "downsampling: pool": _eradio(downsampling="pool"),
        "no neck": _eradio(neck="none"),
        "MLP: SwiGLU": _eradio({3: replace(third, mlp="swiglu"), 4: replace(fourth, mlp="swiglu")}),
    }
    for pre_conv in ("none", "dense"):
        stages = {3: replace(third, pre_conv=pre_conv), 4: replace(fourth, pre_conv=pre_conv)}
        networks[f"pre-conv: {pre_conv}"] = _eradio(stages)
    # What score costs in throughput by width alone; the heads stay as many.
    return networks | {name: _eradio(width=width) for name, width in _WIDTHS.items()}


# Accuracies of timm's results/results-imagenet.csv (commit 0173a13), for the weights named here; timm writes them.
_TOP1 = {
    "resnet18": 73.158,  # a1_in1k, 288 px
    "regnety_004": 74.028,  # pycls_in1k
    "tf_efficientnetv2_b0": 78.358,  # in1k
    "nf_regnet_b1": 79.306,  # ra2_in1k, 288 px
    "convnext_atto": 77.008,  # d2_in1k, 288 px
    "poolformerv2_s12": 78.004,  # sail_in1k
    "pvt_v2_b0": 70.660,  # in1k
    "xcit_nano_12_p16_224": 69.962,  # fb_in1k
    "vit_tiny_patch16_224": 75.454,  # augreg_in21k_ft_in1k
    "edgenext_xx_small": 71.878,  # in1k, 288 px
    "mobilenetv3_large_100": 75.766,  # ra_in1k
    "ghostnet_100": 73.982,  # in1k
}


# Their last map has stride 16 without a neck.
_PLAIN = ("xcit_nano_12_p16_224", "vit_tiny_patch16_224")
_TIMM_ATTENTION = (*_PLAIN, "pvt_v2_b0", "edgenext_xx_small", "efficientvit_b0")
_MVIT = "MViTv2, 32 wide"
_CONVOLUTIONS = {"basic", "c2f", "repdw"}
_SIZES = {"E-RADIO, 24 wide": 24, "E-RADIO, 64 wide": 64}


def _small_eradio(width: int = 48, **neck: Any) -> ArchSpec:
    return eradio(
        width, depths=(1, 2, 2, 2), window=3, in_dim=16, heads=(4, 8), subsampling="pool", pre_conv="depthwise",
        cpb_hidden=64, **neck,
    )  # fmt: skip


def _with_windows(block: str, depths: tuple[int, ...], **fields: Any) -> ArchSpec:
    stages = (
        StageSpec(block, depth, 32 * 2**i, heads=2 ** (i + 1), expansion=4.0, window=3, **fields)
        for i, depth in enumerate(depths)
    )
    return ArchSpec(tuple(stages), stem_width=24, neck="stage3", neck_dim=NECK_DIM)


def _presets() -> dict[str, StudiedNetwork]:
    """Return our small networks of several families; each has a map of stride 16."""
    neck: dict[str, Any] = {"neck": "stage3", "neck_dim": NECK_DIM}
    vit = StageSpec("vit", 8, 192, heads=3, expansion=4.0, positions="conditional", registers=4)
    fastervit = (
        StageSpec("basic", 1, 32, expansion=1.0),
        StageSpec("basic", 2, 64, expansion=1.0),
        StageSpec("carrier", 3, 128, heads=4, expansion=4.0, window=3, cpb_hidden=64),
        StageSpec("swin", 2, 256, heads=8, expansion=4.0, window=3, cpb_hidden=64),
    )
    repvit = (
        StageSpec("repdw", depth, width, expansion=2.0, squeeze=0.25)
        for depth, width in ((2, 40), (2, 80), (6, 160), (2, 320))
    )
    levit = (
        StageSpec("bn_attention", 3, width, heads=heads, expansion=2.0, key_width=16, grid=6)
        for width, heads in ((128, 4), (256, 6), (384, 8))
    )
    return {
        "E-RADIO": _small_eradio(**neck),
        "Swin": _with_windows("swin", (2, 2, 4, 2)),
        "FasterViT": ArchSpec(fastervit, stem_width=32, **neck),
        "MaxViT": _with_windows("maxvit", (1, 1, 2, 1), squeeze=0.25),
        "RepViT": ArchSpec(tuple(repvit), stem_width=24, downsampling="pool", **neck),
        "LeViT": ArchSpec(
            tuple(levit), stem="conv16", downsampling="attention", neck="stage1", neck_dim=neck["neck_dim"]
        ),
        "ViT": ArchSpec((vit,), stem="patch16"),
        "windowed ViT": ArchSpec((replace(vit, window=3, global_every=4),), stem="conv16"),
        **{name: _small_eradio(width, **neck) for name, width in _SIZES.items()},
    }


def _backbones() -> NetworkStudy:
    timm = (*_TOP1, "efficientvit_b0")
    without_neck = {"E-RADIO, no neck": _small_eradio(), "timm:convnext_atto, no neck": TimmSpec("convnext_atto")}
    networks: dict[str, StudiedNetwork] = {
        **{f"timm:{name}": TimmSpec(name) if name in _PLAIN else WithNeck(name) for name in timm},
        _MVIT: WithNeck(mvitv2_32_wide.__name__),
        **_presets(),
        **without_neck,
    }
    attention = {_MVIT, *(f"timm:{name}" for name in _TIMM_ATTENTION)}
    for name, spec in networks.items():
        if isinstance(spec, ArchSpec) and not {stage.block for stage in spec.stages} <= _CONVOLUTIONS:
            attention.add(name)
    top1 = {f"timm:{name}": accuracy for name, accuracy in _TOP1.items()}
    variants = frozenset(without_neck)
    return NetworkStudy(96, (90, 270, 810), "E-RADIO", networks, tuple(_SIZES), top1, frozenset(attention), variants)


def _fresh() -> NetworkStudy:
    """Return the main networks of the ablation, trained on images that hardly repeat: as in `horizon_table`."""
    chosen = ("E-RADIO", "all stages: c2f", "stage 3: c2f", "stage 3: 2 windowed layers", "no neck", *_WIDTHS)
    networks = {name: network for name, network in _ablation().items() if name in chosen}
    return NetworkStudy(
        64, (270, 810, 2700), "E-RADIO", networks, widths=tuple(_WIDTHS), images=30_000, precision="bf16"
    )


STUDIES = {
    "ablation": NetworkStudy(128, (90, 270, 810), "E-RADIO", _ablation(), widths=tuple(_WIDTHS)),
    "fresh_ablation": _fresh(),
    "backbones": _backbones(),
}
