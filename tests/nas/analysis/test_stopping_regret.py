"""What early stopping missed: whom to retrain, and what they would have added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.recommendation import recommend
from nas.analysis.retraining import RetrainingSummary, retraining_json, summarize_retraining
from nas.analysis.trial_choice import promising_stopped
from nas.study.records import Expectation, Retraining, StudyRecord, TrialRecord, TrialState
from tests.nas.analysis.builders import remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import record, rung

# Complete: trial 1 at 4 times the reference's throughput, 2 at 2 times, 3 at 1 time; after 10 steps all score 0.1.
RATIOS = {0: 1.0, 1: 4.0, 2: 2.0, 3: 1.0}


def stopped(number: int, score: float, ratio: float, *, measured: bool = True, rungs: int = 1) -> TrialRecord:
    trial = record(number, (score, 0.2)[:rungs], ratio)
    trial = replace(trial, state=TrialState.STOPPED, reason="early-stopped")
    return trial if measured else replace(trial, measurement=None, expected=Expectation(0.3, 0.1, 0.01, ratio))


def with_stopped(*trials: TrialRecord) -> StudyRecord:
    study = small_study({0: (0.3, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0)})
    return replace(study, trials=(*study.trials, *trials))


def test_the_most_promising_fall_least_short_of_those_that_are_as_fast() -> None:
    study = with_stopped(
        stopped(4, 0.02, 1.5), stopped(5, 0.09, 3.0), stopped(6, 0.08, 0.5), stopped(7, 0.05, 5.0, measured=False)
    )
    assert [t.number for t in promising_stopped(study, 9)] == [7, 5, 6, 4]  # 7 is faster than all: it lacks nothing
    assert [t.number for t in promising_stopped(study, 2)] == [7, 5]
    assert promising_stopped(study, 0) == ()


def test_each_rung_has_its_own_and_unmeasured_or_infeasible_ones_have_no_place() -> None:
    study = small_study()
    info = replace(study.info, rung_steps=(10, 20, 30))
    complete = tuple(replace(t, rungs=(rung(0, 0.1), rung(1, 0.2), rung(2, t.final_score))) for t in study.trials)
    unknown = replace(stopped(8, 0.1, 1.0), measurement=None)
    infeasible = replace(stopped(9, 0.1, 1.0), state=TrialState.INFEASIBLE)
    later, first = stopped(6, 0.05, 1.0, rungs=2), stopped(7, 0.09, 1.0)
    study = replace(study, info=info, trials=(*complete, later, first, unknown, infeasible))
    assert [t.number for t in promising_stopped(study, 1)] == [7, 6]


def scores(number: int, at_30: tuple[float, float], at_90: tuple[float, float]) -> list[Retraining]:
    """Return the retrainings with seeds 1 and 2, by their scores after 30 and 90 steps."""
    pairs = enumerate(zip(at_30, at_90, strict=True), 1)
    return [t for seed, (short, long) in pairs for t in retrained(number, {seed: long}, at_30=short)]


WENT_ON = [*scores(1, (0.1, 0.1), (0.2, 0.2)), *scores(2, (0.2, 0.2), (0.4, 0.4)), *scores(3, (0.3, 0.3), (0.6, 0.6))]


def summary(study: StudyRecord, again: list[Retraining]) -> RetrainingSummary:
    ratios = {t.number: RATIOS.get(t.number, 2.0) for t in study.trials}
    found = summarize_retraining(study, again, [remeasured_for_retraining(ratios)])
    assert found is not None
    return found


def test_the_gain_is_the_hypervolume_that_they_add() -> None:
    """Trial 4 measures as fast as trial 2 and scores 0.1 higher with seed 1, lower with seed 2; 5 is behind it."""
    study = with_stopped(stopped(4, 0.09, 2.0), stopped(5, 0.09, 2.0))
    again = [*WENT_ON, *scores(4, (0.1, 0.1), (0.5, 0.39)), *scores(5, (0.1, 0.1), (0.3, 0.3))]
    plain = retraining_json(study, summary(study, again))
    after_30, after_90 = plain["early_stopping"]
    assert (after_30["steps"], after_30["joined"], after_30["gain"]) == (30, (), 0)
    before = 3 * 0.6 + 0.4 + 0.2  # the reference point is 3 doublings below ratio 1, where trial 3 lies
    assert after_90["joined"] == (4,)
    assert (after_90["stopped_after"], after_90["candidates"]) == (10, 2)
    assert after_90["gain"] == pytest.approx(0.045 / before)  # mean of 0.5 and 0.39 over 0.4, for one doubling
    assert after_90["by_seed"] == pytest.approx((0.1 / before, 0))


def test_seeds_count_that_all_candidates_have() -> None:
    study = with_stopped(stopped(4, 0.09, 2.0))
    seed_1 = [t for t in scores(4, (0.1, 0.1), (0.5, 0.1)) if t.seed == 1]
    (regret,) = (r for r in plain_regrets(study, [*WENT_ON, *seed_1]) if r["steps"] == 90)
    assert len(regret["by_seed"]) == 1
    assert regret["gain"] == regret["by_seed"][0] == pytest.approx(0.1 / (3 * 0.6 + 0.4 + 0.2))
    other_seed = [replace(t, seed=3) for t in seed_1]
    assert plain_regrets(study, [*WENT_ON, *other_seed]) == []


def test_the_front_is_that_of_all_and_gains_of_rungs_are_not_added() -> None:
    """Trial 5, stopped later, would be on the front but for trial 4; both lie above the same part of it."""
    study = with_stopped(stopped(4, 0.09, 2.0), stopped(5, 0.09, 2.0, rungs=2))
    again = [*WENT_ON, *scores(4, (0.1, 0.1), (0.5, 0.5)), *scores(5, (0.1, 0.1), (0.45, 0.45))]
    before = 3 * 0.6 + 0.4 + 0.2
    found = [r for r in plain_regrets(study, again) if r["steps"] == 90]
    assert [(r["stopped_after"], r["joined"], r["candidates"]) for r in found] == [
        (10, (4,), 1),
        (30, (), 1),
        (None, (4,), 2),
    ]
    assert [r["gain"] for r in found] == pytest.approx([0.1 / before, 0.05 / before, 0.1 / before])


def plain_regrets(study: StudyRecord, again: list[Retraining]) -> list[dict[str, Any]]:
    regrets: list[dict[str, Any]] = retraining_json(study, summary(study, again))["early_stopping"]
    return regrets


def test_retrained_ones_may_be_recommended_with_the_timing_of_the_retraining() -> None:
    """Trial 4 was never measured by the search; the baseline's retrained score is 0.45."""
    study = with_stopped(stopped(4, 0.09, 2.0, measured=False), stopped(5, 0.09, 2.0, measured=False))
    again = [*WENT_ON, *scores(0, (0.1, 0.1), (0.45, 0.45)), *scores(4, (0.1, 0.1), (0.5, 0.5))]
    evidence = gather_evidence(study, again, [remeasured_for_retraining({**RATIOS, 4: 2.5})])
    assert {model.number: model.ratio for model in evidence.retrained} == {**RATIOS, 4: 2.5}
    found = recommend(evidence)
    assert found is not None
    assert (found.model.number, found.model.score, found.by_search.number) == (4, 0.5, 2)
    # Of another batch: no timing of the search's setting, so that the model stays without one.
    other = replace(remeasured_for_retraining({**RATIOS, 4: 2.5}).measurements[4], batch=3)
    elsewhere = replace(
        remeasured_for_retraining(RATIOS), measurements={**remeasured_for_retraining(RATIOS).measurements, 4: other}
    )
    assert {model.number for model in gather_evidence(study, again, [elsewhere]).retrained} == {0, 1, 2, 3}
