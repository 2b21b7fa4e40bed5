"""Measure throughput, latency and memory of a candidate against a reference in the same process."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones.folding import batch_norms_left
from nas.measure.allocator import keep_freed_memory
from nas.measure.conditions import (
    POLL_HZ,
    UNREADABLE,
    Conditions,
    DeviceWatch,
    GpuWatch,
    HostWatch,
    gpu_uuid,
    nvml,
    watching,
)
from nas.measure.environment import device_name, thread_count, torch_device
from nas.measure.interleave import InterleavedSamples, compare
from nas.measure.measurement_error import MeasurementError
from nas.measure.memory import out_of_memory, release_cached
from nas.measure.output_check import (
    CHECKED_IMAGES,
    STATISTICS_IMAGES,
    TOLERANCES,
    OutputCheck,
    expected_outputs,
    has_untrained_norms,
    with_batch_statistics,
)
from nas.measure.prepare import PreparedPair, Setting, Subject, images, prepare_pair
from nas.measure.runtime_spec import Arm
from nas.measure.stages import seconds_by_stage
from nas.measure.statistics import Array, percentile
from nas.measure.timers import Call, Timer, timer_for
from nas.measure.verdicts import notes, slowdowns, verdict
from nas.study.records import Measurement

Taken = TypeVar("Taken")

STAGES_SHARE = 0.05  # of the budget, in addition to it
MAX_TRIES, PAUSE_S = 3, 10.0  # for a GPU that heat slows down, with a pause between tries
QUEUED_S = 0.1  # of work queued at once while energy is counted
LAUNCH_CALLS = 5  # on an empty queue, to time launching


@dataclass(frozen=True)
class Measured:
    """A measurement with its raw samples and readings, as JSON data."""

    record: Measurement
    samples: dict[str, Any]


@dataclass(frozen=True)
class WatchedTimings:
    """All timings of a pair, from the last try."""

    samples: InterleavedSamples
    launch_share: float | None  # host time over device time of the candidate; None on a CPU
    reference_launch_share: float | None
    single_launch_share: float | None  # of the candidate with one image; None if the batch is one, too
    conditions: Conditions
    tries: int

    def latencies_s(self, batch: int) -> Array:
        """Return the samples of the latency, (samples,).

        A CPU runs one call after the other: at batch 1 the samples of the throughput are those of the latency, and one
        value is the inverse of the other. A GPU that is kept busy is not one that waits for a single image.
        """
        if batch == 1 and self.launch_share is None:
            return self.samples.candidate_s.ravel()
        return self.samples.latencies_s


def measure_pair(
    candidate: nn.Module,
    reference: nn.Module,
    setting: Setting,
    *,
    name_of_reference: str,
    timer: Timer | None = None,
    watch: DeviceWatch | None = None,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Measured:
    """Measure `candidate` against `reference`; copies of both are fused, converted and compiled.

    They are called by `encode` (or forward) in inference mode, with torch's number of threads. On a GPU, hold
    `nas.measure.device_lock.measuring` around the call. From then on this process keeps the memory that it frees.

    Args:
        candidate: The network that is measured, as it is trained.
        reference: The network that it is compared with, as it is trained.
        setting: How to measure.
        name_of_reference: The reference's name in the record.
        timer: The clock; None: the one that the device needs.
        watch: The device's watch, polled by the caller; None: the one that the device needs, polled in a thread.
        alone: Holds the device for the timing; building, compiling and checking come before.

    Raises:
        DeviceError: There is no such device.
        MeasurementError: Memory is too small for one image, or the clock saw no time pass.
    """
    keep_freed_memory()
    device = torch_device(setting.device)
    timer, hertz = timer or timer_for(device), None if watch else POLL_HZ
    watch = watch or watch_for(device)
    start = timer.now()
    inputs = images(setting)
    prepared, statistics_note = _prepare(candidate, reference, inputs, setting, device)
    subject, seconds = prepared.candidate, timer.now() - start
    with alone():
        start = timer.now()
        with torch.inference_mode():
            timings = _time_pair(prepared, setting, timer, watch, hertz)
            energy_j = _energy_j(subject, timings.samples.candidate.value, setting.energy_s, timer, watch)
        stages_s = seconds_by_stage(subject.model, subject.buffers[0], STAGES_SHARE * setting.budget_s)
        seconds += timer.now() - start
    record = Measurement(
        device=device_name(device),
        arm=describe_arm(setting.arm, subject.model, device),
        reference=name_of_reference,
        resolution=setting.resolution,
        requested_batch=setting.batch,
        energy_j=None if energy_j is None else energy_j / prepared.batch,
        stages_s=stages_s,
        seconds=seconds,
        **_prepared_values(prepared),
        **_timed_values(timings, prepared.batch),
        **_verdict_values(timings, prepared, setting, statistics_note),
    )
    return Measured(record, _raw(timings, prepared.batch))


def _prepared_values(prepared: PreparedPair) -> dict[str, Any]:
    """Return the fields of a `Measurement` that are known before timing."""
    error = prepared.output_check.error
    return {
        "batch": prepared.batch,
        "peak_memory_mib": prepared.peaks.allocated_mib,
        "reserved_memory_mib": prepared.peaks.reserved_mib,
        "driver_memory_mib": prepared.peaks.driver_mib,
        "output_error": error if math.isfinite(error) else None,
        "compile_s": prepared.candidate.compile_s,
    }


def _timed_values(timings: WatchedTimings, batch: int) -> dict[str, Any]:
    """Return the fields of a `Measurement` that come from timing."""
    samples = timings.samples
    latencies_s = timings.latencies_s(batch)
    p95_s, p99_s = (percentile(samples.latencies_s, q) for q in (95, 99))
    return {
        "throughput_img_s": batch / samples.candidate.value,
        "throughput_low_img_s": batch / samples.candidate.high,
        "throughput_high_img_s": batch / samples.candidate.low,
        "ratio": samples.ratio.value,
        "ratio_low": samples.ratio.low,
        "ratio_high": samples.ratio.high,
        "reference_img_s": batch / samples.reference.value,
        "latency_ms": float(np.median(latencies_s)) * 1e3,
        "latency_p95_ms": None if p95_s is None else p95_s * 1e3,
        "latency_p99_ms": None if p99_s is None else p99_s * 1e3,
        "launch_share": timings.launch_share,
        "samples": samples.candidate_s.size,
        "tries": timings.tries,
        "conditions": timings.conditions.summary(),
    }


def _verdict_values(
    timings: WatchedTimings, prepared: PreparedPair, setting: Setting, statistics_note: tuple[str, ...]
) -> dict[str, Any]:
    """Return the verdict and the notes of a `Measurement`."""
    reference_share = timings.reference_launch_share or 0.0
    judgment = verdict(
        timings.samples,
        timings.conditions,
        correct=prepared.output_check.correct,
        complete=prepared.batch == setting.batch,
        launch_share=max(timings.launch_share or 0.0, reference_share),
    )
    single_share = timings.single_launch_share or 0.0
    phrases = notes(timings.samples, timings.conditions, timings.tries, reference_share, single_share)
    of_outputs = statistics_note + _rounding_note(prepared.output_check, setting.arm.precision)
    others = prepared.candidate.notes + of_outputs + _batch_note(prepared.batch, setting)
    return {"verdict": judgment, "notes": phrases + others}


def _rounding_note(found: OutputCheck, precision: str) -> tuple[str, ...]:
    """Say that outputs are off by more than rounding usually brings, yet right: the weights amplify it."""
    if not found.correct or found.error <= TOLERANCES[precision]:
        return ()
    return (f"outputs differ by {found.error:.2g} from fp32 eager, because the weights amplify rounding",)


def _prepare(
    candidate: nn.Module, reference: nn.Module, inputs: tuple[Tensor, ...], setting: Setting, device: torch.device
) -> tuple[PreparedPair, tuple[str, ...]]:
    """Prepare a pair, and say so where the candidate's untrained norms needed the statistics of a batch.

    They do where its outputs are wrong without: on a runtime that computes something else, they are wrong with them
    too.
    """
    prepared = _prepare_as_is(candidate, reference, inputs, setting, device)
    if prepared.output_check.correct or not has_untrained_norms(candidate):
        return prepared, ()
    error = prepared.output_check.error
    change = f"differed by {error:.2g} from fp32 eager" if math.isfinite(error) else "were not finite"
    del prepared
    gc.collect()  # its memory, which the second preparation needs
    release_cached(setting.device)
    batch = torch.cat([each[:STATISTICS_IMAGES] for each in inputs])[:STATISTICS_IMAGES]
    with _fp32_fits(f"{len(batch)} images"):
        normalized = with_batch_statistics(candidate, batch.to(device))
    note = f"BatchNorm has the statistics of one batch: with those of a new network, outputs {change}"
    return _prepare_as_is(normalized, reference, inputs, setting, device), (note,)


def _prepare_as_is(
    candidate: nn.Module, reference: nn.Module, inputs: tuple[Tensor, ...], setting: Setting, device: torch.device
) -> PreparedPair:
    with _fp32_fits("one image"):
        expected = expected_outputs(candidate, inputs[0][:CHECKED_IMAGES].to(device), setting.arm.precision)
    return prepare_pair((candidate, reference), inputs, expected, setting, device)


@contextmanager
def _fp32_fits(what: str) -> Iterator[None]:
    """Raise a MeasurementError where memory runs out in the body, which computes `what`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise MeasurementError("out of memory", f"memory is too small for {what} in fp32") from None


def watch_for(device: torch.device) -> DeviceWatch:
    """Return the watch that a device needs; a GPU that NVML doesn't know is watched like a CPU, with a note."""
    if device.type != "cuda":
        return HostWatch()
    if library := nvml():
        with suppress(library.NVMLError):  # part of a GPU (MIG) has another name
            return GpuWatch(library, gpu_uuid(device))
    return HostWatch(readings=(UNREADABLE,))


def describe_arm(arm: Arm, model: nn.Module, device: torch.device) -> str:
    """Return the text of an arm in a record.

    A single BatchNorm left is a last norm, which has no convolution before it to fold into; more could not be folded.
    """
    left = batch_norms_left(model)
    form = arm.form if arm.form != "fused" or left <= 1 else f"fused but for {left} BatchNorms"
    threads = f", {thread_count()}" if device.type == "cpu" else ""
    return f"{arm.precision}, {arm.layout}, {form}, {arm.runtime}{threads}"


def _time_pair(
    prepared: PreparedPair, setting: Setting, timer: Timer, watch: DeviceWatch, hertz: float | None
) -> WatchedTimings:
    """Take all timings under watch; repeat those of a GPU that was slowed down, three tries at most."""
    candidate, reference, single = (s.call() for s in (prepared.candidate, prepared.reference, prepared.single))

    def take() -> tuple[InterleavedSamples, tuple[float | None, float | None, float | None]]:
        rng = np.random.default_rng(setting.seed)
        samples = compare(candidate, reference, timer, setting.budget_s, rng, setting.arms_differ, single)
        shares = (
            launch_share(candidate, samples.candidate.value, timer),
            launch_share(reference, samples.reference.value, timer),
            None if prepared.batch == 1 else launch_share(single, float(np.median(samples.latencies_s)), timer),
        )
        return samples, shares

    (samples, shares), conditions, tries = take_watched(take, timer, watch, hertz)
    return WatchedTimings(samples, *shares, conditions, tries)


def take_watched(
    take: Callable[[], Taken], timer: Timer, watch: DeviceWatch, hertz: float | None = POLL_HZ
) -> tuple[Taken, Conditions, int]:
    """Take timings under watch, three times at most while a GPU is slowed down; return conditions and tries with them.

    Args:
        take: Takes the timings.
        timer: Their clock.
        watch: The device's watch.
        hertz: Polls per second; None: the caller polls.
    """
    for tries in range(1, MAX_TRIES + 1):
        with watching(watch, hertz) as end_watch:
            taken = take()
            conditions = end_watch()
        if not slowdowns(conditions) or tries == MAX_TRIES:
            break
        timer.sleep(PAUSE_S)
    return taken, conditions, tries


def launch_share(call: Call, device_s: float, timer: Timer) -> float | None:
    """Return host time over device time of a call, None on a CPU; on an empty queue, as a full one makes hosts wait.

    Args:
        call: The call.
        device_s: Its device time.
        timer: The clock.
    """
    if not timer.queued:
        return None
    host_s = np.median([timer.run([call], [1])[0].host_s for _ in range(LAUNCH_CALLS)])
    return float(host_s / device_s)


def _energy_j(candidate: Subject, call_s: float, seconds: float, timer: Timer, watch: DeviceWatch) -> float | None:
    """Run the candidate alone for `seconds`; return the whole device's joules per call, None where they are unknown."""
    first_j, start, calls = watch.energy_j(), timer.now(), 0
    if first_j is None or seconds <= 0:
        return None
    call, queued = candidate.call(), max(1, round(QUEUED_S / call_s))
    while timer.now() < start + seconds:
        timer.run([call], [queued])
        calls += queued
    last_j = watch.energy_j()
    return None if last_j is None or not calls else (last_j - first_j) / calls


def _batch_note(batch: int, setting: Setting) -> tuple[str, ...]:
    return () if batch == setting.batch else (f"memory is too small for a batch of {setting.batch}; {batch} fit",)


def _raw(timings: WatchedTimings, batch: int) -> dict[str, Any]:
    """Return all samples in seconds per call, with the blocks in the order in which they were timed."""
    names = ("candidate_s", "reference_s", "host_s", "candidate_spans", "reference_spans")
    arrays = {name: getattr(timings.samples, name) for name in names} | {"latencies_s": timings.latencies_s(batch)}
    samples: dict[str, Any] = {name: np.round(array, 9).tolist() for name, array in arrays.items()}
    return samples | {"readings": [asdict(reading) for reading in timings.conditions.readings]}
