"""What a trial makes of its measurement, before any training."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.backend import trial
from nas.backend.trial import run_trial
from nas.backend.worker import ArchTrainable
from nas.distill.run import TrialContext
from nas.measure import Measured, MeasurementError, Setting
from nas.study.failures import Failure
from nas.study.records import RungResult, TrialRecord, TrialState
from search_space import SPACES
from tests.nas.study.builders import measurement, rung, search_config


class Bench:
    """Answers at once, or raises."""

    def __init__(self, answer: Measured | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, Any, Setting]] = []

    def measure(self, candidate: Any, reference: Any, setting: Setting, *, name_of_reference: str) -> Measured:
        self.asked.append((candidate, reference, setting))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def records(bench: Bench, folder: Path, baseline: str | None = None, **settings: Any) -> Iterator[TrialRecord]:
    spec = SPACES["micro"].sample(random.Random(0))
    asked = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline)
    places = {
        name: folder / name for name in ("lock_dir", "samples_dir", "weights_dir", "pictures_dir", "checkpoint_dir")
    }
    workbench = TrialContext(config=search_config(**settings), targets=None, service=bench, **places)  # type: ignore[arg-type]
    return run_trial(asked, workbench)


def first_record(bench: Bench, folder: Path, **settings: Any) -> TrialRecord:
    return next(records(bench, folder, **settings))


def test_the_measurement_is_in_the_record_and_its_samples_in_a_file(tmp_path):
    bench = Bench(Measured(measurement(2.0), {"candidate_s": [[0.1, 0.2]]}))
    found = first_record(bench, tmp_path, measure_arm="compiled+bf16", measure_batch=8)
    assert found.measurement == measurement(2.0)
    assert json.loads((tmp_path / "samples_dir" / f"{found.arch_id}.json").read_text()) == {"candidate_s": [[0.1, 0.2]]}
    ((candidate, reference, setting),) = bench.asked
    assert (candidate, reference) == (found.spec, "eradio_pico")
    assert (str(setting.arm), setting.batch) == ("compiled+bf16+channels-last+fused", 8)


@pytest.mark.parametrize("verdict", ["out of memory", "crash", "hang"])
def test_what_cannot_be_measured_has_failed_for_a_reason(tmp_path, verdict):
    found = first_record(Bench(MeasurementError(verdict, "it was like this")), tmp_path)
    assert (found.state, found.reason) == (TrialState.FAILED, f"measuring: {verdict}: it was like this")


def test_an_output_that_is_wrong_or_of_a_smaller_batch_is_never_trained(tmp_path):
    wrong = replace(measurement(2.0), verdict="wrong output", output_error=0.3)
    found = first_record(Bench(Measured(wrong, {})), tmp_path)
    assert (found.state, found.reason) == (TrialState.FAILED, "measuring: wrong output: 0.3 off fp32 eager's")
    smaller = replace(measurement(2.0), requested_batch=64)
    found = first_record(Bench(Measured(smaller, {})), tmp_path)
    assert (found.state, found.reason) == (TrialState.INFEASIBLE, "memory: of a batch of 64 images 16 fit")


def test_what_is_too_large_is_not_even_measured(tmp_path):
    bench = Bench(Measured(measurement(2.0), {}))
    (found,) = records(bench, tmp_path, limits={"max_params": 10.0})
    assert (found.state, found.measurement, found.rungs) == (TrialState.INFEASIBLE, None, ())
    assert found.reason == f"max-params: {found.params:.3g} against a limit of 10"
    assert not bench.asked


def test_a_failure_keeps_what_was_known_before(tmp_path, monkeypatch):
    def ends_early(record: TrialRecord, bench: TrialContext) -> Iterator[RungResult]:
        yield rung(0, 0.5)
        raise ValueError("no memory")

    monkeypatch.setattr(trial, "_train", ends_early)
    *_, failed = records(Bench(Measured(measurement(2.0), {})), tmp_path)
    assert (failed.state, failed.measurement, failed.rungs) == (TrialState.FAILED, measurement(2.0), (rung(0, 0.5),))


def test_a_result_that_cannot_be_sent_keeps_what_was_sent_before(monkeypatch):
    spec = SPACES["micro"].sample(random.Random(0))
    measured = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, measurement=measurement(2.0))
    worker = object.__new__(ArchTrainable)
    worker._stages = iter([measured, replace(measured, reason=len)])  # type: ignore[arg-type]
    worker.step()
    failed = TrialRecord.from_dict(json.loads(worker.step()["record"]))
    assert (failed.failure, failed.measurement) == (Failure.UNPICKLABLE, measurement(2.0))


def test_what_a_limit_cannot_be_held_against_is_never_trained(tmp_path):
    blind = replace(measurement(2.0), peak_memory_mib=None, driver_memory_mib=50.0)
    (found,) = records(Bench(Measured(blind, {})), tmp_path, limits={"max_memory_mib": 100.0})
    assert (found.state, found.rungs) == (TrialState.INFEASIBLE, ())
    assert found.reason.startswith("max-memory-mib: unknown")


def test_a_baseline_is_held_against_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_train", lambda record, bench: iter([rung(0, 0.5)]))
    bench = Bench(Measured(measurement(2.0), {}))
    for baseline, state in ((None, TrialState.INFEASIBLE), ("eradio_pico", TrialState.RUNNING)):
        found = next(records(bench, tmp_path, baseline, limits={"max_params": 10.0}))
        assert found.state is state
