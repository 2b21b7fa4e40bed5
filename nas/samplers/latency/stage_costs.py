"""Derive the stages of a model and their operators from its spec, without torch.

A search repeats the same stages many times, so each is derived once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from nas.samplers.latency.blocks import offset_bias, stage_operators
from nas.samplers.latency.operator_costs import FeatureMap, Operators, attention, conv, entry_of, memory, pooled
from search_space import ArchSpec, StageSpec
from search_space.arch import SHRINKING_GRID, shrinking_heads

MAX_KEPT = 20_000  # stages, some kB each


@dataclass(frozen=True, eq=False)
class StageCost:
    """The operators of one stage, with the names of `Backbone.stage_modules`.

    Attributes:
        name: stem, stage1, down1, ..., norm, summary_norm, neck.
        kind: "c2f", "patch stem", "pool down", "norm", "summary norm", "neck".
        shape: sizes, all positive, equally many for every stage of a kind. Two stages of a kind with the same shape and
            the same operators are one stage to the predictor: a field that changes the time must change one of them.
        operators: operators of the fused network, in the order they run.
    """

    name: str
    kind: str
    shape: tuple[float, ...]
    operators: Operators

    @cached_property
    def macs(self) -> int:
        """MACs of all operators."""
        return sum(operator.macs for operator in self.operators)

    @cached_property
    def moved(self) -> int:
        """Elements that all operators read and write."""
        return sum(operator.moved for operator in self.operators)

    @cached_property
    def weights(self) -> int:
        """Weights of all operators: the parameters without norms, biases and tables of positions."""
        return sum(operator.weights for operator in self.operators)


def stage_costs(spec: ArchSpec, batch: int, resolution: int) -> list[StageCost]:
    """Return the stages of one `encode` of images (batch, 3, resolution, resolution), in the order they run."""
    widths = tuple(stage.width for stage in spec.stages)
    maps = tuple(FeatureMap(batch, resolution).shrunk(stride) for stride in spec.strides)
    stages = [_stem(spec.stem, spec.stem_width, widths[0], spec.strides[0], FeatureMap(batch, resolution))]
    for i, (stage, at) in enumerate(zip(spec.stages, maps, strict=True)):
        if i:
            hidden = int(widths[i - 1] * (spec.downsampling_expansion or 1.0))
            down = _down(i, spec.downsampling, maps[i - 1], widths[i - 1], hidden, widths[i], spec.is_padded(i - 1))
            stages.append(down)
        stages.append(_stage(i + 1, stage, at))
    stages.append(_norm(widths[-1], maps[-1]))
    if spec.summary == "token":
        stages.append(_summary_norm(widths[-1], batch))
    if spec.neck_dim is not None:
        start = int(spec.neck.removeprefix("stage")) - 1
        stages.append(_neck(spec.neck_dim, maps[start], widths[start:]))
    return stages


@lru_cache(MAX_KEPT)
def _stem(kind: str, middle: int | None, width: int, stride: int, at: FeatureMap) -> StageCost:
    operators = entry_of(STEM_OPERATORS, "stem", kind)(at, width, stride, middle or 1)
    return StageCost("stem", f"{kind} stem", (width, middle or 1), operators)


def _conv(at: FeatureMap, width: int, stride: int, middle: int) -> Operators:
    half = at.shrunk(2)
    first = conv(at, 3, middle, 3, 2), memory("relu", half.places * middle)
    return *first, conv(half, middle, width, 3, 2), memory("relu", at.shrunk(stride).places * width)


def _overlap(at: FeatureMap, width: int, stride: int, middle: int) -> Operators:
    return conv(at, 3, width, 7, stride), memory("relu", at.shrunk(stride).places * width)


def _patch(at: FeatureMap, width: int, stride: int, middle: int) -> Operators:
    return (conv(at, 3, width, stride, stride),)


def _conv16(at: FeatureMap, width: int, stride: int, middle: int) -> Operators:
    operators: Operators = ()
    channels = (3, *(max(width // ratio, 1) for ratio in (8, 4, 2)), width)
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        convolution = conv(at.shrunk(2**i), inputs, outputs, 3, 2)
        operators += convolution, memory("relu", at.shrunk(2 ** (i + 1)).places * outputs)
    return operators[:-1]  # the last convolution has no ReLU


# The operators of each stem on the image, by width, stride and the width between the convolutions of "conv".
STEM_OPERATORS: dict[str, Callable[[FeatureMap, int, int, int], Operators]] = {
    "conv": _conv,
    "overlap": _overlap,
    "patch": _patch,
    "conv16": _conv16,
    "patch16": _patch,
}


@lru_cache(MAX_KEPT)
def _stage(number: int, stage: StageSpec, at: FeatureMap) -> StageCost:
    window = max(stage.windows) if stage.window else 1
    shape = (stage.width, stage.expansion or 1.0, stage.depth, at.side, stage.heads or 1, window, stage.kernel_size)
    return StageCost(f"stage{number}", stage.block, shape, stage_operators(stage, at))


@lru_cache(MAX_KEPT)
def _down(number: int, kind: str, at: FeatureMap, before: int, hidden: int, after: int, is_padded: bool) -> StageCost:
    shape = (before, after, at.side, hidden / before)
    padding: Operators = ()
    if is_padded:
        at, padding = at.padded(2), (memory("copy", (at.places + at.padded(2).places) * before, 1),)
    operators = entry_of(DOWN_OPERATORS, "downsampling", kind)(at, before, hidden, after)
    return StageCost(f"down{number}", f"{kind} down", shape, (*padding, *operators))


def _conv_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    return (conv(at, before, after, 3, 2),)


def _patch_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    return (conv(at, before, after, 2, 2),)


def _pool_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    return pooled(at, before, 2), conv(at.shrunk(2), before, after)


def _mbconv_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    wide = conv(at, before, hidden), memory("silu", at.places * hidden)
    return *wide, conv(at, hidden, hidden, 3, 2, groups=hidden), *_narrow(at.shrunk(2), hidden, after)


def _fused_mbconv_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    return conv(at, before, hidden, 3, 2), *_narrow(at.shrunk(2), hidden, after)


def _narrow(at: FeatureMap, hidden: int, after: int) -> Operators:
    return memory("silu", at.places * hidden), conv(at, hidden, after)


def _attention_down(at: FeatureMap, before: int, hidden: int, after: int) -> Operators:
    """Return attention from every second token to all, to values four times as wide as keys, and an MLP."""
    heads, key_width = shrinking_heads(before)
    smaller, keys, values = at.shrunk(2), heads * key_width, 4 * heads * key_width
    n = smaller.places
    qkv = conv(at, before, keys, 1, 2), conv(at, before, keys + values)
    bias = offset_bias(at.side, heads, SHRINKING_GRID, 2)
    head = *bias, *attention(n, at.side**2, values, heads, keys, at.places), memory("hardswish", n * values)
    mlp = conv(smaller, after, 2 * after), memory("hardswish", n * 2 * after), conv(smaller, 2 * after, after)
    return *qkv, *head, conv(smaller, values, after), *mlp, memory("add", n * after, 3)


# The operators of each downsampling on its map, which may be padded, by widths before, between and after.
DOWN_OPERATORS: dict[str, Callable[[FeatureMap, int, int, int], Operators]] = {
    "conv": _conv_down,
    "patch": _patch_down,
    "pool": _pool_down,
    "attention": _attention_down,
    "mbconv": _mbconv_down,
    "fused_mbconv": _fused_mbconv_down,
}


@lru_cache(MAX_KEPT)
def _norm(width: int, at: FeatureMap) -> StageCost:
    return StageCost("norm", "norm", (width, at.side), (memory("norm", at.places * width),))


@lru_cache(MAX_KEPT)
def _summary_norm(width: int, batch: int) -> StageCost:
    return StageCost("summary_norm", "summary norm", (width,), (memory("norm", batch * width),))


@lru_cache(MAX_KEPT)
def _neck(width: int, at: FeatureMap, channels: tuple[int, ...]) -> StageCost:
    """Enlarge and add every map but the first, which passes unchanged if it has the neck's width."""
    operators: Operators = ()
    for i, c in enumerate(channels):
        if i:
            operators += memory("copy", at.places * c), memory("add", at.places * width, 3)
        if i or c != width:
            operators += conv(at, c, c, 3, groups=c), conv(at, c, width)
    return StageCost("neck", "neck", (width, sum(channels), at.side), operators)
