"""Throughput over batch sizes and over resolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Backbone
from nas.measure.sweep import CallTimes, largest_that_fits, out_of_memory, times_by_turns
from nas.measure.timers import Call, timer_for
from nas.profile.counting import checked_count
from nas.profile.records import Point, Profile, Settings, Sweep
from nas.profile.windows import WindowCost, window_costs

BUFFERS = 2


def images(batch: int, resolution: int, settings: Settings) -> Tensor:
    """Random normal images (batch, 3, resolution, resolution) on the device, in the arm's precision and layout."""
    drawn = torch.randn(batch, 3, resolution, resolution).to(settings.device, settings.arm.dtype)
    return drawn.contiguous(memory_format=settings.arm.memory_format)


def batch_sweep(model: nn.Module, ready: nn.Module, profile: Profile, settings: Settings) -> Sweep:
    """Times all sizes at the profile's resolution; only memory ends it, and then what fits is timed.

    model: as it was built; ready: on its device, in its arm's precision, layout and form.
    """
    used: dict[int, int] = {}  # requested -> batch
    refused: dict[int, str] = {}

    def fits(batch: int) -> bool:
        return _runs(_call(ready, images(batch, profile.resolution, settings)), settings)

    sizes = sorted(set(settings.sweeps["batch"]))
    for size in sizes:
        if fits(size):
            used[size] = size
            continue
        known = max(used.values(), default=0)
        largest = largest_that_fits(fits, known, size)
        refused[size] = f"out of memory; {largest} fits" if largest else "out of memory, even for one image"
        refused |= {larger: f"more than {size}" for larger in sizes if larger > size}
        if largest > known:
            used[size] = largest
        break
    drawn = [images(max(used.values(), default=1), profile.resolution, settings) for _ in range(BUFFERS)]
    calls = {size: _call(ready, *(d[:batch] for d in drawn)) for size, batch in used.items()}
    macs = profile.counts.macs
    return Sweep(_points(calls, settings, lambda size: (used[size], profile.resolution, macs, ())), refused)


def resolution_sweep(model: nn.Module, ready: nn.Module, profile: Profile, settings: Settings) -> Sweep:
    """Times all sizes at the profile's batch; one that the network cannot take is refused."""
    calls: dict[int, Call] = {}
    costs: dict[int, tuple[int, tuple[WindowCost, ...]]] = {}
    refused: dict[int, str] = {}
    for size in sorted(set(settings.sweeps["resolution"])):
        try:
            counts = checked_count(profile.arch, model, size)
        except ValueError as error:
            refused[size] = str(error)
            continue
        call = _call(ready, *(images(profile.batch, size, settings) for _ in range(BUFFERS)))
        if not _runs(call, settings):
            refused[size] = "out of memory"
            continue
        stage_macs = {i: counts.module_macs.get(f"stages.{i - 1}", 0) for i in range(1, 5)}
        windows = window_costs(model, size, stage_macs) if isinstance(model, Backbone) else []
        calls[size], costs[size] = call, (counts.macs, tuple(windows))
    return Sweep(_points(calls, settings, lambda size: (profile.batch, size, *costs[size])), refused)


def _points(
    calls: dict[int, Call], settings: Settings, about: Callable[[int], tuple[int, int, int, tuple[WindowCost, ...]]]
) -> tuple[Point, ...]:
    """about: (batch, resolution, MACs, windows) of a requested size."""
    timer = timer_for(settings.device)
    with torch.inference_mode():
        times = times_by_turns(calls, timer, settings.seconds, np.random.default_rng(0))
    return tuple(_point(requested, found, *about(requested)) for requested, found in times.items())


def _point(
    requested: int, found: CallTimes, batch: int, resolution: int, macs: int, windows: tuple[WindowCost, ...]
) -> Point:
    p50_ms, p95_ms, p99_ms = (found.percentile_ms(q) for q in (50, 95, 99))
    return Point(
        requested=requested,
        batch=batch,
        resolution=resolution,
        macs=macs,
        throughput_img_s=batch / found.time_s.value,
        throughput_low_img_s=batch / found.time_s.high,
        throughput_high_img_s=batch / found.time_s.low,
        time_ms=found.time_s.value * 1e3,
        samples=found.samples,
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        windows=windows,
    )


def _call(ready: nn.Module, *drawn: Tensor) -> Call:
    """Encodes one of the inputs after the other, so that none stays in a cache from the call before."""
    encode: Callable[[Tensor], Any] = getattr(ready, "encode", ready)
    turn = itertools.cycle(drawn)
    return lambda: encode(next(turn))


def _runs(call: Call, settings: Settings) -> bool:
    """Whether the call goes through; False where memory runs out, any other error is raised."""
    try:
        with torch.inference_mode():
            call()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()
        return False
    return True


SWEEPS: dict[str, Callable[[nn.Module, nn.Module, Profile, Settings], Sweep]] = {
    "batch": batch_sweep,
    "resolution": resolution_sweep,
}
