"""Time a network over batch sizes and resolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from nas.measure.conditions import Conditions
from nas.measure.counts import checked_count
from nas.measure.memory import largest_fitting, out_of_memory, release_cached
from nas.measure.pair import launch_share, take_watched, watch_for
from nas.measure.round_robin import CallTimes, interleaved_times
from nas.measure.runtimes.contract import encoder
from nas.measure.timers import Call, timer_for
from nas.measure.verdicts import device_notes
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import Point, Profile, Sweep
from nas.study.timing_doubts import speed_doubt

BUFFERS = 2


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
    return Sweep(_points(calls, settings, lambda size: (used[size], profile.resolution, macs)), refused)


def resolution_sweep(model: nn.Module, ready: nn.Module, profile: Profile, settings: ProfileSettings) -> Sweep:
    """Time all resolutions at the profile's batch, except those that the network does not accept.

    Args:
        model: The network as it was built.
        ready: The network on its device, in its arm's precision, layout and form.
        profile: The network's profile so far.
        settings: How to profile.
    """
    calls: dict[int, Call] = {}
    macs: dict[int, int] = {}
    refused: dict[int, str] = {}
    for size in sorted(set(settings.sweeps["resolution"])):
        try:
            counted = checked_count(profile.arch, model, size).macs
        except ValueError as error:
            refused[size] = str(error)
            continue
        call = _fitting_call(ready, profile.batch, size, settings)
        if call is None:
            refused[size] = "out of memory"
            continue
        calls[size], macs[size] = call, counted
    return Sweep(_points(calls, settings, lambda size: (profile.batch, size, macs[size])), refused)


def _points(
    calls: dict[int, Call], settings: ProfileSettings, about: Callable[[int], tuple[int, int, int]]
) -> tuple[Point, ...]:
    """Return the timed points of `calls`.

    Args:
        calls: By requested size.
        settings: How to profile.
        about: Returns (batch, resolution, MACs) of a requested size.
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
    about: tuple[int, int, int],
    times: CallTimes,
    share: float | None,
    conditions: Conditions,
    tries: int,
) -> Point:
    batch, resolution, macs = about
    verdict, no_interval = times.verdict(conditions, share), times.interval_doubt
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
