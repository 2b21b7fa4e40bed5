"""Profile one network in steps; each step yields a `Profile` that can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from backbones import Network, resolve
from nas.machine import cache_root
from nas.measure import Setting
from nas.measure.counts import CounterResult, checked_count, compare_counters
from nas.measure.counts.compare import format_macs
from nas.measure.counts.operators import Operator, operators
from nas.measure.device_lock import exclusive_device, shared_device
from nas.measure.environment import environment
from nas.measure.memory import out_of_memory, release_cached
from nas.measure.pair import launch_share, take_watched, watch_for
from nas.measure.prepare import apply_arm
from nas.measure.roofline import Ceilings, bound, load_ceilings, measure_ceilings, save_ceilings
from nas.measure.runtimes.contract import encoder
from nas.measure.service import MeasurementService
from nas.measure.stages import StageTimes, called_modules, self_times, stage_times
from nas.measure.timers import timer_for
from nas.measure.verdicts import device_verdict
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import (
    FAILURES,
    PARTS_SHARE,
    OutputShape,
    PartRow,
    Profile,
    Roofline,
    failure_reason,
    planned_s,
)
from nas.profile.sweeps import SWEEPS, images
from search_space import ArchSpec, NetworkSpec
from search_space.spaces import PHOTO_PX, space_of

TIMING, PARTS = "timing", "stages and layers"


def fused_counter(macs: int, ours: int) -> CounterResult:
    """Return the project's own count of the fused form, which is the form that is timed.

    Args:
        macs: Multiply-accumulates of the fused form.
        ours: Multiply-accumulates of the network as it is trained.
    """
    saved = ours - macs
    reason = (
        f"{format_macs(saved)} (position bias) become constants" if saved else "folding BatchNorm saves no products"
    )
    return CounterResult("ours, fused", macs, f"the form that is timed: {reason}")


@dataclass(frozen=True)
class PartWork:
    """The operators of a part of the network in one call, independent of any device."""

    name: str
    params: int
    operators: tuple[Operator, ...]


def stage_work(parts: Sequence[tuple[str, str, int]], calls: Sequence[Operator]) -> list[PartWork]:
    """Return the work of each of `parts`: (label, qualified module name, parameters)."""
    return [
        PartWork(label, params, tuple(o for o in calls if o.module == name or o.module.startswith(f"{name}.")))
        for label, name, params in parts
    ]


def layer_work(calls: Sequence[Operator]) -> list[PartWork]:
    """Return the work of each module without that of its submodules, in the order of execution."""
    by_module: dict[str, list[Operator]] = {}
    for operator in calls:
        by_module.setdefault(operator.module, []).append(operator)
    return [PartWork(name, sum(o.params for o in group), tuple(group)) for name, group in by_module.items()]


def rows(
    work: Sequence[PartWork],
    times_s: Mapping[str, float],
    whole_s: float,
    batch: int,
    ceilings: Ceilings,
    pieces: int = 1,
) -> tuple[PartRow, ...]:
    """Return the table's rows, one for each part.

    Args:
        work: Operators of each part, in a call of `batch` images.
        times_s: Seconds of each part, by name.
        whole_s: Seconds of the whole call.
        batch: Images of the call.
        ceilings: Ceilings of the device.
        pieces: Number of pieces that the network may split the batch into. The bytes that one piece touches decide
            which memory's bandwidth applies.
    """
    return tuple(_row(w, times_s[w.name], whole_s, batch, ceilings, pieces) for w in work)


def _row(work: PartWork, seconds: float, whole_s: float, batch: int, ceilings: Ceilings, pieces: int) -> PartRow:
    limit = bound([(o.macs, o.moved_bytes, o.touched_bytes // pieces, o.is_product) for o in work.operators], ceilings)
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
        utilization=limit.attainable_s / seconds,
    )


Progress = Callable[[str, float], None]  # (step, seconds that this network still takes at most)


def profile_network(
    arch: str, settings: ProfileSettings, service: MeasurementService, progress: Progress
) -> Iterator[Profile]:
    """Yield the profile of a network after each step.

    A failed measurement ends the profile, which then has a `failure`. The device's lock is held from the first timing
    to the last.

    Args:
        arch: Preset, timm:NAME or spec file.
        settings: How to profile.
        service: Process that measures.
        progress: Receives each step.

    Raises:
        ValueError: There is no such network, or it does not accept the resolution.
    """
    progress(f"{arch}: building and counting", planned_s(settings))
    with shared_device("cpu"):  # which builds and counts, whatever the network is timed on
        name, model = resolve(arch)
        profile = count_network(name, model, settings)
    yield profile
    progress(f"{name}: waiting for its turn on {settings.torch_device}", planned_s(settings))
    with exclusive_device(str(settings.torch_device)):
        try:
            for step in _measure(arch, model, profile, settings, service, progress):
                profile = step
                yield profile
        except FAILURES as error:
            yield replace(profile, failure=f"{profile.missing[0]}: {failure_reason(error)}")
    if settings.torch_device.type == "cuda":
        torch.cuda.empty_cache()  # the next network is measured by another process


def _measure(
    arch: str,
    model: nn.Module,
    profile: Profile,
    settings: ProfileSettings,
    service: MeasurementService,
    progress: Progress,
) -> Iterator[Profile]:
    """Time the whole network on its runtime in another process, then its parts eagerly in this process."""
    left_s, name = planned_s(settings), profile.arch
    progress(f"{name}: timing {profile.batch} x {profile.resolution} px against {settings.against}", left_s)
    profile = _time_network(arch, profile, settings, service)
    yield profile
    left_s -= settings.seconds
    progress(f"{name}: timing stages and layers", left_s)
    ready = apply_arm(model, settings.arm, settings.torch_device)
    profile = _time_fitting_parts(profile, ready, settings)
    yield profile
    left_s -= 2 * PARTS_SHARE * settings.seconds
    for kind, sizes in settings.sweeps.items():
        progress(f"{name}: {kind} sweep over {', '.join(map(str, sizes))}", left_s)
        sweep = SWEEPS[kind](model, ready, profile, settings)
        profile = _complete(profile, _sweep_step(kind), sweeps={**profile.sweeps, kind: sweep})
        yield profile
        left_s -= settings.seconds


def default_resolution(spec: NetworkSpec) -> int:
    """Return the side in px of the images that a spec's space is designed for; 224 where it is in no space."""
    space = space_of(spec) if isinstance(spec, ArchSpec) else None
    return PHOTO_PX if space is None else space.image_px


def count_network(name: str, model: Network, settings: ProfileSettings) -> Profile:
    """Count a network without timing it.

    Raises:
        ValueError: The network does not accept the resolution.
    """
    resolution = settings.img_size or default_resolution(model.spec)
    counts = checked_count(name, model, resolution)
    return Profile(
        arch=name,
        arch_id=model.spec.arch_id,
        batch=settings.batch_at(resolution),
        resolution=resolution,
        counts=counts,
        counters=compare_counters(model, resolution, counts),
        environment=environment(str(settings.torch_device), settings.arm),
        missing=(TIMING, PARTS, *map(_sweep_step, settings.sweeps)),
        output=OutputShape(model.spatial_stride, model.spatial_dim, model.summary_dim),
    )


def _time_network(arch: str, profile: Profile, settings: ProfileSettings, service: MeasurementService) -> Profile:
    setting = Setting(
        device=str(settings.torch_device),
        batch=profile.batch,
        resolution=profile.resolution,
        arm=settings.arm,
        budget_s=settings.seconds,
    )
    record = service.measure(arch, settings.against, setting, name_of_reference=settings.against).record
    return _complete(profile, TIMING, measurement=record, batch=record.batch)  # less, where memory was too small


def _time_fitting_parts(profile: Profile, ready: nn.Module, settings: ProfileSettings) -> Profile:
    """Time stages and layers; leave them out, with a note, where memory is too small for the network in eager mode."""
    try:
        return _time_parts(profile, ready, settings)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    release_cached(settings.torch_device.type)  # after the handler, for the error holds the tensors
    note = f"no stages and layers: memory is too small for a batch of {profile.batch} in eager mode, which times them"
    return _complete(profile, PARTS, parts_note=note)


def _time_parts(profile: Profile, ready: nn.Module, settings: ProfileSettings) -> Profile:
    """Time stages and layers and compare them with the ceilings."""
    drawn = images(profile.batch, profile.resolution, settings)
    parts = called_modules(ready, ready.stage_modules(), drawn[:1])  # type: ignore[operator]
    timer, encode = timer_for(settings.torch_device), encoder(ready)

    def take() -> tuple[StageTimes, StageTimes, float | None]:
        stages = stage_times(ready, parts, drawn, PARTS_SHARE * settings.seconds)
        layers = self_times(ready, drawn, PARTS_SHARE * settings.seconds)
        with torch.inference_mode():
            return stages, layers, launch_share(lambda: encode(drawn), stages.whole_s, timer)

    (stages, layers, share), conditions, _ = take_watched(take, timer, watch_for(settings.torch_device))
    calls = operators(ready, profile.batch, profile.resolution, settings.arm.dtype)
    names = {id(module): name for name, module in ready.named_modules()}
    labels = [(label, names[id(m)], sum(p.numel() for p in m.parameters())) for label, m in parts]

    # On a CPU stages process a few images at a time, so that their outputs stay in the caches: one image at least.
    pieces = profile.batch if settings.torch_device.type == "cpu" else 1

    def tables(ceilings: Ceilings) -> tuple[tuple[PartRow, ...], tuple[PartRow, ...]]:
        return (
            rows(stage_work(labels, calls), stages.stages_s, stages.whole_s, profile.batch, ceilings, pieces),
            rows(layer_work(calls), layers.stages_s, layers.whole_s, profile.batch, ceilings, pieces),
        )

    stage_rows, layer_rows, roofline = compare_with_ceilings(tables, settings)
    fused = [fused_counter(sum(o.macs for o in calls) // profile.batch, profile.counts.macs)]
    return _complete(
        profile,
        PARTS,
        counters=(*profile.counters, *(fused if settings.arm.form == "fused" else [])),
        stages=stage_rows,
        stages_covered=stages.covered,
        layers=layer_rows,
        parts_launch_share=share,
        parts_verdict=device_verdict(conditions, share or 0.0),
        layers_slowed=layers.whole_s / stages.whole_s - 1,
        roofline=roofline,
    )


def compare_with_ceilings(
    tables: Callable[[Ceilings], tuple[tuple[PartRow, ...], tuple[PartRow, ...]]], settings: ProfileSettings
) -> tuple[tuple[PartRow, ...], tuple[PartRow, ...], Roofline]:
    """Return rows of stages and layers at the device's ceilings, which are measured again if a row exceeds them."""
    device, precision, cache = settings.torch_device, settings.arm.precision, cache_root(settings.cache)
    ceilings = None if settings.new_ceilings else load_ceilings(device, precision, cache)
    if ceilings is None:
        ceilings = measure_ceilings(device, precision)
        save_ceilings(ceilings, cache)
    over = _over(tables(ceilings))
    if over:
        ceilings = ceilings.highest(measure_ceilings(device, precision))
        save_ceilings(ceilings, cache)
    stages, layers = tables(ceilings)
    return stages, layers, Roofline(ceilings, measured_again=bool(over), over=_over((stages, layers)))


def _over(tables: tuple[tuple[PartRow, ...], ...]) -> tuple[str, ...]:
    return tuple(row.name for table in tables for row in table if row.utilization > 1)


def _sweep_step(kind: str) -> str:
    return f"{kind} sweep"


def _complete(profile: Profile, step: str, **results: Any) -> Profile:
    return replace(profile, missing=tuple(m for m in profile.missing if m != step), **results)
