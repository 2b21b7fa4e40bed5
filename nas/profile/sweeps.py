"""Time a network over batch sizes and resolutions, and count the cost of windows that don't divide their map."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from backbones import Backbone
from backbones.layers.vit import fitted_window
from nas.measure.conditions import Conditions
from nas.measure.counts import checked_count
from nas.measure.counts.macs import MacCountingMode, evaluating, meta_copy
from nas.measure.memory import largest_fitting, out_of_memory, release_cached
from nas.measure.pair import launch_share, take_watched, watch_for
from nas.measure.round_robin import CallTimes, interleaved_times
from nas.measure.runtimes.contract import encoder
from nas.measure.timers import Call, timer_for
from nas.measure.verdicts import device_notes
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import Point, Profile, Sweep, WindowCost
from nas.study.timing_doubts import speed_doubt
from search_space import BLOCK_FIELDS, StageSpec

BUFFERS = 2


def window_costs(model: Backbone, resolution: int, stage_macs: Mapping[int, int]) -> list[WindowCost]:
    """Return the stages whose windows don't divide their feature map.

    Args:
        model: A backbone.
        resolution: Side of its square input images, in pixels.
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
        windows = stage.windows
        needed, run = _tokens(stage, side, resized)
        if run > needed:
            fitting_macs = round(_macs_on(module, stage.width, resized) * needed / run)
            extra_macs = stage_macs[number] - fitting_macs
            costs.append(WindowCost(number, windows, side, resized, run / needed - 1, extra_macs))
    return costs


def _tokens(stage: StageSpec, side: int, resized: int) -> tuple[float, int]:
    """Return how many tokens the attention blocks of a stage need for its map, and on how many they run."""
    ratios, windows = stage.attention_ratios, stage.windows
    if "global_every" in BLOCK_FIELDS[stage.block]:
        padded = _up(side, fitted_window(side, windows[0]))
        return stage.depth * side**2, sum((side if each else padded) ** 2 for each in stage.global_layers)
    needed = sum((side / ratio) ** 2 for ratio in ratios)
    return needed, sum(_up(-(-resized // r), window) ** 2 for r, window in zip(ratios, windows, strict=True))


def _macs_on(stage: nn.Module, width: int, side: int) -> int:
    """Return the MACs of a stage on a map that needs no resizing, where blocks compute every token."""
    copy, counter = meta_copy(stage), MacCountingMode()
    with evaluating(copy), counter:
        copy(torch.empty(1, width, side, side, device="meta"))
    return counter.macs


def _up(side: int, step: int) -> int:
    return -(-side // step) * step


def images(batch: int, resolution: int, settings: ProfileSettings) -> Tensor:
    """Return normally distributed images (batch, 3, resolution, resolution) as the settings' arm takes them."""
    drawn = torch.randn(batch, 3, resolution, resolution).to(settings.torch_device, settings.arm.dtype)
    return drawn.contiguous(memory_format=settings.arm.memory_format)


def batch_sweep(model: nn.Module, ready: nn.Module, profile: Profile, settings: ProfileSettings) -> Sweep:
    """Time all batch sizes at the profile's resolution, and the largest that fits where memory is too small.

    Args:
        model: The network as it was built.
        ready: The network on its device, in its arm's precision, layout and form.
        profile: The network's profile so far.
        settings: How to profile.
    """
    used: dict[int, int] = {}  # requested -> batch
    refused: dict[int, str] = {}

    def fits(batch: int) -> bool:
        return _fitting_call(ready, batch, profile.resolution, settings) is not None

    sizes = sorted(set(settings.sweeps["batch"]))
    for size in sizes:
        if fits(size):
            used[size] = size
            continue
        previous = max(used.values(), default=0)
        largest = largest_fitting(fits, previous, size)
        refused[size] = f"out of memory; {largest} fits" if largest else "out of memory, even for one image"
        refused |= {larger: f"larger than {size}" for larger in sizes if larger > size}
        if largest > previous:
            used[size] = largest
        break
    drawn = [images(max(used.values(), default=1), profile.resolution, settings) for _ in range(BUFFERS)]
    calls = {size: _call(ready, *(d[:batch] for d in drawn)) for size, batch in used.items()}
    macs = profile.counts.macs
    return Sweep(_points(calls, settings, lambda size: (used[size], profile.resolution, macs, ())), refused)


def resolution_sweep(model: nn.Module, ready: nn.Module, profile: Profile, settings: ProfileSettings) -> Sweep:
    """Time all resolutions at the profile's batch, except those that the network does not accept.

    Args:
        model: The network as it was built.
        ready: The network on its device, in its arm's precision, layout and form.
        profile: The network's profile so far.
        settings: How to profile.
    """
    calls: dict[int, Call] = {}
    costs: dict[int, tuple[int, tuple[WindowCost, ...]]] = {}
    refused: dict[int, str] = {}
    for size in sorted(set(settings.sweeps["resolution"])):
        try:
            counts = checked_count(profile.arch, model, size)
        except ValueError as error:
            refused[size] = str(error)
            continue
        call = _fitting_call(ready, profile.batch, size, settings)
        if call is None:
            refused[size] = "out of memory"
            continue
        stage_macs = {i: counts.module_macs.get(f"stages.{i - 1}", 0) for i in range(1, 5)}
        windows = window_costs(model, size, stage_macs) if isinstance(model, Backbone) else []
        calls[size], costs[size] = call, (counts.macs, tuple(windows))
    return Sweep(_points(calls, settings, lambda size: (profile.batch, size, *costs[size])), refused)


def _points(
    calls: dict[int, Call],
    settings: ProfileSettings,
    about: Callable[[int], tuple[int, int, int, tuple[WindowCost, ...]]],
) -> tuple[Point, ...]:
    """Return the timed points of `calls`.

    Args:
        calls: By requested size.
        settings: How to profile.
        about: Returns (batch, resolution, MACs, windows) of a requested size.
    """
    timer = timer_for(settings.torch_device)

    def take() -> list[tuple[int, CallTimes, float | None]]:
        times = interleaved_times(calls, timer, settings.seconds, np.random.default_rng(0))
        return [(size, timed, launch_share(calls[size], timed.time_s.value, timer)) for size, timed in times.items()]

    with torch.inference_mode():
        taken, conditions, tries = take_watched(take, timer, watch_for(settings.torch_device))
    return tuple(_point(size, about(size), times, share, conditions, tries) for size, times, share in taken)


def _point(
    requested: int,
    about: tuple[int, int, int, tuple[WindowCost, ...]],
    times: CallTimes,
    share: float | None,
    conditions: Conditions,
    tries: int,
) -> Point:
    batch, resolution, macs, windows = about
    verdict, no_interval = times.verdict(conditions, share), times.interval_doubt
    p50_ms, p95_ms, p99_ms = (times.percentile_ms(q) for q in (50, 95, 99))
    return Point(
        requested=requested,
        batch=batch,
        resolution=resolution,
        macs=macs,
        throughput_img_s=batch / times.time_s.value,
        throughput_low_img_s=batch / times.time_s.high if no_interval is None else None,
        throughput_high_img_s=batch / times.time_s.low if no_interval is None else None,
        time_ms=times.time_s.value * 1e3,
        samples=times.samples,
        verdict=verdict,
        doubt=speed_doubt(verdict, no_interval),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        windows=windows,
        launch_share=share,
        tries=tries,
        notes=tuple(device_notes(conditions, tries)),
        conditions=conditions.summary(),
    )


def _call(ready: nn.Module, *drawn: Tensor) -> Call:
    """Return a call that encodes the inputs in turn, so that none is still in a cache from the previous call."""
    encode, turn = encoder(ready), itertools.cycle(drawn)
    return lambda: encode(next(turn))


def _fitting_call(ready: nn.Module, batch: int, resolution: int, settings: ProfileSettings) -> Call | None:
    """Return the call that is timed, with its inputs, after it has run once; None where memory is too small for both.

    Raises:
        RuntimeError: The call fails for another reason.
    """
    try:
        call = _call(ready, *(images(batch, resolution, settings) for _ in range(BUFFERS)))
        with torch.inference_mode():
            call()
        return call
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    release_cached(settings.torch_device.type)  # after the handler, for the error holds the tensors
    return None


SWEEPS: dict[str, Callable[[nn.Module, nn.Module, Profile, ProfileSettings], Sweep]] = {
    "batch": batch_sweep,
    "resolution": resolution_sweep,
}
