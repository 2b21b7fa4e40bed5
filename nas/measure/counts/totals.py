"""Count MACs and parameters of a spec from its parts, which a search draws repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from backbones import InputSizeError, build_network, resolve
from backbones.build import build_downsampling, build_stage, build_stem
from backbones.layers.neck import Neck
from backbones.skip_init import skip_init
from nas.measure.counts.macs import MacCountingMode, checked_count, evaluating
from nas.study.limits import Totals
from search_space import ArchSpec, StageSpec, network_spec
from search_space.arch import SIZE_MULTIPLE_PX
from search_space.timm_names import PREFIX

Map = tuple[int, int, int]  # batch, channels, side


_PARTS: dict[Hashable, Totals] = {}  # about 200 B each; at most some ten thousand in a process


def totals(spec: ArchSpec, resolution: int) -> Totals:
    """Return MACs and parameters of `count(build(spec), resolution)`, of one image (1, 3, resolution, resolution).

    Only parts that are new to the process are built, on the meta device, and counted; of a stage, its first blocks.

    Raises:
        InputSizeError: The resolution is not a positive multiple of 32 px.
    """
    if resolution < SIZE_MULTIPLE_PX or resolution % SIZE_MULTIPLE_PX:
        raise InputSizeError(f"resolution: {resolution} px is not a multiple of {SIZE_MULTIPLE_PX}")
    widths = tuple(stage.width for stage in spec.stages)
    maps = [(1, width, -(-resolution // stride)) for width, stride in zip(widths, spec.strides, strict=True)]
    parts = [_part(("stem", spec.stem, spec.stem_width, widths[0]), partial(build_stem, spec), (1, 3, resolution))]
    parts += [_stage(stage, entering) for stage, entering in zip(spec.stages, maps, strict=True)]
    for i, (between, entering) in enumerate(zip(pairwise(widths), maps, strict=False)):
        key = "down", spec.downsampling, spec.downsampling_expansion, between, spec.strides[i]
        parts.append(_part(key, partial(build_downsampling, spec, i), entering))
    parts += [Totals(0, 2 * widths[-1])] * (1 if spec.summary is None else 2)  # the last norm, that of a summary token
    if spec.neck_dim is not None:
        start = int(spec.neck.removeprefix("stage")) - 1
        neck = partial(Neck, widths[start:], spec.neck_dim)
        parts.append(_part(("neck", spec.neck_dim), neck, *maps[start:], listed=True))
    return Totals(sum(part.macs for part in parts), sum(part.params for part in parts))


def network_totals(arch: str | Mapping[str, Any], resolution: int) -> Totals:
    """Return MACs and parameters of a network, built on the meta device, for one image.

    Args:
        arch: A name for `backbones.resolve`, or the plain data of a spec.
        resolution: Side of the image in px.

    Raises:
        SpecError: There is no such architecture.
        ValueError: It cannot take the resolution; the message is one line.
    """
    spec = None if isinstance(arch, str) else network_spec(arch)
    if isinstance(spec, ArchSpec):
        return totals(spec, resolution)
    with skip_init():
        name, model = resolve(str(arch)) if spec is None else (f"{PREFIX}{spec.name}", build_network(spec))
    counts = checked_count(name, model, resolution)
    return Totals(counts.macs, counts.params)


def _stage(stage: StageSpec, entering: Map) -> Totals:
    """Count a stage by its first blocks: each period of further ones costs as much as the one before it."""
    *stages, repeats = stage.shortened()
    few, more = (_part(each, partial(build_stage, each), entering) for each in stages)
    macs, params = (a + repeats * (b - a) for a, b in zip(few, more, strict=True))
    return Totals(macs, params)


def _part(key: Hashable, make: Callable[[], nn.Module], *maps: Map, listed: bool = False) -> Totals:
    """Count a part, once in a process.

    Args:
        key: What the part is built from.
        make: Builds it.
        maps: Shapes of its inputs.
        listed: Whether it takes its inputs as one list.
    """
    cached = (key, maps)
    if cached not in _PARTS:
        with skip_init():
            part = make()
            images: list[Tensor] = [torch.empty(b, c, side, side) for b, c, side in maps]
        with evaluating(part), MacCountingMode() as mode:
            part(images) if listed else part(*images)
        _PARTS[cached] = Totals(mode.macs, sum(p.numel() for p in part.parameters()))
    return _PARTS[cached]
