"""The backbone: computes a summary vector and a spatial map of images, and has timm's methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, NamedTuple, Self

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from search_space import ArchSpec
from search_space.arch import SIZE_MULTIPLE_PX
from search_space.windows import refit_windows

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
WITH_LAYER_BEFORE = (99999,)  # timm.models.group_parameters: joins the previous group


class InputSizeError(ValueError):
    """An image size that the backbone cannot take."""


class Features(NamedTuple):
    """The outputs that are distilled, and that throughput is measured for."""

    summary: Tensor  # (B, summary_dim)
    spatial: Tensor  # (B, spatial_dim, H / spatial_stride, W / spatial_stride), sides rounded up


def count_parameters(model: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


class StaysInEval(nn.Module):
    """A network that `train()` leaves in eval mode once it is `deployed`, also as a part of another model.

    A BatchNorm that follows no convolution cannot be folded. In training mode it would compute the statistics of the
    batch and change its own.
    """

    deployed = False

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the network and all its modules; eval mode if it is `deployed`."""
        return super().train(mode and not self.deployed)


class Backbone(StaysInEval):
    """Stem, stages with the strides of `spec.strides`, a last norm, an optional neck and an optional classifier.

    Built by `backbones.build` or by `timm.create_model` (see `backbones.entrypoints`). Inputs are (B, in_chans, H, W)
    of any memory format, H and W multiples of 32; others raise InputSizeError. `stages[i]` keeps the size of its map,
    `downs[i]` leads from stage i to i + 1. The classifier reads the last stage, neither the neck nor a summary token.
    `memory_format` is the one to which a forward pass brings its images. `spec` has the windows of the last
    `change_resolution`, `built_spec` those with which it was built.
    """

    def __init__(
        self,
        spec: ArchSpec,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        downs: Sequence[nn.Module],
        widths: tuple[int, ...],
        neck: nn.Module | None,
        summary_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spec = self.built_spec = spec
        self.widths, self.strides = widths, spec.strides
        self.num_features = self.summary_dim = widths[-1]
        self.neck_start = len(widths) - 1 if neck is None else int(spec.neck.removeprefix("stage")) - 1
        self.spatial_dim = widths[-1] if spec.neck_dim is None else spec.neck_dim
        self.spatial_stride = self.strides[self.neck_start]
        self.in_chans = 3
        self.num_classes = 0
        # Channels last: tokens are then views of a map, and convolutions run 1.2 to 1.5 times faster on a CPU.
        self.memory_format = torch.channels_last
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.downs = nn.ModuleList(downs)
        self.norm: nn.Module = nn.BatchNorm2d(widths[-1], eps=1e-5)
        self.neck = neck
        self.summary_norm = summary_norm
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.head_drop = nn.Dropout(0.0)
        self.head: nn.Module = nn.Identity()

    @property
    def feature_info(self) -> list[dict[str, int | str]]:
        """One entry per stage with `num_chs`, `reduction` and `module`, as timm declares them."""
        pairs = zip(self.widths, self.strides, strict=True)
        return [{"num_chs": c, "reduction": r, "module": f"stages.{i}"} for i, (c, r) in enumerate(pairs)]

    @property
    def head_hidden_size(self) -> int:
        """Width of the pooled features that the classifier reads."""
        return self.num_features * int(self.global_pool.feat_mult())

    @property
    def traces_any_size(self) -> bool:
        """Whether a trace by `torch.jit.trace` computes images of any size: no module decides by the size of its map.

        Modules whose operations depend on that size say so by a true `decides_by_size`. A trace keeps the decisions of
        its example, and at other sizes fails or computes something else.
        """
        return not any(getattr(module, "decides_by_size", False) for module in self.modules())

    def encode(self, x: Tensor) -> Features:
        """Return summary and spatial map of images (B, in_chans, H, W).

        Without a neck the spatial map is the last stage's after the last norm. The summary is the mean of that map,
        independent of the classifier's `global_pool`, or the token of `ArchSpec.summary` after `summary_norm`.
        """
        maps, token = self._run_stages(x, with_token=self.summary_norm is not None)
        last: Tensor = self.norm(maps[-1])
        summary = last.mean((2, 3)) if self.summary_norm is None else self.summary_norm(token)
        return Features(summary, last if self.neck is None else self.neck(maps[self.neck_start :]))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map after the last norm, (B, num_features, ceil(H/s), ceil(W/s)) at its stride s."""
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
        """Return (the map of `forward_features`, stage outputs before downsampling).

        Args:
            x: images, (B, in_chans, H, W).
            indices: indices of stages (negative ones count from the end), a number n for the last n, None for all.
            norm: apply the last norm to the last stage's map.
            stop_early: skip the stages after the last requested one; only with `intermediates_only`.
            output_fmt: "NCHW", the only format.
            intermediates_only: return the list of stage outputs only.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: {output_fmt!r} is not one of NCHW")
        requested = self._stage_indices(indices)
        stop = stop_early and intermediates_only
        maps = self._stage_maps(x, count=max(requested, default=-1) + 1 if stop else None)
        last = self.norm(maps[-1]) if len(maps) == len(self.stages) else None
        kept = [last if norm and last is not None and i == len(self.stages) - 1 else maps[i] for i in requested]
        return kept if intermediates_only or last is None else (last, kept)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a map from `forward_features`.

        With `pre_logits`, or without a classifier, return the pooled features. Without pooling, the classifier is
        applied at every position: (B, num_classes, h, w).
        """
        y: Tensor = self.head_drop(self.global_pool(x))
        if not pre_logits:
            y = self.head(y) if self.global_pool.pool_type else self.head(y.movedim(1, -1)).movedim(-1, 1)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes), or the pooled features if `num_classes` is 0."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the classifier; nn.Identity if there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new linear one.

        Args:
            num_classes: width of the classifier; 0 removes it.
            global_pool: one of GLOBAL_POOLS, "" for the map itself; None keeps the current one.
        """
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        if num_classes < 0:
            raise ValueError(f"num_classes: {num_classes} is negative; 0 removes the classifier")
        if pool not in GLOBAL_POOLS:
            raise ValueError(f"global_pool: {pool!r} is not one of {', '.join(map(repr, GLOBAL_POOLS))}")
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool)).train(self.training)
        like = next(self.parameters())
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
        self.head.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward pass recomputes each block instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that weight decay leaves alone, for timm's optimizers.

        These are position tables, the MLPs that compute positions, and registers, as in Swin V2 and timm's ViTs; not
        vectors, which the optimizers leave alone anyway.
        """
        named = ((prefix, getattr(module, "without_weight_decay", ())) for prefix, module in self.named_modules())
        starts = tuple(f"{prefix}.{part}" for prefix, parts in named for part in parts)
        return {name for name, _ in self.named_parameters() if name.startswith(starts)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names by depth, for timm's layer-wise learning rates.

        Each block is a group, or each stage if `coarse`. A block that is a whole stage has a group for each of its
        layers. What a block computes before its first layer, or after its last one, belongs to the group of that layer.
        Downsampling and the last norm belong to the previous group; neck and classifier come last.
        """
        stage = r"^stages\.(\d+)"
        block = rf"{stage}\.blocks\.(\d+)"
        layer = rf"{block}\.(?:layers|bottlenecks)\.([1-9]\d*)"  # the first one begins the block's group
        own = [(stage, None)] if coarse else [(layer, None), (rf"{block}\.merge", WITH_LAYER_BEFORE), (block, None)]
        joined = ((pattern, WITH_LAYER_BEFORE) for pattern in (r"^downs\.(\d+)", r"^(?:summary_)?norm"))
        return {"stem": r"^stem", "blocks": [*own, *joined]}

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove all stages after the last of `indices`, in place; return the indices counted from 0.

        If a stage is removed, so are last norm, neck, summary token, pooling and classifier. timm calls this for
        `features_only=True`.
        """
        kept = self._stage_indices(indices)
        end = max(kept, default=-1) + 1
        if not end:
            raise ValueError(f"indices: {indices!r} keeps no stage; need one at least")
        cut = end < len(self.stages)
        del self.stages[end:], self.downs[end - 1 :]
        if cut:
            self.num_features = self.summary_dim = self.widths[end - 1]
        if cut or prune_norm:
            self.norm = nn.Identity().train(self.training)
        if cut or prune_head:
            self.reset_classifier(0, "")
            self.neck = self.summary_norm = None
            self.neck_start, self.spatial_dim, self.spatial_stride = end - 1, self.num_features, self.strides[end - 1]
        return kept

    def change_resolution(self, resolution: int | Sequence[int]) -> None:
        """Set the windows of E-RADIO's blocks for images of `resolution` = side or (H, W) px.

        Blocks with a method `resize(window)` get those of `search_space.windows.refit_windows` for the spec with which
        the backbone was built, whatever earlier calls have set. At the size of the training, and where E-RADIO's rule
        has only small windows, as of 1 token at 224 x 352 px, they are the spec's; maps that they do not tile are
        resized. All other blocks keep their windows, with which they take any map. Raises InputSizeError for sides that
        are no multiples of 32.
        """
        height, width = [resolution] * 2 if isinstance(resolution, int) else resolution
        check_size(height, width)
        fitting = refit_windows(self.built_spec, height, width).stages
        specs = list(self.spec.stages)
        stage: Any
        for i, stage in enumerate(self.stages):
            if not any(hasattr(block, "resize") for block in stage.blocks):
                continue
            specs[i] = replace(specs[i], window=fitting[i].window)
            for block, window in zip(stage.blocks, cycle(specs[i].windows)):  # one window for each ratio
                block.resize(window)
            stage.step = max(specs[i].windows) * max(specs[i].attention_ratios)
        self.spec = replace(self.spec, stages=tuple(specs))

    def fuse(self) -> Self:
        """Stay in eval mode from now on; `backbones.fuse` calls this, and folds the parts."""
        self.deployed = True
        return self.eval()

    def stage_modules(self) -> list[tuple[str, nn.Module]]:
        """Return names and modules in the order they run: stem, stage1, down1, ..., norm, summary_norm, neck."""
        parts: list[tuple[str, nn.Module]] = [("stem", self.stem)]
        for i, stage in enumerate(self.stages, start=1):
            parts.append((f"stage{i}", stage))
            parts += [(f"down{i}", self.downs[i - 1])] if i <= len(self.downs) else []
        parts.append(("norm", self.norm))
        parts += [] if self.summary_norm is None else [("summary_norm", self.summary_norm)]
        return parts if self.neck is None else [*parts, ("neck", self.neck)]

    def _stage_maps(self, x: Tensor, count: int | None = None) -> list[Tensor]:
        return self._run_stages(x, count)[0]

    def _run_stages(
        self, x: Tensor, count: int | None = None, with_token: bool = False
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return the maps of the first `count` stages, and the last stage's first register, if wanted."""
        check_input(x, self.in_chans)
        maps: list[Tensor] = []
        token: Tensor | None = None
        y: Tensor = self.stem(x.contiguous(memory_format=self.memory_format))
        for i in range(len(self.stages) if count is None else count):
            y = self.downs[i - 1](y) if i else y
            if with_token and i == len(self.stages) - 1:
                y, token = self.stages[i](y, with_token=True)
            else:
                y = self.stages[i](y)
            maps.append(y)
        return maps, token

    def _stage_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        total = len(self.stages)
        if indices is None:
            return list(range(total))
        wanted = [i - indices for i in range(indices)] if isinstance(indices, int) else list(indices)
        wrong = [i for i in wanted if not -total <= i < total]
        if wrong:
            raise ValueError(f"indices: {wrong[0]} is not a stage; choose from {-total} to {total - 1}")
        return [i % total for i in wanted]


def check_input(x: Tensor, in_chans: int = 3) -> None:
    """Raise InputSizeError unless `x` is (B, in_chans, H, W) with H and W multiples of 32."""
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise InputSizeError(f"input: shape {tuple(x.shape)}; need (B, {in_chans}, H, W)")
    check_size(*x.shape[2:])


def check_size(height: int, width: int) -> None:
    """Raise InputSizeError unless both are multiples of 32 px."""
    if height % SIZE_MULTIPLE_PX or width % SIZE_MULTIPLE_PX or height < 1 or width < 1:
        raise InputSizeError(f"input: {height} x {width} px; height and width must be multiples of {SIZE_MULTIPLE_PX}")
