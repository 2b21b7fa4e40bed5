"""One architecture from its spec to its numbers: build, check limits, measure, train rung by rung."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch

from backbones import build
from nas.diagnosis import diagnose
from nas.limits import limited
from nas.measure import MeasurementError
from nas.measure.counts import totals
from nas.measure.device_lock import measuring
from nas.measure.service import save_samples
from nas.records import Measurement, RungResult, TrialRecord, TrialState
from nas.training import Training, kept_rungs
from nas.workbench import Workbench, setting_of
from search_space import ArchSpec


def run_trial(record: TrialRecord, bench: Workbench) -> Iterator[TrialRecord]:
    """Yields the record after the measurement and after every rung; the last one is no longer running.

    The caller ends the trial early by not asking for the next rung. An error of the trial ends up in the
    last record, which keeps what was known before.
    """
    last = record
    try:
        for last in _stages(record, bench):
            yield last
    except Exception as error:
        failure, reason = diagnose(error, bench.config.device)
        yield replace(last, state=TrialState.FAILED, failure=failure, reason=reason)


def _stages(record: TrialRecord, bench: Workbench) -> Iterator[TrialRecord]:
    config = bench.config
    spec = ArchSpec.from_dict(record.spec)
    counted = totals(spec, config.distill.image_px)
    record = replace(record, params=counted.params, macs=counted.macs)
    limits = config.limits if record.origin == "sampler" else {}  # baselines are there to be compared with
    broken = broken_limit(record, limits)
    if not broken:
        record = replace(record, measurement=record.measurement or _measure(record, bench))
        broken = broken_limit(record, limits) or _not_as_asked(record)
    if broken:
        yield replace(record, state=TrialState.INFEASIBLE, reason=broken)
        return
    yield record
    rungs = _train(record, bench)
    for left in reversed(range(len(config.distill.rung_steps))):
        record = replace(record, rungs=(*record.rungs, next(rungs)))
        yield replace(record, state=TrialState.RUNNING if left else TrialState.COMPLETE)


def broken_limit(record: TrialRecord, limits: dict[str, float]) -> str | None:
    """The first hard limit that what is known of `record` breaks, in words, or None."""
    known = limited(record, record.measurement)
    for name, limit in limits.items():
        value = known.get(name, limit)
        if (value < limit) if name.startswith("min_") else (value > limit):
            return f"{name.replace('_', '-')}: {value:.4g} against a limit of {limit:.4g}"
    return None


def _not_as_asked(record: TrialRecord) -> str | None:
    """Why a throughput can stand beside no other: it is of another batch, in words; None where it can."""
    measured = record.measurement
    if measured is None or measured.requested_batch in (None, measured.batch):
        return None
    return f"memory: of a batch of {measured.requested_batch} images {measured.batch} fit"


def _measure(record: TrialRecord, bench: Workbench) -> Measurement:
    """Throughput beside the reference, while nothing trains on the device."""
    config = bench.config
    setting = setting_of(config)
    with measuring(bench.lock_dir):
        measured = bench.bench.measure(record.spec, config.reference, setting, name_of_reference=config.reference)
    save_samples(measured, bench.samples_dir / f"{record.arch_id}.json")
    if measured.record.verdict == "wrong output":
        error = measured.record.output_error
        raise MeasurementError("wrong output", "not finite" if error is None else f"{error:.2g} off fp32 eager's")
    return measured.record


def _train(record: TrialRecord, bench: Workbench) -> Iterator[RungResult]:
    rungs = range(len(bench.config.distill.rung_steps))
    if bench.together is not None:
        yield from (done := kept_rungs(record.arch_id, bench))
        yield from (bench.together(record, rung) for rung in rungs[len(done) :])
        return
    torch.manual_seed(bench.config.seed)
    net = Training(record.arch_id, build(ArchSpec.from_dict(record.spec)), bench)
    try:
        yield from (cast(RungResult, net.rung(rung)) for rung in rungs)
    finally:
        net.close()
