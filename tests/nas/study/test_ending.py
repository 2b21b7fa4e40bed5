"""Whether a study is finished, and the words on how much of it was evaluated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.study.ending import is_exhausted, unfinished
from nas.study.loop import CONVERGED, OUT_OF_TIME
from nas.study.proposer import NOTHING_NEW, SPACE_EXHAUSTED
from nas.study.records import StudyRecord, TrialState
from tests.nas.analysis.builders import small_study
from tests.nas.study.builders import record


def test_an_unfinished_study_says_how_much_of_its_budget_was_evaluated() -> None:
    study = small_study()  # 5 candidates and a baseline
    assert unfinished(with_budget(study, 8)) == "unfinished: 5 of 8 architectures evaluated"
    assert unfinished(with_budget(study, 5)) == ""
    running = StudyRecord(study.info, (*study.trials, replace(record(6, (), 1.0), state=TrialState.RUNNING)))
    assert unfinished(with_budget(running, 5)) == "unfinished: 5 architectures evaluated"


@pytest.mark.parametrize("reason", [f"{SPACE_EXHAUSTED} 5 architectures", NOTHING_NEW, f"{CONVERGED}: the next ..."])
def test_a_search_that_converged_or_found_nothing_new_is_finished(reason: str) -> None:
    study, over = with_budget(small_study(), 8), {"started": "2026-01-01T00:00:00Z", "wall_s": 9.0}
    ends = [({**over, "ending": reason},), ({**over, "wall_s": 0.0, "killed": True}, {**over, "ending": reason})]
    goes_on = [(over,), ({**over, "ending": reason}, {**over, "wall_s": 0.0}), ({**over, "ending": OUT_OF_TIME},)]
    for which, finished in [(sessions, True) for sessions in ends] + [(sessions, False) for sessions in goes_on]:
        ended = replace(study, info=replace(study.info, sessions=which))
        assert (unfinished(ended) == "") is finished, which
        assert is_exhausted(ended.info) is (finished and not reason.startswith(CONVERGED))
        running = replace(record(6, (), 1.0), state=TrialState.RUNNING)
        assert unfinished(replace(ended, trials=(*ended.trials, running)))


def with_budget(study: StudyRecord, budget: int) -> StudyRecord:
    return replace(study, info=replace(study.info, config={**study.info.config, "budget": budget}))
