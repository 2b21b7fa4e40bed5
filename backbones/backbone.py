"""Backbone: a summary vector and a spatial map of an image, with timm's method names around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.layers.window import WindowBlock
from search_space import ArchSpec

SIZE_MULTIPLE_PX = 32
LARGEST_WINDOW = 16


class InputSizeError(ValueError):
    """An image size that the backbone cannot take."""


class Features(NamedTuple):
    """What is distilled and what throughput is measured on."""

    summary: Tensor  # (B, summary_dim)
    spatial: Tensor  # (B, spatial_dim, H / spatial_stride, W / spatial_stride)


class Backbone(nn.Module):
    """Stem, four stages at strides 4, 8, 16 and 32, a last norm, an optional neck and an optional classifier.

    Built by `backbones.build`, which also sets `spec`. Every input is (B, 3, H, W), H and W multiples of 32, any
    memory format; else InputSizeError. `stages[i]` keeps its map's size, `downs[i]` leads from stage i to i + 1.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        spec: ArchSpec,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        downs: Sequence[nn.Module],
        widths: tuple[int, ...],
        neck: nn.Module | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.widths = widths
        self.num_features = self.summary_dim = widths[-1]
        self.neck_start = len(widths) - 1 if neck is None else int(spec.neck.removeprefix("stage")) - 1
        self.spatial_dim = widths[-1] if spec.neck_dim is None else spec.neck_dim
        self.spatial_stride = self.strides[self.neck_start]
        self.num_classes = 0
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.downs = nn.ModuleList(downs)
        self.norm = nn.BatchNorm2d(widths[-1], eps=1e-5)
        self.neck = neck
        self.head: nn.Module = nn.Identity()

    @property
    def feature_info(self) -> list[dict[str, int | str]]:
        """One entry a stage: `num_chs`, `reduction`, `module`, as timm declares them."""
        pairs = zip(self.widths, self.strides, strict=True)
        return [{"num_chs": c, "reduction": r, "module": f"stages.{i}"} for i, (c, r) in enumerate(pairs)]

    def encode(self, x: Tensor) -> Features:
        """Summary and spatial map of images (B, 3, H, W). Without a neck the map is the last stage's, normed."""
        maps = self._stage_maps(x)
        last: Tensor = self.norm(maps[-1])
        summary = last.mean((2, 3))
        return Features(summary, last if self.neck is None else self.neck(maps[self.neck_start :]))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map after the last norm, (B, num_features, H/32, W/32)."""
        y: Tensor = self.norm(self._stage_maps(x)[-1])
        return y

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage outputs before downsampling, and `forward_features`' map before them unless `intermediates_only`.

        indices: which stages (negative count from the end), a number n for the last n, None for all four.
        norm: put the last stage's map through the last norm. stop_early: skip stages after the last wanted one;
        only together with `intermediates_only`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: {output_fmt!r} is not one of NCHW")
        wanted = self._stage_indices(indices)
        stop = stop_early and intermediates_only
        maps = self._stage_maps(x, count=max(wanted, default=-1) + 1 if stop else len(self.stages))
        last = self.norm(maps[-1]) if len(maps) == len(self.stages) else None
        kept = [last if norm and last is not None and i == len(self.stages) - 1 else maps[i] for i in wanted]
        return kept if intermediates_only or last is None else (last, kept)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a map from `forward_features`; pooled (B, num_features) if `pre_logits` or without classifier."""
        pooled = x.mean((2, 3))
        y: Tensor = pooled if pre_logits else self.head(pooled)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes), or the pooled features where `num_classes` is 0."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The classifier; nn.Identity where there is none."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh linear classifier; 0 removes it."""
        if num_classes < 0:
            raise ValueError(f"num_classes: {num_classes} is negative; 0 removes the classifier")
        self.num_classes = num_classes
        device = next(self.parameters()).device
        self.head = nn.Linear(self.num_features, num_classes, device=device) if num_classes else nn.Identity()

    def change_resolution(self, resolution: int | Sequence[int]) -> None:
        """Derive the windows of all windowed stages anew, for images of `resolution` = side or (H, W) px.

        E-RADIO's rule: the largest common divisor of H / 32 and W / 32 up to 16, so that windows tile every map.
        """
        sides = [resolution] * 2 if isinstance(resolution, int) else list(resolution)
        check_input(torch.empty(1, 3, *sides, device="meta"))
        common = math.gcd(*(side // SIZE_MULTIPLE_PX for side in sides))
        window = max(d for d in range(1, LARGEST_WINDOW + 1) if common % d == 0)
        stages = list(self.spec.stages)
        for i, stage in enumerate(self.stages):
            windowed = [block for block in stage.blocks if isinstance(block, WindowBlock)]  # type: ignore[union-attr]
            for block in windowed:
                block.resize(window)
            if windowed:
                stages[i] = replace(stages[i], window=window)
                stage.step = window * max(stages[i].resolutions[0])  # type: ignore[assignment]
        self.spec = replace(self.spec, stages=tuple(stages))

    def stage_modules(self) -> list[tuple[str, nn.Module]]:
        """The parts in the order they run, for per-stage tables: stem, stage1, down1, ..., stage4, norm, neck."""
        parts: list[tuple[str, nn.Module]] = [("stem", self.stem)]
        for i, stage in enumerate(self.stages, start=1):
            parts.append((f"stage{i}", stage))
            parts += [(f"down{i}", self.downs[i - 1])] if i <= len(self.downs) else []
        parts.append(("norm", self.norm))
        return parts if self.neck is None else [*parts, ("neck", self.neck)]

    def _stage_maps(self, x: Tensor, count: int = 4) -> list[Tensor]:
        check_input(x)
        maps: list[Tensor] = []
        # Channels last: tokens are then a view of the map, and convolutions run 1.2 to 1.5 times faster on a CPU.
        y: Tensor = self.stem(x.contiguous(memory_format=torch.channels_last))
        for i in range(count):
            y = self.stages[i](self.downs[i - 1](y) if i else y)
            maps.append(y)
        return maps

    def _stage_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        total = len(self.stages)
        if indices is None:
            return list(range(total))
        wanted = [i - indices for i in range(indices)] if isinstance(indices, int) else list(indices)
        wrong = [i for i in wanted if not -total <= i < total]
        if wrong:
            raise ValueError(f"indices: {wrong[0]} is not a stage; choose from {-total} to {total - 1}")
        return [i % total for i in wanted]


def check_input(x: Tensor) -> None:
    """Raise InputSizeError unless `x` is (B, 3, H, W) with H and W multiples of 32."""
    if x.ndim != 4 or x.shape[1] != 3:
        raise InputSizeError(f"input: shape {tuple(x.shape)}; need (B, 3, H, W)")
    h, w = x.shape[2:]
    if h % SIZE_MULTIPLE_PX or w % SIZE_MULTIPLE_PX or not h or not w:
        raise InputSizeError(f"input: {h} x {w} px; height and width must be multiples of {SIZE_MULTIPLE_PX}")
