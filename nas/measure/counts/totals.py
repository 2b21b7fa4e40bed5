"""MACs and parameters of a spec, from its parts: a search draws the same stages and necks again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones import InputSizeError
from backbones.build import DOWNSAMPLINGS, build_stage, build_stem
from backbones.layers.neck import Neck
from backbones.skip_init import skip_init
from nas.measure.counts.macs import MacCountingMode, evaluating
from search_space import ArchSpec, StageSpec
from search_space.arch import MAX_STRIDE

Map = tuple[int, int, int]  # batch, channels, side


class Totals(NamedTuple):
    """What one image costs, without classifier."""

    macs: int
    params: int


_PARTS: dict[Hashable, Totals] = {}  # about 200 B each; a process draws some ten thousand at most


def totals(spec: ArchSpec, resolution: int) -> Totals:
    """`count(build(spec), resolution)` in brief, of images (1, 3, resolution, resolution).

    Only parts that the process has not met yet are built, on the meta device, and counted; of a stage, two blocks.
    Raises InputSizeError.
    """
    if resolution < MAX_STRIDE or resolution % MAX_STRIDE:
        raise InputSizeError(f"resolution: {resolution} px is not a multiple of {MAX_STRIDE}")
    widths = tuple(stage.width for stage in spec.stages)
    maps = [(1, width, resolution // stride) for width, stride in zip(widths, spec.strides, strict=True)]
    down = DOWNSAMPLINGS[spec.downsampling]
    parts = [_part(("stem", spec.stem, spec.stem_width, widths[0]), partial(build_stem, spec), (1, 3, resolution))]
    parts += [_stage(stage, entering) for stage, entering in zip(spec.stages, maps, strict=True)]
    for between, entering in zip(pairwise(widths), maps, strict=False):
        parts.append(_part((spec.downsampling, between), partial(down, *between), entering))
    parts.append(Totals(0, 2 * widths[-1]))  # the last norm
    if spec.neck_dim is not None:
        start = int(spec.neck.removeprefix("stage")) - 1
        neck = partial(Neck, widths[start:], spec.neck_dim)
        parts.append(_part(("neck", spec.neck_dim), neck, *maps[start:], listed=True))
    return Totals(sum(part.macs for part in parts), sum(part.params for part in parts))


def _stage(stage: StageSpec, entering: Map) -> Totals:
    """Of a stage by its first two blocks: whatever the kind, each further one costs what the second does."""
    first = _part(alone := replace(stage, depth=1), partial(build_stage, alone), entering)
    if stage.depth == 1:
        return first
    both = _part(pair := replace(stage, depth=2), partial(build_stage, pair), entering)
    more = stage.depth - 1
    return Totals(first.macs + more * (both.macs - first.macs), first.params + more * (both.params - first.params))


def _part(reads: Hashable, make: Callable[[], nn.Module], *maps: Map, listed: bool = False) -> Totals:
    """Of the part that `make` makes from `reads` and the maps that go in, as a list or as they are."""
    key = (reads, maps)
    if key not in _PARTS:
        with skip_init():
            part = make()
            images: list[Tensor] = [torch.empty(b, c, side, side) for b, c, side in maps]
        with evaluating(part), MacCountingMode() as mode:
            part(images) if listed else part(*images)
        _PARTS[key] = Totals(mode.macs, sum(p.numel() for p in part.parameters()))
    return _PARTS[key]
