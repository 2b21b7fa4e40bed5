"""Derive the operators of a stage's blocks from its spec alone.

Each block of `backbones.layers` has a second definition here, as the fused model runs it in eval mode: norms folded
into convolutions, position biases constant. The tests compare all of them with `nas.measure.counts.operators`. Not
included are the copies of Swin's shifted windows, masks of padded windows, ViT's position embedding, and the savings
where a map was enlarged for a window.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from nas.samplers.latency.operator_costs import (
    FeatureMap,
    Operators,
    attention,
    conv,
    entry_of,
    linear,
    memory,
    pooled,
    product,
    transposed,
)
from search_space import StageSpec

CARRIERS = 4  # per window
StageOperators = Callable[[StageSpec, FeatureMap], Operators]


def stage_operators(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return the operators of a stage on its map."""
    return entry_of(BLOCK_OPERATORS, "block", stage.block)(stage, at)


def _each(block: StageOperators) -> StageOperators:
    """Return a function of the operators of a stage of `depth` equal blocks, given that of one block."""
    return lambda stage, at: block(stage, at) * stage.depth


def _c2f(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return the operators of a stage, which is one module, whatever its depth."""
    c, h, n, k = stage.width, _hidden(stage), at.places, stage.kernel_size
    light = conv(at, h, h), conv(at, h, h, k, groups=h)
    half = *(light if stage.block == "light_c2f" else (conv(at, h, h, k),)), memory("silu", n * h)
    joined = (2 + stage.depth) * h
    bottleneck = (*half, *half, memory("add", n * h, 3))
    merge = memory("copy", n * joined), conv(at, joined, c), memory("silu", n * c)
    return conv(at, c, 2 * h), memory("silu", n * 2 * h), *bottleneck * stage.depth, *merge


def _basic(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h = stage.width, _hidden(stage)
    return conv(at, c, h, 3), memory("relu", at.places * h), conv(at, h, c, 3), *_skip_relu(stage, at)


def _bottleneck(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h = stage.width, _hidden(stage)
    act, middle = memory("relu", at.places * h), conv(at, h, h, 3, groups=h // (stage.group_width or h))
    return conv(at, c, h), act, middle, act, *_squeeze(stage, at, h, "relu"), conv(at, h, c), *_skip_relu(stage, at)


def _mbconv(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h = stage.width, _hidden(stage)
    act, middle = memory("silu", at.places * h), conv(at, h, h, stage.kernel_size, groups=h)
    return conv(at, c, h), act, middle, act, *_squeeze(stage, at, h, "silu"), conv(at, h, c), *_skip(stage, at)


def _fused_mbconv(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h = stage.width, _hidden(stage)
    return conv(at, c, h, 3), memory("silu", at.places * h), conv(at, h, c), *_skip(stage, at)


def _convnext(stage: StageSpec, at: FeatureMap) -> Operators:
    c, n = stage.width, at.places
    return conv(at, c, c, stage.kernel_size, groups=c), memory("norm", n * c), *_mlp(n, stage), *_skip(stage, at)


def _repdw(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return a stage in which the first block of each period has squeeze-excitation, if any has."""
    c, h = stage.width, _hidden(stage)
    mixing = (conv(at, c, c, stage.kernel_size, groups=c),)
    mlp = conv(at, c, h), memory("gelu", at.places * h), conv(at, h, c), *_skip(stage, at)
    blocks: Operators = ()
    for i in range(stage.depth):
        blocks += *mixing, *(() if i % stage.period else _squeeze(stage, at, c, "relu")), *mlp
    return blocks


def _pool(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h, n = stage.width, _hidden(stage), at.places
    mixing = memory("pool", n * c), memory("add", n * c, 3), memory("add", n * c), *_skip(stage, at)
    return *mixing, conv(at, c, h), memory("gelu", n * h), conv(at, h, c), *_skip(stage, at)


def _windowed(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return a layer of one block per ratio, `depth` times; one on a coarser map has a resampling on either side."""
    ratios, windows = stage.attention_ratios, stage.windows
    at = at.padded(max(ratios) * max(windows))
    blocks: Operators = ()
    for ratio, window in zip(ratios, windows, strict=True):
        coarse = at.shrunk(ratio).padded(window)
        copies = () if coarse.side == window else (memory("copy", coarse.places * stage.width),)
        inside = *copies, *_layer(coarse.places, window**2, stage), *copies
        doubled = (memory("add", at.places * stage.width),)
        before, after = (_pre_conv(stage, at) or doubled, ()) if ratio == 1 else _resampling(stage, at, ratio)
        blocks += *before, *inside, *after, *_skip(stage, at)
    return blocks * stage.depth


def _attention(stage: StageSpec, at: FeatureMap) -> Operators:
    return *_pre_conv(stage, at), *_layer(at.places, at.side**2, stage)


def _linear_attention(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return attention at two scales without logits: keys times values, the keys' sum, queries times both."""
    c, n, heads = stage.width, at.places, stage.heads or 1
    coarser = conv(at, 3 * c, 3 * c, 5, groups=3 * c), conv(at, 3 * c, 3 * c, groups=3 * heads)
    between = *(memory("copy", 5 * n * c),) * 2, memory("relu", 4 * n * c), memory("add", 4 * n * c)
    products = *(product(n, 2 * c, c // heads),) * 2, product(n, 2 * c, 1)
    mixing = conv(at, c, 3 * c), *coarser, *between, *products, conv(at, 2 * c, c)
    return *mixing, *_skip(stage, at), *_mbconv(stage, at)


def _single_head(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h, n, attended, keys = stage.width, _hidden(stage), at.places, stage.single_head_channels, stage.key_width or 1
    head = conv(at, attended, attended + 2 * keys), *attention(n, at.side**2, attended, 1, keys)
    mixing = conv(at, c, c, 3, groups=c), *head, memory("copy", n * c), conv(at, c, c), *_skip(stage, at)
    return *mixing, conv(at, c, h), memory("relu", n * h), conv(at, h, c), *_skip(stage, at)


def _bn_attention(stage: StageSpec, at: FeatureMap) -> Operators:
    c, h, n, heads = stage.width, _hidden(stage), at.places, stage.heads or 1
    keys = heads * (stage.key_width or 1)
    values = 2 * keys
    logits = *offset_bias(at.side, heads, stage.grid or 1), *attention(n, at.side**2, values, heads, keys)
    head = conv(at, c, 2 * keys + values), *logits
    mixing = *head, memory("hardswish", n * values), conv(at, values, c), *_skip(stage, at)
    return *mixing, conv(at, c, h), memory("hardswish", n * h), conv(at, h, c), *_skip(stage, at)


def offset_bias(side: int, heads: int, grid: int, stride: int = 1) -> Operators:
    """Return the bias of every `stride`-th row and column of queries: a constant on the map that it is learned for.

    On another map the table is interpolated and then read by offsets of rows and of columns, whatever the batch.
    """
    if side == grid:
        return ()
    pairs = -(-side // stride) * side  # of a query and a key along an axis
    offsets = memory("copy", side, 1), memory("add", pairs), memory("neg", pairs)
    sizes = grid**2, side**2, pairs * side, pairs**2  # of a head: the table, interpolated, by rows, by both axes
    reads = (memory("copy", heads * (before + after), 1) for before, after in pairwise(sizes))
    return *offsets, *offsets, *reads, memory("copy", heads * pairs**2)


def _swin(stage: StageSpec, at: FeatureMap) -> Operators:
    (window,) = stage.windows
    padded = at.padded(window)
    copies = () if padded.side == window else (memory("copy", padded.places * stage.width),)
    return *copies, *_layer(padded.places, window**2, stage), *copies


def _maxvit(stage: StageSpec, at: FeatureMap) -> Operators:
    return *_mbconv(stage, at), *_swin(stage, at) * 2


def _carrier(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return attention among all carriers of an image, then within each window and its carriers; and the setup."""
    (window,) = stage.windows
    tokens = at.padded(window).places
    carriers = tokens // window**2 * CARRIERS
    copies = (memory("copy", (tokens + carriers) * stage.width),) * 2
    across = _layer(carriers, carriers // at.batch, stage)
    block = *across, *copies, *_layer(tokens + carriers, window**2 + CARRIERS, stage)
    return *block * stage.depth, *_carrier_setup(stage, at)


def _carrier_setup(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return the operators that a stage runs once: position embeddings, carriers from the map and back into it."""
    (window,) = stage.windows
    at, c, h = at.padded(window), stage.width, stage.cpb_hidden or 1
    places = window**2 + at.places // at.batch // window**2 * CARRIERS
    embedding = linear(places, 2, h), memory("relu", places * h), linear(places, h, c)
    whole = at.places * c
    moves = memory("pool", whole), *(memory("copy", whole),) * 3, *(memory("add", whole, 3),) * 2
    return conv(at, c, c, 3, groups=c), *embedding, *moves


def _vit(stage: StageSpec, at: FeatureMap) -> Operators:
    """Return windowed layers, and global ones, which registers join."""
    extra = stage.registers or 0
    joined = (memory("copy", (at.places + extra * at.batch) * stage.width),) if extra else ()
    across = *joined, *_layer(at.places + extra * at.batch, at.side**2 + extra, stage)
    places = (conv(at, stage.width, stage.width, 3, groups=stage.width),) if stage.positions == "conditional" else ()
    if stage.window is None:
        return *places, *across * stage.depth
    windows = -(-at.side // stage.windows[0])  # along a side
    window = -(-at.side // windows)
    padded = at.padded(window)
    copies = () if windows == 1 else (memory("copy", padded.places * stage.width),)
    within = *copies, *_layer(padded.places, window**2, stage), *copies
    is_global = stage.global_layers
    return *places, *across * sum(is_global), *within * is_global.count(False)


def _hidden(stage: StageSpec) -> int:
    hidden = int(stage.width * (stage.expansion or 1.0))
    return hidden // 2 // 64 * 64 if stage.mlp == "swiglu" else hidden


def _skip(stage: StageSpec, at: FeatureMap) -> Operators:
    return (memory("add", at.places * stage.width, 3),)


def _skip_relu(stage: StageSpec, at: FeatureMap) -> Operators:
    return *_skip(stage, at), memory("relu", at.places * stage.width)


def _squeeze(stage: StageSpec, at: FeatureMap, width: int, act: str) -> Operators:
    """Return squeeze-excitation of `width` channels."""
    if stage.squeeze is None:
        return ()
    narrow = int(stage.width * stage.squeeze)
    gates = linear(at.batch, width, narrow), memory(act, at.batch * narrow), linear(at.batch, narrow, width)
    whole = at.places * width
    return memory("pool", whole, 1), *gates, memory("sigmoid", at.batch * width), memory("add", whole)


def _pre_conv(stage: StageSpec, at: FeatureMap) -> Operators:
    c = stage.width
    groups = {"depthwise": c, "dense": 1, "grouped": stage.pre_conv_groups or 1}.get(stage.pre_conv or "none")
    return () if groups is None else (conv(at, c, c, 3, groups=groups),)


def _resampling(stage: StageSpec, at: FeatureMap, ratio: int) -> tuple[Operators, Operators]:
    """Return the operators to a coarser map, and those back."""
    c, coarse = stage.width, at.shrunk(ratio)
    if stage.subsampling == "conv":
        return (conv(at, c, c, ratio, ratio),), (transposed(at, c, ratio),)
    mixed = conv(coarse, c, c)
    return (pooled(at, c, ratio), mixed), (mixed, memory("copy", (at.places + coarse.places) * c, 1))


def _layer(tokens: int, seen: int, stage: StageSpec) -> Operators:
    """Return a transformer layer in which each token attends to `seen` tokens."""
    c, norm, add = stage.width, memory("norm", tokens * stage.width), memory("add", tokens * stage.width, 3)
    mixing = (
        linear(tokens, c, 3 * c),
        *_rotation(tokens, stage),
        *attention(tokens, seen, c, stage.heads or 1),
        linear(tokens, c, c),
    )
    return norm, *mixing, add, norm, *_mlp(tokens, stage), add


def _rotation(tokens: int, stage: StageSpec) -> Operators:
    """Return the rotation of queries and keys: x cos + half-swapped x sin."""
    if stage.positions != "rotary":
        return ()
    whole = tokens * stage.width
    products = (memory("mul", whole),) * 2
    return (*products, memory("neg", whole // 2), memory("copy", whole), memory("add", whole, 3)) * 2


def _mlp(tokens: int, stage: StageSpec) -> Operators:
    c, h = stage.width, _hidden(stage)
    if stage.mlp == "swiglu":
        gate = memory("silu", tokens * h), memory("add", tokens * h, 3)
        return linear(tokens, c, 2 * h), *gate, linear(tokens, h, c)
    return linear(tokens, c, h), memory("gelu", tokens * h), linear(tokens, h, c)


# The operators of a stage of each block.
BLOCK_OPERATORS: dict[str, StageOperators] = {
    "c2f": _c2f,
    "light_c2f": _c2f,
    "basic": _each(_basic),
    "bottleneck": _each(_bottleneck),
    "mbconv": _each(_mbconv),
    "fused_mbconv": _each(_fused_mbconv),
    "convnext": _each(_convnext),
    "repdw": _repdw,
    "pool": _each(_pool),
    "window": _windowed,
    "mr_window": _windowed,
    "attention": _each(_attention),
    "linear_attention": _each(_linear_attention),
    "single_head": _each(_single_head),
    "bn_attention": _each(_bn_attention),
    "swin": _each(_swin),
    "maxvit": _each(_maxvit),
    "carrier": _carrier,
    "vit": _vit,
}
