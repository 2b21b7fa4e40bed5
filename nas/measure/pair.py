"""Measure throughput, latency and memory of one backbone beside a reference backbone in the same process."""

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
from nas.measure.conditions import POLL_HZ, CardWatch, Conditions, DeviceWatch, HostWatch, card_uuid, nvml, watching
from nas.measure.environment import device_name, torch_device
from nas.measure.interleave import compare
from nas.measure.prepare import CHECKED_IMAGES, PreparedPair, Setting, Subject, images, prepare_pair, reference_outputs
from nas.measure.stages import seconds_by_stage
from nas.measure.statistics import Array, percentile
from nas.measure.sweep import out_of_memory
from nas.measure.timers import Timer, timer_for
from nas.measure.verdicts import MeasurementError, PairTimes, notes, verdict
from nas.study.records import Measurement

LATENCY_SHARE, STAGES_SHARE = 0.15, 0.05  # of the budget; the second on top of it
LATENCIES = (3, 600)  # calls with one image, at least and at most; a 99th percentile needs 299
MAX_TRIES, PAUSE_S = 3, 10.0  # where a card is slowed down by heat: how often, and the pause between
QUEUED_S = 0.1  # of work at a time, while energy is counted
QUEUE_CALLS = 5  # on an empty queue, for what launching costs


@dataclass(frozen=True)
class Measured:
    """A measurement with what it was computed from: raw samples and readings as plain JSON data."""

    record: Measurement
    samples: dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """The timings of the try that counts."""

    latencies_s: Array  # of calls with one image
    times: PairTimes
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
    watch: DeviceWatch | None = None,
) -> Measured:
    """Measure `candidate` beside `reference`, both as they are trained: copies are fused, converted and compiled.

    They are called by `encode` (or forward) in inference mode, on as many threads as torch has. Hold
    `nas.measure.device_lock.measuring` around it.

    Args:
        candidate: The network that is measured.
        reference: The network that is timed beside it.
        setting: How to measure.
        name_of_reference: The reference's name in the record.
        timer: The clock; None: the one that the device needs.
        watch: What watches the device; None: the one that the device needs, polled in a thread.

    Raises:
        DeviceError: There is no such device.
        MeasurementError: Memory is too small even for one image, or the clock saw no time pass.
    """
    device = torch_device(setting.device)
    timer, hertz = timer or timer_for(device), None if watch else POLL_HZ
    watch = watch or watch_for(device)
    start = timer.now()
    drawn = images(setting)
    wanted = _expected(candidate, drawn[0][:CHECKED_IMAGES].to(device))
    prepared = prepare_pair((candidate, reference), drawn, wanted, setting, device)
    subject = prepared.candidate
    with torch.inference_mode():
        timed = _timed(prepared, setting, timer, watch, hertz)
        energy_j = _energy_j(subject, timed.times.candidate.value, setting.energy_s, timer, watch)
    stages_s = seconds_by_stage(subject.model, subject.buffers[0], STAGES_SHARE * setting.budget_s)
    record = Measurement(
        device=device_name(device),
        arm=describe_arm(setting.arm, subject.model, device),
        reference=name_of_reference,
        resolution=setting.resolution,
        requested_batch=setting.batch,
        energy_j=None if energy_j is None else energy_j / prepared.batch,
        stages_s=stages_s,
        seconds=timer.now() - start,
        **_prepared_values(prepared),
        **_timed_values(timed, prepared.batch),
        **_judged_values(timed, prepared, setting),
    )
    return Measured(record, _raw(timed))


def _prepared_values(prepared: PreparedPair) -> dict[str, Any]:
    """Return the fields of a `Measurement` that are known before anything is timed."""
    error = prepared.checked.error
    return {
        "batch": prepared.batch,
        "peak_memory_mib": prepared.peaks.allocated_mib,
        "reserved_memory_mib": prepared.peaks.reserved_mib,
        "driver_memory_mib": prepared.peaks.driver_mib,
        "output_error": error if math.isfinite(error) else None,
        "compile_s": prepared.candidate.compile_s,
    }


def _timed_values(timed: Timed, batch: int) -> dict[str, Any]:
    """Return the fields of a `Measurement` that come from timing."""
    times = timed.times
    p95_s, p99_s = (percentile(timed.latencies_s, q) for q in (95, 99))
    return {
        "throughput_img_s": batch / times.candidate.value,
        "throughput_low_img_s": batch / times.candidate.high,
        "throughput_high_img_s": batch / times.candidate.low,
        "ratio": times.ratio.value,
        "ratio_low": times.ratio.low,
        "ratio_high": times.ratio.high,
        "reference_img_s": batch / times.reference.value,
        "latency_ms": float(np.median(timed.latencies_s)) * 1e3,
        "latency_p95_ms": None if p95_s is None else p95_s * 1e3,
        "latency_p99_ms": None if p99_s is None else p99_s * 1e3,
        "launch_share": timed.launch_share,
        "samples": times.candidate_s.size,
        "tries": timed.tries,
        "conditions": timed.conditions.summary(),
    }


def _judged_values(timed: Timed, prepared: PreparedPair, setting: Setting) -> dict[str, Any]:
    """Return verdict and notes."""
    judged = verdict(
        timed.times,
        timed.conditions,
        correct=prepared.checked.correct,
        complete=prepared.batch == setting.batch,
        launch_share=timed.launch_share or 0.0,
    )
    phrases = notes(timed.times, timed.conditions, timed.tries)
    return {"verdict": judged, "notes": phrases + prepared.candidate.notes + _smaller(prepared.batch, setting)}


def _expected(candidate: nn.Module, few: Tensor) -> list[Tensor]:
    try:
        return reference_outputs(candidate, few)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    raise MeasurementError("out of memory", "out of memory, even for one image in fp32")


def watch_for(device: torch.device) -> DeviceWatch:
    """Return the watch that a device needs; a card that NVML doesn't know is watched like a CPU."""
    library = nvml() if device.type == "cuda" else None
    if library:
        with suppress(library.NVMLError):  # a part of a card (MIG), for one, has another name
            return CardWatch(library, card_uuid(device))
    return HostWatch()


def describe_arm(arm: Arm, model: nn.Module, device: torch.device) -> str:
    """Name an arm as a record does.

    One BatchNorm is a last norm, which nothing before it can take in; more are what folding had to leave.
    """
    left = batch_norms_left(model)
    form = arm.form if arm.form != "fused" or left <= 1 else f"fused but for {left} BatchNorms"
    threads = f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""
    return f"{arm.precision}, {arm.layout}, {form}, {arm.runtime}{threads}"


def _latencies(single: Subject, timer: Timer, budget_s: float) -> Array:
    """Time calls with one image, after two to warm up; returns seconds (calls,)."""
    call, (least, most) = single.call(), LATENCIES
    timer.run([call], [2])
    deadline = timer.now() + budget_s
    times: list[float] = []
    while len(times) < least or (len(times) < most and timer.now() < deadline):
        times.append(timer.run([call], [1])[0].device_s)
    return np.asarray(times)


def _timed(prepared: PreparedPair, setting: Setting, timer: Timer, watch: DeviceWatch, hertz: float | None) -> Timed:
    """Take all timings under watch; discard those of a card that was slowed down, three times at most."""
    calls = prepared.candidate.call(), prepared.reference.call()
    for tries in range(1, MAX_TRIES + 1):
        end = timer.now() + setting.budget_s
        with watching(watch, hertz) as conditions:
            latencies_s = _latencies(prepared.single, timer, LATENCY_SHARE * setting.budget_s)
            rng = np.random.default_rng(setting.seed)
            times = compare(*calls, timer, end - timer.now(), rng, lead_in=setting.arms_differ)
            launch_share = _launch_share(prepared.candidate, times, timer) if timer.queued else None
            seen = conditions()
        if not seen.slowdowns or tries == MAX_TRIES:
            break
        timer.sleep(PAUSE_S)
    return Timed(latencies_s, times, launch_share, seen, tries)


def _launch_share(candidate: Subject, times: PairTimes, timer: Timer) -> float:
    """Return host over device time of a call, on an empty queue: a full one makes the host wait for the device."""
    call = candidate.call()
    host_s = np.median([timer.run([call], [1])[0].host_s for _ in range(QUEUE_CALLS)])
    return float(host_s / times.candidate.value)


def _energy_j(candidate: Subject, call_s: float, seconds: float, timer: Timer, watch: DeviceWatch) -> float | None:
    """Return the joules of one call, of the whole card, over `seconds` of nothing else; None where they are unknown."""
    before, start, calls = watch.energy_j(), timer.now(), 0
    if before is None or seconds <= 0:
        return None
    call, queued = candidate.call(), max(1, round(QUEUED_S / call_s))
    while timer.now() < start + seconds:
        timer.run([call], [queued])
        calls += queued
    after = watch.energy_j()
    return None if after is None or not calls else (after - before) / calls


def _smaller(batch: int, setting: Setting) -> tuple[str, ...]:
    return () if batch == setting.batch else (f"memory is too small for a batch of {setting.batch}; {batch} fit",)


def _raw(timed: Timed) -> dict[str, Any]:
    """Return all samples in seconds a call, blocks in the order in which they were timed."""
    names = ("candidate_s", "reference_s", "host_s", "candidate_spans", "reference_spans")
    arrays = {name: getattr(timed.times, name) for name in names} | {"latencies_s": timed.latencies_s}
    plain: dict[str, Any] = {name: np.round(array, 9).tolist() for name, array in arrays.items()}
    return plain | {"readings": [asdict(reading) for reading in timed.conditions.readings]}
