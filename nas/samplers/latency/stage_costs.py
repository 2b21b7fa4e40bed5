"""Derive the stages of a model and their operators from its spec: no torch, some hundred microseconds per spec."""

from __future__ import annotations

from typing import NamedTuple

from nas.samplers.latency.blocks import stage_operators
from nas.samplers.latency.operator_costs import FeatureMap, Operators, conv, memory, pooled
from search_space import ArchSpec, StageSpec


class StageCost(NamedTuple):
    """The operators of one stage, with the names of `Backbone.stage_modules`."""

    name: str  # stem, stage1, down1, ..., norm, neck
    kind: str  # "c2f", "patch stem", "pool down", "norm", "neck"
    shape: tuple[float, ...]  # sizes, all positive; equally many for every stage of a kind
    operators: Operators


def stage_costs(spec: ArchSpec, batch: int, resolution: int) -> list[StageCost]:
    """Return the stages of one `encode` of images (batch, 3, resolution, resolution), in the order they run."""
    widths = [stage.width for stage in spec.stages]
    maps = [FeatureMap(batch, resolution // stride) for stride in spec.strides]
    stages = [_stem(spec, FeatureMap(batch, resolution))]
    for i, (stage, at) in enumerate(zip(spec.stages, maps, strict=True)):
        if i:
            stages.append(_down(i, spec.downsampling, maps[i - 1], widths[i - 1], widths[i]))
        stages.append(_stage(i + 1, stage, at))
    last = memory("norm", maps[-1].places * widths[-1])
    stages.append(StageCost("norm", "norm", (widths[-1], maps[-1].side), (last,)))
    return stages if spec.neck_dim is None else [*stages, _neck(spec, spec.neck_dim, maps)]


def _stem(spec: ArchSpec, at: FeatureMap) -> StageCost:
    width, stride, half = spec.stages[0].width, spec.strides[0], at.shrunk(2)
    act = memory("relu", at.shrunk(stride).places * width)
    operators: Operators
    if spec.stem_width is not None:
        h = spec.stem_width
        operators = conv(at, 3, h, 3, 2), memory("relu", half.places * h), conv(half, h, width, 3, 2), act
    elif spec.stem == "overlap":
        operators = conv(at, 3, width, 7, stride), act
    else:
        operators = (conv(at, 3, width, stride, stride),)
    return StageCost("stem", f"{spec.stem} stem", (width, spec.stem_width or 1), operators)


def _stage(number: int, stage: StageSpec, at: FeatureMap) -> StageCost:
    window = max(stage.resolutions[1]) if stage.window else 1
    shape = (stage.width, stage.expansion or 1.0, stage.depth, at.side, stage.heads or 1, window)
    return StageCost(f"stage{number}", stage.block, shape, stage_operators(stage, at))


def _down(number: int, kind: str, at: FeatureMap, before: int, after: int) -> StageCost:
    operators: Operators
    if kind == "pool":
        operators = pooled(at, before, 2), conv(at.shrunk(2), before, after)
    else:
        operators = (conv(at, before, after, {"conv": 3, "patch": 2}[kind], 2),)
    return StageCost(f"down{number}", f"{kind} down", (before, after, at.side), operators)


def _neck(spec: ArchSpec, width: int, maps: list[FeatureMap]) -> StageCost:
    """Enlarge and add every map but the first, which passes unchanged if it has the neck's width."""
    start = int(spec.neck.removeprefix("stage")) - 1
    at, channels = maps[start], [stage.width for stage in spec.stages[start:]]
    operators: Operators = ()
    for i, c in enumerate(channels):
        if i:
            operators += memory("copy", at.places * c), memory("add", at.places * width, 3)
        if i or c != width:
            operators += conv(at, c, c, 3, groups=c), conv(at, c, width)
    return StageCost("neck", "neck", (width, sum(channels), at.side), operators)
