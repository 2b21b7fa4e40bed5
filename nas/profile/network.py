"""One network in depth, step by step: what is known after each step is a whole `Profile` that can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from backbones import resolve
from nas.measure import Setting, environment
from nas.measure.counts import side_by_side
from nas.measure.counts.operators import operators
from nas.measure.device_lock import exclusive_device
from nas.measure.prepare import in_arm
from nas.measure.roofline import Ceilings, keep_ceilings, kept_ceilings, measure_ceilings
from nas.measure.service import MeasurementService
from nas.measure.stages import called_parts, own_times, stage_times
from nas.profile.counting import checked_count, fused_counter
from nas.profile.failures import FAILURES, reason
from nas.profile.parts import layer_work, rows, stage_work
from nas.profile.records import PARTS_SHARE, Profile, Roofline, Row, Settings
from nas.profile.sweeps import SWEEPS, images
from search_space import SPACES, ArchSpec

MICRO_PX, FULL_PX = 64, 224
TIMING, PARTS = "timing", "stages and layers"

Progress = Callable[[str, float], None]  # (what is being done, seconds that this network takes at most from now on)


def profiling(arch: str, settings: Settings, bench: MeasurementService, progress: Progress) -> Iterator[Profile]:
    """The profile of `arch` (preset, timm:NAME or spec file) after each step. ValueError for what a person got wrong.

    What cannot be measured ends it with a `failure`. Holds the device's lock from the first timing to the last.
    """
    progress(f"{arch}: building", settings.planned_s)
    name, model = resolve(arch)
    progress(f"{name}: counting", settings.planned_s)
    known = counted(name, model, settings)
    yield known
    with exclusive_device(str(settings.device)):
        try:
            for step in _measured(arch, model, known, settings, bench, progress):
                known = step
                yield known
        except FAILURES as error:
            yield replace(known, failure=f"{known.missing[0]}: {reason(error)}")
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()  # the next network is measured by another process


def _measured(
    arch: str, model: nn.Module, profile: Profile, settings: Settings, bench: MeasurementService, progress: Progress
) -> Iterator[Profile]:
    """What is timed: the whole network in its arm, in a process of its own; then its parts eagerly, in this one."""
    left_s, name = settings.planned_s, profile.arch
    progress(f"{name}: timing {profile.batch} x {profile.resolution} px beside {settings.reference}", left_s)
    profile = _timed(arch, profile, settings, bench)
    yield profile
    left_s -= settings.seconds
    progress(f"{name}: timing its stages and layers", left_s)
    ready = in_arm(model, settings.arm, settings.device)
    profile = _parted(profile, ready, settings)
    yield profile
    left_s -= 2 * PARTS_SHARE * settings.seconds
    for kind, sizes in settings.sweeps.items():
        progress(f"{name}: {kind} sweep over {', '.join(map(str, sizes))}", left_s)
        found = SWEEPS[kind](model, ready, profile, settings)
        profile = _done(profile, _sweep_step(kind), sweeps={**profile.sweeps, kind: found})
        yield profile
        left_s -= settings.seconds


def default_resolution(spec: ArchSpec | None) -> int:
    """64 px for laptop-scale specs, else 224 px."""
    return MICRO_PX if spec is not None and SPACES["micro"].contains(spec) else FULL_PX


def default_batch(device: torch.device, resolution: int) -> int:
    """The search's own batch sizes; on a CPU less at full resolution, where 16 images may take ten seconds."""
    if device.type == "cuda":
        return 128
    return 16 if resolution <= 2 * MICRO_PX else 4


def counted(name: str, model: nn.Module, settings: Settings) -> Profile:
    """What is known without timing. ValueError where the network cannot take the resolution."""
    spec = getattr(model, "spec", None)
    resolution = settings.resolution or default_resolution(spec)
    counts = checked_count(name, model, resolution)
    return Profile(
        arch=name,
        arch_id=spec.arch_id if spec is not None else None,
        batch=settings.batch or default_batch(settings.device, resolution),
        resolution=resolution,
        counts=counts,
        counters=side_by_side(model, resolution, counts),
        environment=environment(str(settings.device)),
        missing=(TIMING, PARTS, *map(_sweep_step, settings.sweeps)),
    )


def _timed(arch: str, profile: Profile, settings: Settings, bench: MeasurementService) -> Profile:
    setting = Setting(
        device=str(settings.device),
        batch=profile.batch,
        resolution=profile.resolution,
        arm=settings.arm,
        budget_s=settings.seconds,
    )
    found = bench.measure(arch, settings.reference, setting, name_of_reference=settings.reference).record
    return _done(profile, TIMING, measurement=found, batch=found.batch)  # memory may have been too small


def _parted(profile: Profile, ready: nn.Module, settings: Settings) -> Profile:
    """Stages and layers, timed and held against the ceilings; those are measured again if a row lies over them."""
    drawn = images(profile.batch, profile.resolution, settings)
    parts = called_parts(ready, ready.stage_modules(), drawn[:1])  # type: ignore[operator]
    stages = stage_times(ready, parts, drawn, PARTS_SHARE * settings.seconds)
    layers = own_times(ready, drawn, PARTS_SHARE * settings.seconds)
    found = operators(ready, profile.batch, profile.resolution, settings.arm.dtype)
    names = {id(module): name for name, module in ready.named_modules()}
    labels = [(label, names[id(m)], sum(p.numel() for p in m.parameters())) for label, m in parts]

    # On a CPU stages take some images at a time, so that caches keep what they write; one at a time at the least.
    pieces = profile.batch if settings.device.type == "cpu" else 1

    def tables(ceilings: Ceilings) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        return (
            rows(stage_work(labels, found), stages.stages_s, stages.whole_s, profile.batch, ceilings, pieces),
            rows(layer_work(found), layers.stages_s, layers.whole_s, profile.batch, ceilings, pieces),
        )

    stage_rows, layer_rows, roofline = held_against_ceilings(tables, settings)
    fused = [fused_counter(sum(o.macs for o in found) // profile.batch, profile.counts.macs)]
    return _done(
        profile,
        PARTS,
        counters=(*profile.counters, *(fused if settings.arm.form == "fused" else [])),
        stages=stage_rows,
        stages_covered=stages.covered,
        layers=layer_rows,
        layers_slowed=layers.whole_s / stages.whole_s - 1,
        roofline=roofline,
    )


def held_against_ceilings(
    tables: Callable[[Ceilings], tuple[tuple[Row, ...], tuple[Row, ...]]], settings: Settings
) -> tuple[tuple[Row, ...], tuple[Row, ...], Roofline]:
    """Rows of stages and layers by the device's ceilings. If one lies over them, they are measured again, once."""
    ceilings = None if settings.new_ceilings else kept_ceilings(settings.device, settings.arm.precision, settings.cache)
    if ceilings is None:
        ceilings = measure_ceilings(settings.device, settings.arm.precision)
        keep_ceilings(ceilings, settings.cache)
    over = _over(tables(ceilings))
    if over:
        ceilings = ceilings.raised(measure_ceilings(settings.device, settings.arm.precision))
        keep_ceilings(ceilings, settings.cache)
    stages, layers = tables(ceilings)
    return stages, layers, Roofline(ceilings, measured_again=bool(over), over=_over((stages, layers)))


def _over(tables: tuple[tuple[Row, ...], ...]) -> tuple[str, ...]:
    return tuple(row.name for table in tables for row in table if row.utilisation > 1)


def _sweep_step(kind: str) -> str:
    return f"{kind} sweep"


def _done(profile: Profile, step: str, **found: Any) -> Profile:
    return replace(profile, missing=tuple(m for m in profile.missing if m != step), **found)
