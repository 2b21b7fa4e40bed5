"""timm's models as backbones, with the same `encode` and the same declared attributes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Self

import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from backbones.backbone import Features, StaysInEval, count_parameters
from backbones.folding import batch_norms_left, fold_batch_norms
from backbones.layers.neck import Neck
from search_space import SpecError, TimmSpec
from search_space.arch import SIZE_MULTIPLE_PX
from search_space.memory import check_memory
from search_space.spaces import PHOTO_PX
from search_space.timm_names import unknown_network

NECK_STRIDE = 16  # of the first map that a neck fuses: teachers' targets have a cell for every 16 px


class TimmBackbone(StaysInEval):
    """A timm model with random weights. Image sizes are restricted by the model; many accept any multiple of 32.

    The spatial map is the last feature map, or that of a neck over the last map of stride 16 and those of the strides
    after it. The summary is the output of the model's own pooling. Models without a head (timm's encoders) or without
    `forward_intermediates` have feature maps only; their summary is the map's mean.

    Args:
        name: Its name in timm.
        neck_dim: Channels of the neck; None: no neck.

    Raises:
        SpecError: timm cannot build it, it does not fit into the memory, or it has no maps for a neck.
    """

    fuses_parts = True
    num_classes = 0
    traces_any_size = False  # as far as is known here, see `Backbone.traces_any_size`

    def __init__(self, name: str, neck_dim: int | None = None) -> None:
        super().__init__()
        self.model: Any
        check_name(name)
        _check_size(name)
        self.name = name
        self.model, self.model_args = _create_flexible(name, num_classes=0)
        self.has_head = all(hasattr(self.model, method) for method in ("forward_intermediates", "get_classifier"))
        if not self.has_head:
            self.model, self.model_args = _create_flexible(name, features_only=True)
        info = self.feature_info
        self.widths = tuple(int(i["num_chs"]) for i in info)
        self.strides = tuple(int(i["reduction"]) for i in info)
        self.spatial_dim, self.spatial_stride = self.widths[-1], self.strides[-1]
        self.num_features = int(self.model.num_features) if self.has_head else self.spatial_dim
        self.neck = None if neck_dim is None else Neck([self.widths[i] for i in self._fused_maps()], neck_dim)
        if neck_dim is not None:
            self.spatial_dim, self.spatial_stride = neck_dim, NECK_STRIDE
        self.summary_dim = int(getattr(self.model, "head_hidden_size", None) or self.num_features)
        self.input_px = int(self.model.default_cfg["input_size"][-1])
        self.batch_norms_left: int | None = None  # set by `fuse`; 0 if every BatchNorm is folded

    @property
    def spec(self) -> TimmSpec:
        """The network as a spec."""
        return TimmSpec(self.name, None if self.neck is None else self.spatial_dim)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """`num_chs`, `reduction` and `module` of each feature map, as timm declares them."""
        info = self.model.feature_info
        return list(info if isinstance(info, Sequence) else info.get_dicts())

    def encode(self, x: Tensor) -> Features:
        """Return summary (B, summary_dim) and spatial map (B, spatial_dim, h, w) of images (B, 3, H, W)."""
        last, maps = self.forward_intermediates(x, indices=1 if self.neck is None else self._fused_maps())
        return Features(self.forward_head(last), maps[-1] if self.neck is None else self.neck(maps))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of timm's `forward_features`, or the last map of models without a head."""
        y: Tensor = self.model.forward_features(x) if self.has_head else self._maps(x)[-1]
        return y

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None, **options: Any) -> Any:
        """Return the last features and a list of maps (B, C, h, w), as timm's `forward_intermediates`.

        Models without a head accept no `options`, and their last features are the last map.
        """
        if self.has_head:
            return self.model.forward_intermediates(x, indices=indices, **{"output_fmt": "NCHW"} | options)
        if options:
            raise ValueError(f"{next(iter(options))}: timm:{self.name} has feature maps only and accepts no options")
        maps = self._maps(x)
        requested = range(-indices, 0) if isinstance(indices, int) else range(len(maps)) if indices is None else indices
        return maps[-1], [maps[i] for i in requested]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the summary (B, summary_dim) of `forward_features`; without logits, `pre_logits` has no effect."""
        y: Tensor = self.model.forward_head(x, pre_logits=True) if self.has_head else x.mean((2, 3))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Return the summary (B, summary_dim), as there is no classifier."""
        return self.encode(x).summary

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward pass recomputes activations; SpecError where the model cannot."""
        try:
            self.model.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError):  # as timm's models without it say
            raise SpecError(f"timm:{self.name}: it cannot recompute activations") from None

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the network itself exempts from weight decay."""
        own = self.model.no_weight_decay() if hasattr(self.model, "no_weight_decay") else ()
        return {f"model.{name}" for name in own}

    def fuse(self) -> Self:
        """Reparameterize the model with timm, then fold each BatchNorm that is the only reader of a convolution.

        `batch_norms_left` counts the others: those before a convolution or on a skip. They stay in eval mode. Networks
        of half precision are folded in fp32, whose rounding `fold_batch_norms` allows.
        """
        parameter = next(self.parameters())
        device, dtype = parameter.device, parameter.dtype
        self.to(folding := torch.promote_types(dtype, torch.float32))
        reparameterize_model(self.model, inplace=True)
        images = torch.randn(1, 3, self.input_px, self.input_px, device=device, dtype=folding)
        fold_batch_norms(self, self.encode, images)
        self.to(dtype)
        self.batch_norms_left = batch_norms_left(self)
        self.deployed = True
        return self

    def stage_modules(self) -> list[tuple[str, nn.Module]]:
        """Return names and modules of the model's direct children, and the neck."""
        return [*self.model.named_children(), *([] if self.neck is None else [("neck", self.neck)])]

    def _fused_maps(self) -> list[int]:
        """Return the indices of the maps that a neck fuses: the last one of each stride from 16 on."""
        last = {stride: i for i, stride in enumerate(self.strides) if stride >= NECK_STRIDE}
        if list(last) != [NECK_STRIDE * 2**i for i in range(len(last))] or not last:
            strides = ", ".join(map(str, dict.fromkeys(self.strides)))
            raise SpecError(f"arch: timm:{self.name}: a neck needs maps of stride 16, 32 and so on; it has {strides}")
        return list(last.values())

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model(x)
        channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        return [y.permute(0, 3, 1, 2) for y in maps] if channels_last else maps


def check_name(name: str) -> None:
    """Raise SpecError, with similar names, unless timm has a model of this name."""
    if not timm.is_model(name):
        raise unknown_network(name)


def image_px(name: str) -> int:
    """Return the side in px of the images that timm declares for a network; 224 where that is no multiple of 32.

    Raises:
        SpecError: timm has no such network.
    """
    check_name(name)
    declared = timm.get_pretrained_cfg(name)  # None for an earlier name of a network
    px = PHOTO_PX if declared is None else int(declared.input_size[-1])
    return PHOTO_PX if px % SIZE_MULTIPLE_PX else px


@cache
def _check_size(name: str) -> None:
    """Raise SpecError for a network whose parameters do not fit into this machine's memory."""
    with (
        suppress(RuntimeError, NotImplementedError),
        torch.device("meta"),
    ):  # some networks compute while they are built
        check_memory(f"timm:{name}", count_parameters(create(name, num_classes=0)))


def create(name: str, **options: Any) -> nn.Module:
    """Build a timm model with random weights, for any image size where its constructor has such an option."""
    return _create_flexible(name, **options)[0]


def _create_flexible(name: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model of `create`, and the option of its constructor that lets it take any image size."""
    for flexible in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **options, **flexible)
        except TypeError:  # the model has no such argument
            continue
        except RuntimeError as error:  # an unknown tag after the name's dot
            raise SpecError(f"arch: timm:{name}: {error}") from None
        return model, dict(flexible)
    raise SpecError(f"arch: timm:{name} cannot be built with {', '.join(options)}")
