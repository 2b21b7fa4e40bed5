"""Run one trial, from an architecture to its numbers: count, check limits, measure, train rung by rung.

An error of a trial becomes a `Failure` and one line for its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from backbones import build_network
from nas.backend.diagnosis import MemoryTakenError, diagnose, shared
from nas.distill.rungs import Training, TrainingContext, saved_rungs
from nas.measure import Arm, Setting
from nas.measure.counts import network_totals
from nas.measure.measurement_error import BatchTooLargeError
from nas.measure.memory import release_cached
from nas.measure.service import MeasurementService, save_samples
from nas.measure.verdicts import require_right_outputs
from nas.study.config import SearchConfig
from nas.study.failures import Failure
from nas.study.limits import broken_limit
from nas.study.records import Measurement, RungResult, TrialRecord, TrialState

TrainInRanks = Callable[[TrialRecord, int], RungResult]


@dataclass(frozen=True)
class TrialContext:
    """All that the trials of one worker process share.

    Attributes:
        training: settings, targets and folders of their trainings.
        service: measures in separate processes; None where nothing is measured.
        samples_dir: takes the raw samples of measurements.
        train_in_ranks: trains one rung of a record in several processes, each of which calls
            `nas.distill.rungs.train_rank`; None: this process trains.
    """

    training: TrainingContext
    service: MeasurementService | None
    samples_dir: Path
    train_in_ranks: TrainInRanks | None = None


def run_trial(record: TrialRecord, context: TrialContext) -> Iterator[TrialRecord]:
    """Yield the record after the measurement and after every rung; the last record is no longer running.

    A trial that is measured late is measured before its last rung.

    The caller ends the trial early by not asking for the next rung. An error of the trial becomes the reason of the
    last record, which keeps the results before the error.
    """
    last = record
    try:
        for last in _phases(record, context):
            yield last
    except Exception as error:
        failure, reason = diagnose(error, context.training.config.device)
        yield replace(last, state=TrialState.FAILED, failure=failure, reason=reason)


def _phases(record: TrialRecord, context: TrialContext) -> Iterator[TrialRecord]:
    if record.scale is not None:
        yield _measured_only(record, context)
        return
    config = context.training.config
    counted = network_totals(record.spec, config.distill.img_size)
    record = replace(record, params=counted.params, macs=counted.macs)
    limits = {} if record.baseline else config.limits  # baselines are trained for comparison
    if broken := broken_limit(record, limits):  # of those that need no measurement
        yield replace(record, state=TrialState.INFEASIBLE, reason=broken)
        return
    rungs = _train(record, context)  # a generator: nothing is built or trained before its first next()
    for index in range(len(config.distill.rung_steps)):
        if index == record.measured_before_rung and context.service is not None:
            record = _measured_within_limits(record, context, limits)
            yield record
            if record.state is not TrialState.RUNNING:
                return
        record = replace(record, rungs=(*record.rungs, next(rungs)))
        last = index + 1 == len(config.distill.rung_steps)
        yield replace(record, state=TrialState.COMPLETE if last else TrialState.RUNNING)


def _measured_within_limits(record: TrialRecord, context: TrialContext, limits: Mapping[str, float]) -> TrialRecord:
    """Return the record with its measurement, which an earlier run may have made, or as infeasible."""
    try:
        record = replace(record, measurement=record.measurement or _measure_in(record, context))
    except BatchTooLargeError as error:
        device = context.training.config.device
        taken = device.startswith("cuda") and shared(device)  # of which the sampler must learn nothing
        failure = Failure.MEMORY_SHARED if taken else Failure.OUT_OF_MEMORY
        record = replace(record, failure=failure, reason=f"memory: {error}")
        return replace(record, state=TrialState.INFEASIBLE)
    broken = broken_limit(record, limits)
    return replace(record, state=TrialState.INFEASIBLE, reason=broken) if broken else record


def _measured_only(record: TrialRecord, context: TrialContext) -> TrialRecord:
    """Count and measure a network that is not trained."""
    try:
        counted = network_totals(record.spec or record.arch_id, context.training.config.distill.img_size)
    except ValueError as error:  # it does not take images of this size
        return replace(record, state=TrialState.INFEASIBLE, reason=str(error))
    record = replace(record, params=counted.params, macs=counted.macs)
    record = _measured_within_limits(record, context, {})
    return replace(record, state=TrialState.MEASURED) if record.state is TrialState.RUNNING else record


def _measure_in(record: TrialRecord, context: TrialContext) -> Measurement:
    """Return a new measurement.

    Raises:
        BatchTooLargeError: Its batch does not fit: its throughput could not be compared.
        MemoryTakenError: The same in the first run, and others use memory of the GPU.
    """
    assert context.service is not None
    training, device = context.training, context.training.config.device
    try:
        return measure(record, training.config, context.service, training.lock_dir, context.samples_dir)
    except BatchTooLargeError as error:
        if record.tries == 1 and device.startswith("cuda") and shared(device):
            raise MemoryTakenError(f"memory: {error}") from error
        raise


def measure(
    record: TrialRecord, config: SearchConfig, service: MeasurementService, lock_dir: Path, samples_dir: Path
) -> Measurement:
    """Measure the throughput, interleaved with the reference's, and time it while nothing trains on the device.

    Args:
        record: The network.
        config: Settings of the study, which say how it is measured.
        service: Measures in a process of its own.
        lock_dir: Folder of the device's locks.
        samples_dir: Takes the raw samples.

    Raises:
        MeasurementError: The measurement gives no number, or the outputs are wrong.
    """
    release_cached(config.device)  # of a training or of teachers in this process: another process measures
    measured = service.measure(
        record.spec or record.arch_id,
        config.arch(config.reference),
        setting_of(config),
        name_of_reference=config.reference,
        lock_dir=lock_dir,
    )
    save_samples(measured, samples_dir / f"{record.arch_id.replace('/', '-')}.json")
    require_right_outputs(measured.record)
    return measured.record


def _train(record: TrialRecord, context: TrialContext) -> Iterator[RungResult]:
    config = context.training.config
    rungs = range(len(config.distill.rung_steps))
    if context.train_in_ranks is not None:
        yield from (done := saved_rungs(record.arch_id, context.training))
        yield from (context.train_in_ranks(record, rung) for rung in rungs[len(done) :])
        return
    torch.manual_seed(config.seed)
    training = Training(record.arch_id, build_network(record.network), context.training)
    try:
        yield from (cast(RungResult, training.rung(rung)) for rung in rungs)
    finally:
        training.close()


def setting_of(config: SearchConfig) -> Setting:
    """Return how a search measures: its device, batch, resolution, runtime and budget.

    A candidate of which only a smaller batch fits is infeasible, whatever its throughput.
    """
    return Setting(
        device=config.device,
        batch=config.measure_batch_size,
        resolution=config.distill.img_size,
        arm=Arm.parse(config.runtime),
        budget_s=config.measure_seconds,
        seed=config.seed,
        smaller_batch=False,
    )
