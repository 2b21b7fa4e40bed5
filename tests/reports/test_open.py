"""Pages of searches that run, were killed, or ended before their budget was spent."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nas.records import Study
from reports import sentences
from reports.summary import summarize
from tests.reports import synthetic

OPEN = {"started": "2025-01-31T12:00:00Z", "wall_s": 0.0}
OVER = {**OPEN, "wall_s": 60.0}
WHY = "300 infeasible architectures in a row; the last: too large"


def told(*sessions: dict) -> str:
    study = synthetic.study(8, budget=100)
    info = replace(study.info, sessions=sessions)
    made = datetime(2025, 1, 31, tzinfo=UTC)
    return sentences.progress(info, summarize(Study(info, study.trials)), made)


def test_a_search_that_cannot_go_on_does_not_promise_to():
    assert "while the search runs" in told(OPEN)
    ended = told(OPEN | OVER, {**OVER, "ending": WHY})
    assert ended.startswith("Ended early: ")
    assert WHY in ended
    assert "while the search runs" not in ended
    assert "while the search runs" in told({**OVER, "ending": WHY}, OPEN), "it was extended"
    assert "no search was at it" in told(OVER)


def test_the_time_of_an_open_session_is_that_of_its_trials():
    study = synthetic.study(40)
    written = {"teachers": 343.0, "measure": 1.0}
    live = Study(replace(study.info, sessions=(OVER, OPEN), ledger=written), study.trials)
    rows = {row.purpose: row for row in summarize(live).ledger}
    measured = sum(t.measurement.seconds for t in study.trials if t.measurement)
    assert rows["measure"].seconds == pytest.approx(measured)
    for rung, steps in enumerate(synthetic.RUNG_STEPS):
        trained = sum(t.rungs[rung].seconds for t in study.trials if len(t.rungs) > rung)
        assert rows[f"train to {steps} steps"].seconds == pytest.approx(trained)
    assert rows["teachers, when their cache was built"].share < 0.5
    closed = summarize(Study(replace(live.info, sessions=(OVER,)), study.trials)).ledger
    assert {row.seconds for row in closed} == set(written.values())
