"""A trial before its training: counting, limits, measurement."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.backend import trial
from nas.backend.trial import TrialContext, run_trial
from nas.distill.rungs import TrainingContext
from nas.measure import Measured, MeasurementError, Setting
from nas.measure.measurement_error import BatchTooLargeError
from nas.study.failures import Failure
from nas.study.records import Expectation, RungResult, TrialRecord, TrialState
from search_space import SPACES, preset
from tests.nas.study.builders import measurement, rung, search_config

TOO_LARGE = BatchTooLargeError("only 16 images of the batch of 64 fit")


class FakeService:
    """A measurement service that returns or raises its answer at once."""

    def __init__(self, answer: Measured | Exception) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, Any, Setting]] = []

    def measure(
        self, candidate: Any, reference: Any, setting: Setting, *, name_of_reference: str, lock_dir: Path
    ) -> Measured:
        self.calls.append((candidate, reference, setting))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def records(
    service: FakeService, folder: Path, baseline: str | None = None, tries: int = 1, **settings: Any
) -> Iterator[TrialRecord]:
    spec = SPACES["micro"].sample(random.Random(0))
    asked = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, baseline, tries=tries)
    return run_trial(asked, context_of(service, folder, **settings))


def context_of(service: FakeService, folder: Path, **settings: Any) -> TrialContext:
    folders = {name: folder / name for name in ("lock_dir", "weights_dir", "pictures_dir", "checkpoint_dir")}
    training = TrainingContext(config=search_config(**settings), targets=None, **folders)  # type: ignore[arg-type]
    return TrialContext(training, service, folder / "samples_dir")  # type: ignore[arg-type]


def first_record(service: FakeService, folder: Path, **settings: Any) -> TrialRecord:
    return next(records(service, folder, **settings))


def test_the_measurement_is_in_the_record_and_its_samples_in_a_file(tmp_path):
    service = FakeService(Measured(measurement(2.0), {"candidate_s": [[0.1, 0.2]]}))
    record = first_record(service, tmp_path, runtime="compiled+bf16", measure_batch_size=8)
    assert record.measurement == measurement(2.0)
    assert json.loads((tmp_path / "samples_dir" / f"{record.arch_id}.json").read_text()) == {
        "candidate_s": [[0.1, 0.2]]
    }
    ((candidate, reference, setting),) = service.calls
    assert (candidate, reference) == (record.spec, preset("eradio_pico").to_dict())
    assert (str(setting.arm), setting.batch) == ("compiled+bf16+channels-last+fused", 8)


@pytest.mark.parametrize("verdict", ["out of memory", "hang"])
def test_a_measurement_that_fails_is_the_reason_of_a_failed_trial(tmp_path, verdict):
    record = first_record(FakeService(MeasurementError(verdict, "it was like this")), tmp_path)
    assert (record.state, record.reason) == (TrialState.FAILED, f"measuring: {verdict}: it was like this")


def test_an_output_that_is_wrong_or_of_a_smaller_batch_is_never_trained(tmp_path):
    wrong = replace(measurement(2.0), verdict="wrong output", output_error=0.3)
    record = first_record(FakeService(Measured(wrong, {})), tmp_path)
    assert (record.state, record.reason) == (
        TrialState.FAILED,
        "measuring: wrong output: differs by 0.3 from fp32 eager",
    )
    record = first_record(FakeService(TOO_LARGE), tmp_path)
    assert (record.state, record.reason) == (TrialState.INFEASIBLE, "memory: only 16 images of the batch of 64 fit")


@pytest.mark.parametrize(
    ("foreign", "limits", "state", "failure"),
    [
        (60, {}, TrialState.FAILED, Failure.MEMORY_SHARED),
        (1, {"max_latency_ms": 0.001}, TrialState.INFEASIBLE, Failure.OUT_OF_MEMORY),
    ],
)
def test_a_batch_that_others_left_no_memory_for_is_measured_again_later(
    tmp_path, monkeypatch, foreign, state, failure, limits
):
    """Figures are in GiB, of a card of 80."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: ((80 - foreign) * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 0)
    smaller = FakeService(TOO_LARGE)
    record = first_record(smaller, tmp_path, device="cuda", limits=limits)
    assert (record.state, record.failure) == (state, failure)
    assert record.measurement is None, "the next run measures again"
    assert "memory: only 16 images of the batch of 64 fit" in record.reason
    again = first_record(smaller, tmp_path, device="cuda", limits={}, tries=2)
    assert (again.state, again.failure) == (
        TrialState.INFEASIBLE,
        Failure.MEMORY_SHARED if foreign == 60 else Failure.OUT_OF_MEMORY,
    ), "there is no third run, and the sampler learns nothing from memory that others take"


def test_a_trial_that_an_earlier_run_measured_is_trained_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_train", lambda record, context: iter([rung(0, 0.5), rung(1, 0.7)]))
    spec, service = SPACES["micro"].sample(random.Random(0)), FakeService(ValueError("it was measured again"))
    resumed = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, measurement=measurement(2.0))
    *_, record = run_trial(resumed, context_of(service, tmp_path))
    assert (record.state, record.measurement, service.calls) == (TrialState.COMPLETE, measurement(2.0), [])


def test_a_card_is_measured_without_what_earlier_training_left_on_it(tmp_path, monkeypatch):
    """A worker keeps the memory of its previous trial, which the process that measures would lack."""
    log: list[str] = []
    monkeypatch.setattr(trial.torch.cuda, "empty_cache", lambda: log.append("empty"))
    service = FakeService(Measured(measurement(2.0), {}))
    answer = service.measure
    monkeypatch.setattr(service, "measure", lambda *words, **names: log.append("measure") or answer(*words, **names))
    monkeypatch.setattr(trial, "_train", lambda record, context: iter([rung(0, 0.5), rung(1, 0.6)]))
    record = first_record(service, tmp_path, device="cuda")
    assert (record.measurement, log) == (measurement(2.0), ["empty", "measure"])


def test_a_candidate_over_a_counted_limit_is_not_measured(tmp_path):
    service = FakeService(Measured(measurement(2.0), {}))
    (record,) = records(service, tmp_path, limits={"max_params": 10.0})
    assert (record.state, record.measurement, record.rungs) == (TrialState.INFEASIBLE, None, ())
    assert record.reason == f"max-params: {record.params:.3g} against a limit of 10"
    assert not service.calls


def test_a_failed_trial_keeps_its_earlier_results(tmp_path, monkeypatch):
    def ends_early(record: TrialRecord, context: TrialContext) -> Iterator[RungResult]:
        yield rung(0, 0.5)
        raise ValueError("no memory")

    monkeypatch.setattr(trial, "_train", ends_early)
    *_, failed = records(FakeService(Measured(measurement(2.0), {})), tmp_path)
    assert (failed.state, failed.measurement, failed.rungs) == (TrialState.FAILED, measurement(2.0), (rung(0, 0.5),))


def test_a_candidate_whose_limited_quantity_is_unknown_is_never_trained(tmp_path):
    blind = replace(measurement(2.0), peak_memory_mib=None, driver_memory_mib=50.0)
    (record,) = records(FakeService(Measured(blind, {})), tmp_path, limits={"max_memory_mib": 100.0})
    assert (record.state, record.rungs) == (TrialState.INFEASIBLE, ())
    assert record.reason.startswith("max-memory-mib: unknown")


def test_a_baseline_has_no_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_train", lambda record, context: iter([rung(0, 0.5)]))
    service = FakeService(Measured(measurement(2.0), {}))
    for baseline, state in ((None, TrialState.INFEASIBLE), ("eradio_pico", TrialState.RUNNING)):
        record = next(records(service, tmp_path, baseline, limits={"max_params": 10.0}))
        assert record.state is state


def late_records(service: FakeService, folder: Path, **settings: Any) -> Iterator[TrialRecord]:
    spec = SPACES["micro"].sample(random.Random(0))
    expected = Expectation(0.5, 0.1, 0.01, ratio=1.5)
    asked = TrialRecord(0, spec.arch_id, spec.to_dict(), TrialState.RUNNING, expected=expected)
    return run_trial(asked, context_of(service, folder, **settings))


def test_a_trial_that_is_measured_late_trains_first_and_is_measured_only_if_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_train", lambda record, context: iter([rung(0, 0.5), rung(1, 0.7)]))
    service = FakeService(Measured(measurement(2.0), {}))
    sent = late_records(service, tmp_path)
    first = next(sent)
    assert (len(first.rungs), first.measurement, first.predicted_ratio, service.calls) == (1, None, 1.5, [])
    measured, last = sent
    assert (len(measured.rungs), measured.measurement, measured.predicted_ratio) == (1, measurement(2.0), None)
    assert (len(last.rungs), last.state, len(service.calls)) == (2, TrialState.COMPLETE, 1)


def comparison_network(service: FakeService, folder: Path, name: str, **settings: Any) -> TrialRecord:
    asked = TrialRecord(-1, name, {}, TrialState.RUNNING, scale=name)
    (record,) = run_trial(asked, context_of(service, folder, **settings))
    return record


def test_a_comparison_network_is_counted_and_measured_against_the_study_s_reference(tmp_path):
    service = FakeService(Measured(measurement(2.0), {}))
    record = comparison_network(service, tmp_path, "timm:resnet18", reference="timm:resnet34")
    assert (record.state, record.rungs, record.measurement) == (TrialState.MEASURED, (), measurement(2.0))
    assert (record.params, record.macs) == (11_176_512, 148_045_824)
    assert [call[:2] for call in service.calls] == [("timm:resnet18", "timm:resnet34")]


def test_a_comparison_network_that_does_not_take_the_images_is_not_measured(tmp_path):
    service = FakeService(Measured(measurement(2.0), {}))
    record = comparison_network(service, tmp_path, "timm:levit_128")
    assert (record.state, service.calls) == (TrialState.INFEASIBLE, [])
    assert "timm:levit_128" in record.reason
    assert "64 px" in record.reason
