"""Which trials are retrained or measured again, and which one a user means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import find_trial
from nas.analysis.trial_choice import (
    FrontCandidate,
    SelectionError,
    candidates_to_retrain,
    find_by_name,
    front_candidates,
    trials_to_remeasure,
)
from nas.study.records import StudyRecord, TrialState
from tests.nas.analysis.builders import POINTS, small_study
from tests.nas.study.builders import record


def test_candidates_are_the_found_nets_with_their_chances_the_front_first() -> None:
    known = front_candidates(small_study())
    assert {c.trial.number for c in known if c.on_front} == {1, 2, 3}
    chances = {c.trial.number: c.chance for c in known}
    assert chances[1] == chances[3] == 1
    assert chances[4] == 0  # behind by 0.05, seven times a seed's scatter
    assert 0.35 < chances[5] < 0.45  # slower by 0.5 %, of a deviation of 2.1 %, and worse: only where it is faster


def test_retrained_are_the_whole_front_and_the_likeliest_of_the_near_misses() -> None:
    def picked(near: int, chances: list[tuple[bool, float]]) -> list[int]:
        trials = [record(n, (0.1, 0.2), 1.0) for n in range(len(chances))]
        known = [FrontCandidate(t, *c) for t, c in zip(trials, chances, strict=True)]
        return [c.trial.number for c in candidates_to_retrain(known, near)]

    known = [(True, 0.9), (False, 0.5), (True, 0.3), (False, 0.06), (False, 0.04), (True, 0.01)]
    assert picked(9, known) == [0, 1, 2, 3, 5]  # 4 is negligible; 5 is not, for it is on the front
    assert picked(1, known) == [0, 1, 2, 5]
    assert picked(0, known) == [0, 2, 5]


def test_nothing_complete_is_said_in_a_line() -> None:
    study = small_study()
    stopped = tuple(replace(t, state=TrialState.STOPPED) for t in study.trials)
    with pytest.raises(SelectionError, match="no trial that was measured and trained to its last rung"):
        front_candidates(replace(study, trials=stopped))
    empty = gather_evidence(replace(study, trials=(), info=replace(study.info, config={"budget": 8})))
    with pytest.raises(SelectionError, match="unfinished: 0 of 8"):
        find_trial(empty, "best")


def test_which_trials_are_measured_again() -> None:
    study = small_study({**POINTS, 6: (0.34, 1.4)})  # the third layer behind the front
    study = replace(study, trials=(*study.trials, replace(record(7, (0.1,), 1.0), state=TrialState.STOPPED)))
    found = {which: [t.number for t in trials_to_remeasure(study, which)] for which in ("front", "near", "all", "4,5")}
    assert found == {"front": [0, 1, 2, 3], "near": [0, 1, 2, 3, 4, 5], "all": [0, 1, 2, 3, 4, 5, 6], "4,5": [0, 4, 5]}
    for which, words in (("7", "trial 7"), ("1,x", "must be front, near, all or")):
        with pytest.raises(SelectionError, match=words):
            trials_to_remeasure(study, which)


def test_a_number_comes_before_a_beginning_and_a_beginning_may_be_anyones() -> None:
    study = small_study()
    ids = ["1000aaaaaaaa", "20bbbbbbbbbb", "20cccccccccc", "12345678dddd", "eeeeeeeeeeee", "eeeeeeeeeeee"]
    trials = [replace(t, arch_id=arch_id) for t, arch_id in zip(study.trials, ids, strict=True)]
    trials[4] = replace(trials[4], state=TrialState.DUPLICATE)
    study = StudyRecord(study.info, tuple(trials))
    assert find_by_name(study, "1").number == 1
    assert find_by_name(study, "1000a").number == 0
    assert find_by_name(study, "12345678").number == 3
    assert find_by_name(study, "20c").number == 2
    assert find_by_name(study, "e").number == 5
    assert find_by_name(study, "trial 3").number == 3
    assert find_by_name(study, str(study.trials[0].baseline)).number == 0
    # Digits alone are a number, also of a trial that is not there, or that is another's duplicate.
    for which in ("20", "1000", "1234567", "4"):
        with pytest.raises(SelectionError, match=f"no trial '{which}'"):
            find_by_name(study, which)
    trials[1] = replace(trials[1], arch_id="20cbbbbbbbbb")
    study = StudyRecord(study.info, tuple(trials))
    for which, words in (("20c", "20cbbbbbbbbb, 20cccccccccc"), ("f", "no trial 'f'"), ("", "no trial ''")):
        with pytest.raises(SelectionError, match=words):
            find_by_name(study, which)
