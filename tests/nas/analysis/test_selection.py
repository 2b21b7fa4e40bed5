"""Which trials are retrained or measured again, and which one a user means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.analysis.selection import (
    BaselineComparison,
    FrontCandidate,
    SelectionError,
    candidates_to_retrain,
    find_trial,
    front_candidates,
    measurement,
    recommend,
    setting_words,
    trials_to_remeasure,
    unfinished,
)
from nas.study.objectives import objectives
from nas.study.records import StudyRecord, TrialState
from tests.nas.analysis.builders import POINTS, small_study
from tests.nas.study.builders import record


def test_candidates_are_the_found_nets_with_their_chances_the_front_first() -> None:
    known = front_candidates(small_study())
    assert {c.trial.number for c in known if c.on_front} == {1, 2, 3}
    chances = {c.trial.number: c.chance for c in known}
    assert chances[1] == chances[3] == 1
    assert chances[4] == 0  # behind by 0.05, seven times a seed's scatter
    assert 0.2 < chances[5] < 0.4  # slower by 0.5 % of +-1 %, worse by 0.02 of 0.0075: only where it is the faster


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


def test_which_trials_are_measured_again() -> None:
    study = small_study({**POINTS, 6: (0.34, 1.4)})  # the third layer behind the front
    study = replace(study, trials=(*study.trials, replace(record(7, (0.1,), 1.0), state=TrialState.STOPPED)))
    found = {which: [t.number for t in trials_to_remeasure(study, which)] for which in ("front", "near", "all", "4,5")}
    assert found == {"front": [0, 1, 2, 3], "near": [0, 1, 2, 3, 4, 5], "all": [0, 1, 2, 3, 4, 5, 6], "4,5": [0, 4, 5]}
    for which, words in (("7", "trial 7"), ("1,x", "must be front, near, all or")):
        with pytest.raises(SelectionError, match=words):
            trials_to_remeasure(study, which)


def recommended(study: StudyRecord) -> int:
    recommendation = recommend(study)
    assert recommendation is not None
    assert find_trial(study, "best") == recommendation.trial
    return recommendation.trial.number


def test_recommended_is_the_fastest_of_those_as_good_as_the_best_baseline() -> None:
    points = {0: (0.4, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0), 4: (0.35, 1.5), 5: (0.4, 1.99)}
    found = recommend(small_study(points))
    assert found is not None
    assert found.at_equal_score is not None
    assert found.at_equal_speed is not None
    assert (found.trial.number, found.at_equal_score.found.number, found.at_equal_speed.found.number) == (2, 2, 3)
    assert (found.at_equal_score.speedup, found.at_equal_score.score_gain) == (2.0, 0.0)
    assert found.at_equal_speed.speedup == 1.0
    assert found.at_equal_speed.score_gain == pytest.approx(0.2)


def test_a_speedup_has_opposite_bounds_of_both_intervals() -> None:
    study = small_study()
    bounds = {0: (0.9, 1.1), 3: (0.8, 1.3)}  # of the baseline and of the candidate at equal speed
    trials = [
        replace(t, measurement=t.measurement and replace(t.measurement, ratio_low=low, ratio_high=high))
        for t in study.trials
        for low, high in [bounds.get(t.number, (1.0, 1.0))]
    ]
    found = recommend(StudyRecord(study.info, tuple(trials)))
    assert found is not None
    assert found.at_equal_speed is not None
    assert (found.at_equal_speed.speedup_low, found.at_equal_speed.speedup_high) == (0.8 / 1.1, 1.3 / 0.9)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "shown"),
    [(1.01, 1.5, "ok", True), (0.5, 0.99, "ok", True), (0.97, 2.2, "ok", False), (1.01, 1.5, "contended", False)],
)
def test_a_difference_is_shown_by_an_undisturbed_interval_that_leaves_out_1(
    low: float, high: float, verdict: str, shown: bool
) -> None:
    trials = [
        replace(t, measurement=t.measurement and replace(t.measurement, ratio_low=1.0, ratio_high=1.0, verdict="ok"))
        for t in small_study().trials
    ]
    found = replace(measurement(trials[3]), ratio_low=low, ratio_high=high, verdict=verdict)
    compared = BaselineComparison(replace(trials[3], measurement=found), trials[0], 1.2, low, high, 0.1)
    assert compared.shows_difference is shown


def test_an_unfinished_study_says_how_much_of_its_budget_was_evaluated() -> None:
    study = small_study()  # 5 candidates and a baseline
    assert unfinished(with_budget(study, 8)) == "unfinished: 5 of 8 architectures evaluated"
    assert unfinished(with_budget(study, 5)) == ""
    running = StudyRecord(study.info, (*study.trials, replace(record(6, (), 1.0), state=TrialState.RUNNING)))
    assert unfinished(with_budget(running, 5)) == "unfinished: 5 architectures evaluated"
    with pytest.raises(SelectionError, match="unfinished: 0 of 8"):
        find_trial(with_budget(replace(study, trials=()), 8), "best")


def with_budget(study: StudyRecord, budget: int) -> StudyRecord:
    return replace(study, info=replace(study.info, config={**study.info.config, "budget": budget}))


def test_words_of_a_setting_name_the_threads_once() -> None:
    m = measurement(small_study().trials[0])
    cpu = replace(m, device="AMD EPYC, 1 threads", arm="fp32, eager, 1 thread(s)", batch=16)
    assert setting_words(cpu) == "AMD EPYC; fp32, eager; 1 measuring thread; batch 16"
    assert setting_words(replace(cpu, arm="fp32, eager, 3 thread(s)")).count("3 measuring threads") == 1
    assert (
        setting_words(replace(cpu, device="NVIDIA H100", arm="compiled, bf16"))
        == "NVIDIA H100; compiled, bf16; batch 16"
    )


def test_without_one_as_good_as_the_baseline_the_highest_score_is_recommended() -> None:
    assert recommended(small_study({0: (0.9, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0), 3: (0.6, 3.0)})) == 3
    study = small_study({0: (0.9, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0)})
    assert recommended(StudyRecord(study.info, study.trials[1:])) == 2


@pytest.mark.parametrize("names", [("score",), ("score", "latency"), ("params", "score")])
def test_where_throughput_is_no_objective_the_highest_score_is_recommended(names: tuple[str, ...]) -> None:
    study = small_study({0: (0.1, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0), 3: (0.5, 3.0)})
    assert recommended(study) == 1
    study = StudyRecord(replace(study.info, objectives=objectives(names, "both")), study.trials)
    assert recommended(study) == 2


def test_nothing_is_recommended_before_a_candidate_reaches_the_last_rung() -> None:
    study = small_study()
    short = tuple(t if t.baseline else replace(t, rungs=t.rungs[:1]) for t in study.trials)
    assert recommend(replace(study, trials=short)) is None
    with pytest.raises(SelectionError, match="no trial that was measured and trained to its last rung"):
        find_trial(replace(study, trials=short), "best")


def test_a_number_comes_before_a_beginning_and_a_beginning_may_be_anyones() -> None:
    study = small_study()
    ids = ["1000aaaaaaaa", "20bbbbbbbbbb", "20cccccccccc", "12345678dddd", "eeeeeeeeeeee", "eeeeeeeeeeee"]
    trials = [replace(t, arch_id=arch_id) for t, arch_id in zip(study.trials, ids, strict=True)]
    trials[4] = replace(trials[4], state=TrialState.DUPLICATE)
    study = StudyRecord(study.info, tuple(trials))
    assert find_trial(study, "1").number == 1
    assert find_trial(study, "1000a").number == 0
    assert find_trial(study, "12345678").number == 3
    assert find_trial(study, "20c").number == 2
    assert find_trial(study, "e").number == 5
    # Digits alone are a number, also of a trial that is not there, or that is another's duplicate.
    for which in ("20", "1000", "1234567", "4"):
        with pytest.raises(SelectionError, match=f"no trial '{which}'"):
            find_trial(study, which)
    trials[1] = replace(trials[1], arch_id="20cbbbbbbbbb")
    study = StudyRecord(study.info, tuple(trials))
    for which, words in (("20c", "20cbbbbbbbbb, 20cccccccccc"), ("f", "no trial 'f'"), ("", "no trial ''")):
        with pytest.raises(SelectionError, match=words):
            find_trial(study, which)
