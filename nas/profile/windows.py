"""What it costs when windows don't divide a map: the map is resized or padded to more tokens than it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from backbones import Backbone
from nas.measure.counts.macs import MacCountingMode, evaluating, meta_copy


@dataclass(frozen=True)
class WindowCost:
    """A stage whose windows don't divide its map at one input size."""

    stage: int  # counted from 1
    windows: tuple[int, ...]  # one an attention block of a layer
    map_side: int
    resized_side: int  # what the whole stage runs on
    extra_tokens: float  # share of the tokens that attention would see without: 0.5 is half as many again
    extra_macs: int  # of one image. Exact where the stage is resized, for all of it goes by tokens; padded, an estimate


def window_costs(model: Backbone, resolution: int, stage_macs: Mapping[int, int]) -> list[WindowCost]:
    """The stages of `model` whose windows don't divide the map of square images of `resolution` px.

    stage_macs: MACs of one image at that resolution, by stage counted from 1.
    """
    costs = []
    for number, (stage, module, stride) in enumerate(
        zip(model.spec.stages, model.stages, model.strides, strict=False), start=1
    ):
        if stage.window is None:
            continue
        side = -(-resolution // stride)
        resized = _up(side, int(module.step))  # type: ignore[arg-type]
        ratios, windows = stage.resolutions
        needed = sum((side / ratio) ** 2 for ratio in ratios)
        run = sum(_up(-(-resized // r), window) ** 2 for r, window in zip(ratios, windows, strict=True))
        if run > needed:
            fitting_macs = round(_macs_on(module, stage.width, resized) * needed / run)
            extra_macs = stage_macs[number] - fitting_macs
            costs.append(WindowCost(number, windows, side, resized, run / needed - 1, extra_macs))
    return costs


def _macs_on(stage: nn.Module, width: int, side: int) -> int:
    """MACs of a stage on a map that it need not resize: there no block leaves out what a resize back would drop."""
    hollow, tally = meta_copy(stage), MacCountingMode()
    with evaluating(hollow), tally:
        hollow(torch.empty(1, width, side, side, device="meta"))
    return tally.macs


def _up(side: int, step: int) -> int:
    return -(-side // step) * step
