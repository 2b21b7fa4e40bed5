"""Profile one network in depth, step by step: each step yields a whole `Profile` that can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from backbones import resolve
from nas.measure import Setting, environment
from nas.measure.counts import CounterResult, checked_count, compare_counters
from nas.measure.counts.compare import format_macs
from nas.measure.counts.operators import Operator, operators
from nas.measure.device_lock import exclusive_device
from nas.measure.prepare import apply_arm
from nas.measure.roofline import Ceilings, bound, load_ceilings, measure_ceilings, save_ceilings
from nas.measure.service import MeasurementService
from nas.measure.stages import called_modules, self_times, stage_times
from nas.profile.profiles import FAILURES, PARTS_SHARE, NetworkSettings, PartRow, Profile, Roofline, reason
from nas.profile.sweeps import SWEEPS, images
from search_space import SPACES, ArchSpec

MICRO_PX, FULL_PX = 64, 224
TIMING, PARTS = "timing", "stages and layers"


def fused_counter(macs: int, ours: int) -> CounterResult:
    """Return our count of the deploy form that is timed: `macs` against those of the network as it is trained."""
    saved = ours - macs
    if not saved:
        return CounterResult(
            "ours, fused", macs, "the form that is timed; folding BatchNorm leaves the products as they are"
        )
    return CounterResult(
        "ours, fused", macs, f"the form that is timed: {format_macs(saved)} are constants there (position bias)"
    )


@dataclass(frozen=True)
class PartWork:
    """The work of a part of the network in one call, apart from any device."""

    name: str
    params: int
    operators: tuple[Operator, ...]


def stage_work(parts: Sequence[tuple[str, str, int]], found: Sequence[Operator]) -> list[PartWork]:
    """Gather the work of parts given as (label, qualified module name, parameters)."""
    return [
        PartWork(label, params, tuple(o for o in found if o.module == name or o.module.startswith(f"{name}.")))
        for label, name, params in parts
    ]


def layer_work(found: Sequence[Operator]) -> list[PartWork]:
    """Gather the work of every module's own operators, without those of modules in it, in the order they first run."""
    by_module: dict[str, list[Operator]] = {}
    for operator in found:
        by_module.setdefault(operator.module, []).append(operator)
    return [PartWork(name, sum(o.params for o in own), tuple(own)) for name, own in by_module.items()]


def rows(
    work: Sequence[PartWork],
    times_s: Mapping[str, float],
    whole_s: float,
    batch: int,
    ceilings: Ceilings,
    pieces: int = 1,
) -> tuple[PartRow, ...]:
    """Make the table's rows from work timed in calls of `batch` images that take `whole_s`.

    pieces: in how many the network may cut the batch; what one of them touches decides how fast bytes can move.
    """
    return tuple(_row(w, times_s[w.name], whole_s, batch, ceilings, pieces) for w in work)


def _row(work: PartWork, seconds: float, whole_s: float, batch: int, ceilings: Ceilings, pieces: int) -> PartRow:
    limit = bound([(o.macs, o.moved_bytes, o.touched_bytes // pieces) for o in work.operators], ceilings)
    return PartRow(
        name=work.name,
        params=work.params,
        macs=sum(o.macs for o in work.operators) // batch,
        activations=sum(o.written for o in work.operators) // batch,
        activation_bytes=sum(o.written_bytes for o in work.operators) // batch,
        moved_bytes=sum(o.moved_bytes for o in work.operators),
        time_ms=seconds * 1e3,
        share=seconds / whole_s,
        bound=limit.kind,
        attainable_ms=limit.attainable_s * 1e3,
        utilisation=limit.attainable_s / seconds,
    )


Progress = Callable[[str, float], None]  # (what is being done, seconds that this network takes at most from now on)


def profiling(
    arch: str, settings: NetworkSettings, service: MeasurementService, progress: Progress
) -> Iterator[Profile]:
    """Yield the profile of `arch` (preset, timm:NAME or spec file) after each step.

    What cannot be measured ends it with a `failure`. The device's lock is held from the first timing to the last.

    Raises:
        ValueError: There is no such network, or it cannot take the resolution.
    """
    progress(f"{arch}: building", settings.planned_s)
    name, model = resolve(arch)
    progress(f"{name}: counting", settings.planned_s)
    known = counted(name, model, settings)
    yield known
    with exclusive_device(str(settings.device)):
        try:
            for step in _measured(arch, model, known, settings, service, progress):
                known = step
                yield known
        except FAILURES as error:
            yield replace(known, failure=f"{known.missing[0]}: {reason(error)}")
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()  # the next network is measured by another process


def _measured(
    arch: str,
    model: nn.Module,
    profile: Profile,
    settings: NetworkSettings,
    service: MeasurementService,
    progress: Progress,
) -> Iterator[Profile]:
    """Time the whole network on its runtime, in a process of its own; then its parts eagerly, in this one."""
    left_s, name = settings.planned_s, profile.arch
    progress(f"{name}: timing {profile.batch} x {profile.resolution} px beside {settings.reference}", left_s)
    profile = _timed(arch, profile, settings, service)
    yield profile
    left_s -= settings.seconds
    progress(f"{name}: timing its stages and layers", left_s)
    ready = apply_arm(model, settings.arm, settings.device)
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
    """Return 64 px for laptop-scale specs, else 224 px."""
    return MICRO_PX if spec is not None and SPACES["micro"].contains(spec) else FULL_PX


def default_batch(device: torch.device, resolution: int) -> int:
    """Return the search's own batch size; on a CPU less at full resolution, where 16 images may take ten seconds."""
    if device.type == "cuda":
        return 128
    return 16 if resolution <= 2 * MICRO_PX else 4


def counted(name: str, model: nn.Module, settings: NetworkSettings) -> Profile:
    """Count a network without timing. Raises ValueError where it cannot take the resolution."""
    spec = getattr(model, "spec", None)
    resolution = settings.resolution or default_resolution(spec)
    counts = checked_count(name, model, resolution)
    return Profile(
        arch=name,
        arch_id=spec.arch_id if spec is not None else None,
        batch=settings.batch or default_batch(settings.device, resolution),
        resolution=resolution,
        counts=counts,
        counters=compare_counters(model, resolution, counts),
        environment=environment(str(settings.device)),
        missing=(TIMING, PARTS, *map(_sweep_step, settings.sweeps)),
    )


def _timed(arch: str, profile: Profile, settings: NetworkSettings, service: MeasurementService) -> Profile:
    setting = Setting(
        device=str(settings.device),
        batch=profile.batch,
        resolution=profile.resolution,
        arm=settings.arm,
        budget_s=settings.seconds,
    )
    found = service.measure(arch, settings.reference, setting, name_of_reference=settings.reference).record
    return _done(profile, TIMING, measurement=found, batch=found.batch)  # memory may have been too small


def _parted(profile: Profile, ready: nn.Module, settings: NetworkSettings) -> Profile:
    """Time stages and layers and hold them against the ceilings."""
    drawn = images(profile.batch, profile.resolution, settings)
    parts = called_modules(ready, ready.stage_modules(), drawn[:1])  # type: ignore[operator]
    stages = stage_times(ready, parts, drawn, PARTS_SHARE * settings.seconds)
    layers = self_times(ready, drawn, PARTS_SHARE * settings.seconds)
    found = operators(ready, profile.batch, profile.resolution, settings.arm.dtype)
    names = {id(module): name for name, module in ready.named_modules()}
    labels = [(label, names[id(m)], sum(p.numel() for p in m.parameters())) for label, m in parts]

    # On a CPU stages take some images at a time, so that caches keep what they write; one at a time at the least.
    pieces = profile.batch if settings.device.type == "cpu" else 1

    def tables(ceilings: Ceilings) -> tuple[tuple[PartRow, ...], tuple[PartRow, ...]]:
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
    tables: Callable[[Ceilings], tuple[tuple[PartRow, ...], tuple[PartRow, ...]]], settings: NetworkSettings
) -> tuple[tuple[PartRow, ...], tuple[PartRow, ...], Roofline]:
    """Hold rows of stages and layers against the device's ceilings; measure these again, once, if a row is above."""
    ceilings = None if settings.new_ceilings else load_ceilings(settings.device, settings.arm.precision, settings.cache)
    if ceilings is None:
        ceilings = measure_ceilings(settings.device, settings.arm.precision)
        save_ceilings(ceilings, settings.cache)
    over = _over(tables(ceilings))
    if over:
        ceilings = ceilings.highest(measure_ceilings(settings.device, settings.arm.precision))
        save_ceilings(ceilings, settings.cache)
    stages, layers = tables(ceilings)
    return stages, layers, Roofline(ceilings, measured_again=bool(over), over=_over((stages, layers)))


def _over(tables: tuple[tuple[PartRow, ...], ...]) -> tuple[str, ...]:
    return tuple(row.name for table in tables for row in table if row.utilisation > 1)


def _sweep_step(kind: str) -> str:
    return f"{kind} sweep"


def _done(profile: Profile, step: str, **found: Any) -> Profile:
    return replace(profile, missing=tuple(m for m in profile.missing if m != step), **found)
