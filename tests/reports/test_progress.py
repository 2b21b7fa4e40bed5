"""Searches that run, were killed, or ended before their budget was spent."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nas.study.loop import OUT_OF_TIME
from nas.study.records import StudyRecord
from reports.search_course import SearchState, search_state
from reports.sentences import progress
from reports.summary import summarize
from tests.reports import synthetic

OPEN = {"started": "2025-01-31T12:00:00Z", "wall_s": 0.0}
OVER = {**OPEN, "wall_s": 60.0}
WHY = "300 infeasible architectures in a row; the last: too large"
GAVE_UP = {**OVER, "ending": WHY}
KILLED = {**OPEN, "killed": True}


@pytest.mark.parametrize(
    ("sessions", "state"),
    [
        ((OPEN,), SearchState.RUNNING),
        ((OVER, GAVE_UP), SearchState.ENDED_EARLY),
        ((GAVE_UP, OPEN), SearchState.RUNNING),  # it was extended
        ((KILLED, GAVE_UP), SearchState.ENDED_EARLY),
        ((OVER,), SearchState.INTERRUPTED),
    ],
)
def test_a_search_that_cannot_continue_is_told_from_one_that_runs(sessions, state):
    study = synthetic.with_info(synthetic.study(8, budget=100), sessions=sessions)
    summary = summarize(study)
    assert search_state(study.info, summary.evaluated, running=0) is state
    sentence = progress(study.info, summary, datetime(2025, 1, 31, tzinfo=UTC))
    assert f"{summary.evaluated} of 100" in sentence
    assert (WHY in sentence) is (state is SearchState.ENDED_EARLY)
    assert ("If it was killed, backbone-nas search --resume" in sentence) is (state is SearchState.RUNNING)


def test_a_session_out_of_time_ended_early_though_its_trials_wait_as_running():
    out_of_time = {**OVER, "ending": OUT_OF_TIME}
    study = synthetic.with_info(synthetic.study(8, budget=100), sessions=(out_of_time,))
    assert search_state(study.info, evaluated=5, running=2) is SearchState.ENDED_EARLY
    assert search_state(synthetic.with_info(study, sessions=(GAVE_UP,)).info, 5, running=2) is SearchState.INTERRUPTED


def test_a_finished_search_has_no_progress():
    study = synthetic.study(8, budget=1)
    assert search_state(study.info, evaluated=1, running=0) is SearchState.FINISHED
    assert search_state(study.info, evaluated=1, running=1) is not SearchState.FINISHED
    assert progress(study.info, summarize(study), datetime(2025, 1, 31, tzinfo=UTC)) is None


def test_the_time_of_an_open_session_is_that_of_its_trials():
    study = synthetic.study(40)
    written = {"teachers": 343.0, "measure": 1.0}
    live = StudyRecord(replace(study.info, sessions=(OVER, OPEN), time_spent=written), study.trials)
    rows = {row.purpose: row for row in summarize(live).time_spent}
    measured = sum(t.measurement.seconds for t in study.trials if t.measurement)
    assert rows["measure"].seconds == pytest.approx(measured)
    for rung, steps in enumerate(synthetic.RUNG_STEPS):
        trained = sum(t.rungs[rung].seconds for t in study.trials if len(t.rungs) > rung)
        assert rows[f"train to {steps} steps"].seconds == pytest.approx(trained)
    assert rows["teacher cache"].share < 0.5
    for sessions in ((OVER,), (KILLED, OVER)):
        closed = summarize(StudyRecord(replace(live.info, sessions=sessions), study.trials)).time_spent
        assert {row.seconds for row in closed} == set(written.values())
