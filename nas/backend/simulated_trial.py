"""The phases of a simulated trial, in the order of `nas.backend.trial`, and measurements without an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nas.backend.simulated import Doing, SimulatedPhase
from nas.study.records import Measurement, RungResult, TrialRecord, TrialState


def trial_phases(
    record: TrialRecord,
    steps: Sequence[int],
    scores: Sequence[float],
    seconds: Sequence[float],
    measurement: Measurement | None = None,
    measure_s: float = 0.0,
) -> Iterator[SimulatedPhase]:
    """Yield the phases of a new trial with results at each rung, each with the record that a worker would report then.

    A trial without a measurement is not measured; one that is measured late is measured between two rungs.
    """
    for rung, (until, score, took_s) in enumerate(zip(steps, scores, seconds, strict=True)):
        if measurement is not None and rung == record.measured_before_rung:
            record = replace(record, measurement=measurement)
            yield SimulatedPhase(Doing.MEASURING, measure_s, record)
        state = TrialState.COMPLETE if rung + 1 == len(steps) else TrialState.RUNNING
        result = RungResult(rung, until, score, {}, {}, {}, took_s)
        record = replace(record, rungs=(*record.rungs, result), state=state)
        yield SimulatedPhase(Doing.TRAINING, took_s, record)


def exact_measurement(ratio: float, throughput_img_s: float, reference_img_s: float = 1.0) -> Measurement:
    """Return a measurement whose throughput and ratio are known exactly; it names no device, runtime and reference."""
    return Measurement(
        device="", arm="", batch=1, resolution=1, throughput_img_s=throughput_img_s,
        throughput_low_img_s=throughput_img_s, throughput_high_img_s=throughput_img_s, ratio=ratio, ratio_low=ratio,
        ratio_high=ratio, reference="", reference_img_s=reference_img_s, latency_ms=1.0, peak_memory_mib=None,
        samples=1, seconds=0.0, verdict="ok",
    )  # fmt: skip
