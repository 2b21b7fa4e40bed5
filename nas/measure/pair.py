"""Throughput, latency and memory of one backbone, timed against a reference backbone in the same process."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.folding import batch_norms_left
from nas.measure.arms import Arm
from nas.measure.card import CardWatch, card_uuid, nvml
from nas.measure.conditions import HERTZ, Conditions, Watch, watching
from nas.measure.correct import IMAGES, truth
from nas.measure.environment import device_name, torch_device
from nas.measure.errors import Unmeasured
from nas.measure.host import HostWatch
from nas.measure.interleave import Comparison, compare
from nas.measure.prepare import Contender, Ready, Setting, contenders, images
from nas.measure.stages import timed_stages
from nas.measure.statistics import Array, percentile
from nas.measure.sweep import out_of_memory
from nas.measure.timers import Timer, timer_for
from nas.measure.verdicts import notes, verdict
from nas.records import Measurement

LATENCY_SHARE, STAGES_SHARE = 0.15, 0.05  # of the budget; the second on top of it
LATENCIES = (3, 600)  # calls with one image, at least and at most; a 99th percentile needs 299
TRIES, PAUSE_S = 3, 10.0  # where a card is slowed down by heat: how often, and the pause between
QUEUED_S = 0.1  # of work at a time, while energy is counted
QUEUE_CALLS = 5  # on an empty queue, for what launching costs


@dataclass(frozen=True)
class Measured:
    """A measurement with what it was computed from: raw samples and readings as plain JSON data."""

    record: Measurement
    samples: dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """One try that counts."""

    latencies_s: Array  # of calls with one image
    comparison: Comparison
    launch_share: float | None
    conditions: Conditions
    tries: int


def measure_pair(
    candidate: nn.Module,
    reference: nn.Module,
    setting: Setting,
    *,
    name_of_reference: str,
    timer: Timer | None = None,
    watch: Watch | None = None,
) -> Measured:
    """Measure `candidate` beside `reference`, both as they are trained: copies are fused, converted and compiled.

    They are called by `encode` (or forward) in inference mode, on as many threads as torch has. Take
    `nas.measure.device_lock.measuring` around it.
    Raises ValueError for an impossible setting, Unmeasured where there is
    no number: memory is too small even for one image, or the clock saw nothing.
    """
    device = torch_device(setting.device)
    timer, hertz = timer or timer_for(device), None if watch else HERTZ
    watch = watch or watch_for(device)
    start = timer.now()
    drawn = images(setting)
    wanted = _truth(candidate, drawn[0][:IMAGES].to(device))
    ready = contenders((candidate, reference), drawn, wanted, setting, device)
    with torch.inference_mode():
        timed = _timed(ready, setting, timer, watch, hertz)
        energy_j = _energy_j(ready.own, timed.comparison.candidate.value, setting.energy_s, timer, watch)
    stages_s = timed_stages(ready.own.model, ready.own.buffers[0], STAGES_SHARE * setting.budget_s)
    comparison, batch, error = timed.comparison, ready.batch, ready.checked.error
    found = verdict(
        comparison,
        timed.conditions,
        correct=ready.checked.correct,
        complete=batch == setting.batch,
        launch_share=timed.launch_share or 0.0,
    )
    p95_s, p99_s = (percentile(timed.latencies_s, q) for q in (95, 99))
    record = Measurement(
        device=device_name(device),
        arm=described(setting.arm, ready.own.model, device),
        batch=batch,
        requested_batch=setting.batch,
        resolution=setting.resolution,
        throughput_img_s=batch / comparison.candidate.value,
        throughput_low_img_s=batch / comparison.candidate.high,
        throughput_high_img_s=batch / comparison.candidate.low,
        ratio=comparison.ratio.value,
        ratio_low=comparison.ratio.low,
        ratio_high=comparison.ratio.high,
        reference=name_of_reference,
        reference_img_s=batch / comparison.reference.value,
        latency_ms=float(np.median(timed.latencies_s)) * 1e3,
        latency_p95_ms=None if p95_s is None else p95_s * 1e3,
        latency_p99_ms=None if p99_s is None else p99_s * 1e3,
        peak_memory_mib=ready.peaks.allocated_mib,
        reserved_memory_mib=ready.peaks.reserved_mib,
        driver_memory_mib=ready.peaks.driver_mib,
        output_error=error if math.isfinite(error) else None,
        made_s=ready.own.made_s,
        launch_share=timed.launch_share,
        energy_j=None if energy_j is None else energy_j / batch,
        stages_s=stages_s,
        samples=comparison.candidate_s.size,
        seconds=timer.now() - start,
        tries=timed.tries,
        verdict=found,
        notes=notes(comparison, timed.conditions, timed.tries) + ready.own.notes + _smaller(batch, setting),
        conditions=timed.conditions.summary(),
    )
    return Measured(record, _raw(timed))


def _truth(candidate: nn.Module, few: Tensor) -> list[Tensor]:
    try:
        return truth(candidate, few)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    raise Unmeasured("out of memory", "out of memory, even for one image in fp32")


def watch_for(device: torch.device) -> Watch:
    """The watch that a device needs; a card that NVML doesn't know is watched like a CPU."""
    library = nvml() if device.type == "cuda" else None
    if library:
        with suppress(library.NVMLError):  # a part of a card (MIG), for one, has another name
            return CardWatch(library, card_uuid(device))
    return HostWatch()


def described(arm: Arm, model: nn.Module, device: torch.device) -> str:
    """The arm as a record names it.

    One BatchNorm is a last norm, which nothing before it can take in; more are what folding had to leave.
    """
    left = batch_norms_left(model)
    form = arm.form if arm.form != "fused" or left <= 1 else f"fused but for {left} BatchNorms"
    threads = f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""
    return f"{arm.precision}, {arm.layout}, {form}, {arm.runtime}{threads}"


def _latencies(one: Contender, timer: Timer, budget_s: float) -> Array:
    """Seconds of calls with one image, after two to warm up."""
    call, (least, most) = one.call(), LATENCIES
    timer.run([call], [2])
    deadline = timer.now() + budget_s
    times: list[float] = []
    while len(times) < least or (len(times) < most and timer.now() < deadline):
        times.append(timer.run([call], [1])[0].device_s)
    return np.asarray(times)


def _timed(ready: Ready, setting: Setting, timer: Timer, watch: Watch, hertz: float | None) -> Timed:
    """All timings, under watch; what a slowed-down card gives is thrown away, three times at most."""
    for tries in range(1, TRIES + 1):
        end = timer.now() + setting.budget_s
        with watching(watch, hertz) as conditions:
            latencies_s = _latencies(ready.one, timer, LATENCY_SHARE * setting.budget_s)
            own, other, rng = ready.own.call(), ready.other.call(), np.random.default_rng(setting.seed)
            comparison = compare(own, other, timer, end - timer.now(), rng, lead_in=setting.arms_differ)
            launch_share = _launch_share(ready.own, comparison, timer) if timer.queued else None
            seen = conditions()
        if not seen.slowdowns or tries == TRIES:
            break
        timer.sleep(PAUSE_S)
    return Timed(latencies_s, comparison, launch_share, seen, tries)


def _launch_share(own: Contender, comparison: Comparison, timer: Timer) -> float:
    """Host over device time of a call: on an empty queue, for a full one makes the host wait for the device."""
    call = own.call()
    host_s = np.median([timer.run([call], [1])[0].host_s for _ in range(QUEUE_CALLS)])
    return float(host_s / comparison.candidate.value)


def _energy_j(own: Contender, call_s: float, seconds: float, timer: Timer, watch: Watch) -> float | None:
    """Joules of one call, of the whole card, over `seconds` of nothing else; None where nobody counts them."""
    before, start, calls = watch.energy_j(), timer.now(), 0
    if before is None or seconds <= 0:
        return None
    call, queued = own.call(), max(1, round(QUEUED_S / call_s))
    while timer.now() < start + seconds:
        timer.run([call], [queued])
        calls += queued
    after = watch.energy_j()
    return None if after is None or not calls else (after - before) / calls


def _smaller(batch: int, setting: Setting) -> tuple[str, ...]:
    return () if batch == setting.batch else (f"memory is too small for a batch of {setting.batch}; {batch} fit",)


def _raw(timed: Timed) -> dict[str, Any]:
    """All samples in seconds a call, blocks in the order in which they were timed."""
    names = ("candidate_s", "reference_s", "host_s", "candidate_spans", "reference_spans")
    arrays = {name: getattr(timed.comparison, name) for name in names} | {"latencies_s": timed.latencies_s}
    plain: dict[str, Any] = {name: np.round(array, 9).tolist() for name, array in arrays.items()}
    return plain | {"readings": [asdict(reading) for reading in timed.conditions.readings]}
