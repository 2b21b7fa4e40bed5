"""When each worker measured and trained which trial."""

from dataclasses import replace
from itertools import pairwise

import pytest

from nas.study.records import Expectation, TrialState
from reports import timeline
from reports.captions import timeline_caption
from reports.figure_data import prepare
from reports.summary import summarize
from reports.timeline import MEASURING, TRAINING, WAITING, worker_spans
from tests.reports import synthetic


def trial(number: int, worker: str | None, started_s: float | None, finished_s: float):
    record = synthetic.study(1, only=TrialState.COMPLETE, baselines=False).trials[0]
    rungs = tuple(replace(r, seconds=s) for r, s in zip(record.rungs, (1.0, 2.0, 4.0), strict=True))
    measured = replace(record.measurement, seconds=3.0)
    times = {"started_s": started_s, "finished_s": finished_s, "worker": worker}
    return replace(record, number=number, rungs=rungs, measurement=measured, **times)


def test_a_trial_waits_is_measured_and_trained_until_its_end():
    spans = worker_spans([trial(7, "a:1", 100.0, 120.0)])
    assert [(s.doing, s.begin_s, s.end_s) for s in spans] == [
        (WAITING, 100.0, 110.0),
        (MEASURING, 110.0, 113.0),
        (TRAINING, 113.0, 120.0),
    ]
    assert {(s.number, s.worker, s.lane) for s in spans} == {(7, "a:1", 0)}


def test_what_an_earlier_run_did_is_not_in_the_last_one():
    spans = worker_spans([trial(7, "a:1", 115.0, 120.0)])  # it continued from a checkpoint
    assert [(s.doing, s.begin_s, s.end_s) for s in spans] == [(TRAINING, 115.0, 120.0)]


def test_workers_that_live_at_the_same_time_have_lanes_of_their_own():
    trials = [
        trial(0, "a:1", 0.0, 30.0),
        trial(1, "a:2", 1.0, 70.0),
        trial(2, "a:1", 30.0, 60.0),
        trial(3, "a:3", 65.0, 90.0),  # after a:1
        trial(4, None, 0.0, 30.0),
        trial(5, "a:4", None, 30.0),
    ]
    assert {s.number: s.lane for s in worker_spans(trials)} == {0: 0, 1: 1, 2: 0, 3: 0}


@pytest.mark.parametrize("most", [5, 1000])
def test_the_longest_spans_are_kept_in_order(monkeypatch, most):
    monkeypatch.setattr(timeline, "MAX_SPANS", most)
    trials = synthetic.study(30).trials
    spans = worker_spans(trials)
    monkeypatch.setattr(timeline, "MAX_SPANS", 10**6)
    longest = sorted((s.end_s - s.begin_s for s in worker_spans(trials)), reverse=True)[:most]
    assert sorted((s.end_s - s.begin_s for s in spans), reverse=True) == longest
    assert all((a.lane, a.begin_s) <= (b.lane, b.begin_s) for a, b in pairwise(spans))


def test_a_trial_that_is_measured_late_is_measured_after_its_first_rung():
    late = replace(trial(7, "a:1", 100.0, 120.0), expected=Expectation(0.5, 0.1, 0.01, ratio=1.5))
    assert [(s.doing, s.begin_s, s.end_s) for s in worker_spans([late])] == [
        (WAITING, 100.0, 110.0),
        (TRAINING, 110.0, 111.0),
        (MEASURING, 111.0, 114.0),
        (TRAINING, 114.0, 120.0),
    ]


@pytest.mark.parametrize(("most", "said"), [(1, "2 processes are not drawn"), (2, "1 process is not drawn"), (3, "")])
def test_workers_without_a_row_are_counted(monkeypatch, most, said):
    monkeypatch.setattr(timeline, "MAX_LANES", most)
    trials = tuple(trial(n, f"a:{n}", 0.0, 30.0) for n in range(3))
    study = replace(synthetic.study(1), trials=trials)
    caption = timeline_caption(prepare(study, summarize(study)))
    assert ("not drawn" in caption) is bool(said)
    assert said in caption
