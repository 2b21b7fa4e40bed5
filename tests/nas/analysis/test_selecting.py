"""Compare answers with those by hand: the best that fits, its chances, runners-up, the nearest candidate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analysis.evidence import LAST_RUNG, RETRAINED, StudyEvidence, gather_evidence
from nas.analysis.noise import assumed_scatter
from nas.analysis.selecting import Answer, answer, answer_notes
from nas.study.records import StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import THROUGHPUT_RUN_DEVIATION
from tests.nas.analysis.builders import remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import measurement, record


def sized(trial: TrialRecord, params: int) -> TrialRecord:
    return replace(trial, params=params)


# By trial (score, ratio); throughput is 1000 times the ratio. 0 is the baseline.
POINTS = {0: (0.30, 1.0), 1: (0.20, 4.0), 2: (0.40, 2.0), 3: (0.60, 1.0), 4: (0.595, 1.1), 5: (0.38, 1.99)}


def study() -> StudyRecord:
    base = small_study(POINTS)
    return replace(base, trials=tuple(sized(t, 100_000 * (t.number + 1)) for t in base.trials))


def answer_to(
    limits: Mapping[str, float], evidence: StudyEvidence | None = None, of: StudyRecord | None = None
) -> Answer:
    return answer(evidence or gather_evidence(of or study()), limits)


def numbers(result: Answer) -> list[int]:
    return [c.trial.number for c in result.runners_up]


def test_the_best_by_score_of_those_that_fit() -> None:
    result = answer_to({"min_throughput_img_s": 1900})
    assert result.best is not None
    assert result.best.trial.number == 2
    assert (result.fitting, result.compared, result.basis, result.steps) == (3, 5, LAST_RUNG, 30)
    assert result.scatter == assumed_scatter(study().info)
    assert (result.nearest, result.alone) == (None, {})
    # 0.02 ahead of trial 5: 0.02 / (0.0075 * sqrt(2)) = 1.886, Student's t of 30 degrees of freedom.
    assert result.best.chance_best == pytest.approx(0.966, abs=0.008)
    assert numbers(result) == []  # 0.034 is negligible


def test_runners_up_are_not_clearly_worse() -> None:
    result = answer_to({})
    assert result.best is not None
    assert result.best.trial.number == 3
    assert numbers(result) == [4]  # behind by 0.005 of 0.0106: 0.32
    (other,) = result.runners_up
    assert other.chance_best == pytest.approx(0.32, abs=0.015)
    assert result.best.chance_best == pytest.approx(0.68, abs=0.015)
    assert result.best.chance_to_keep == 1


def test_the_chance_to_keep_a_limit_is_that_of_the_interval() -> None:
    result = answer_to({"min_throughput_img_s": 990 * 2.0})
    assert result.best is not None
    assert result.best.trial.number == 2
    below = math.log(1 / 0.99)  # the interval ends there; the next process changes more
    deviation = math.hypot(below / 1.959964, THROUGHPUT_RUN_DEVIATION)
    assert result.best.chance_to_keep == pytest.approx(statistics.NormalDist().cdf(below / deviation))


def test_the_nearest_candidate_needs_the_smallest_relaxation() -> None:
    result = answer_to({"min_throughput_img_s": 2100, "max_params": 190_000})
    # 1 has 4000 images/s and 200,000 parameters (1.053); 0 has 1000 (2.1), 2 has 2000 and 300,000 (1.58).
    assert result.best is None
    assert result.nearest is not None
    assert result.nearest.trial.number == 1
    limits = {"min_throughput_img_s": 2100.0, "max_params": 190_000.0}
    assert result.nearest.excess(limits) == {"max_params": pytest.approx(200 / 190)}
    assert result.nearest.chance_best is None
    alone = {name: c and c.trial.number for name, c in result.alone.items()}
    assert alone == {"min_throughput_img_s": 1, "max_params": 0}
    assert answer_to({"max_params": 1}).alone == {"max_params": None}


def test_an_unknown_quantity_is_within_no_limit() -> None:
    base = study()
    unknown = replace(measurement(1.0), peak_memory_mib=None)
    trials = tuple(replace(t, measurement=unknown) for t in base.trials)
    result = answer_to({"max_memory_mib": 100}, of=replace(base, trials=trials))
    assert (result.best, result.nearest) == (None, None)


def test_early_stopped_candidates_that_were_never_timed_are_left_out_too() -> None:
    timed, small, large = (
        replace(record(n, (0.2,), 3.0), state=TrialState.STOPPED, params=params)
        for n, params in ((6, 1), (7, 1), (8, 9))
    )
    untimed = replace(small, measurement=None), replace(large, measurement=None)
    base = study()
    whole = replace(base, trials=(*base.trials, timed, *untimed))
    fast, few = {"min_throughput_img_s": 1900.0}, {"max_params": 5.0}
    for limits, left_out in ({}, (3, 0)), (few, (2, 0)), (fast, (1, 2)), ({**few, **fast}, (1, 1)):
        result = answer_to(limits, of=whole)
        assert (result.stopped_early, result.stopped_unknown) == left_out
    assert answer_to(fast, of=whole).best.trial.number == 2  # type: ignore[union-attr]


def evidence_of(scores: Mapping[int, tuple[float, ...]], ratios: Mapping[int, float]) -> StudyEvidence:
    again = [f for n, values in scores.items() for f in retrained(n, dict(enumerate(values, 1)))]
    return gather_evidence(study(), again, [remeasured_for_retraining(ratios)])


def test_retrained_candidates_answer_by_their_means_and_measurements() -> None:
    evidence = evidence_of({3: (0.70, 0.71), 4: (0.75, 0.76), 2: (0.5, 0.51)}, {3: 1.0, 4: 1.2, 2: 2.0})
    result = answer_to({"max_params": 500_000}, evidence)
    assert result.best is not None
    assert (result.basis, result.steps) == (RETRAINED, 90)
    assert result.best.trial.number == 4  # 3 is ahead in the study
    assert result.best.score == pytest.approx(0.755)
    assert result.best.seeds == 2
    assert evidence.retraining is not None
    assert result.scatter == evidence.retraining.scatter
    assert (result.compared, result.fitting) == (3, 3)
    assert (result.not_retrained, result.baselines_not_retrained) == (1, 1)  # 1 and the baseline fit, too
    # It has 1200 images/s now and had 1100 in the study, where 2 is the favorite under this limit.
    result = answer_to({"min_throughput_img_s": 1150}, evidence)
    assert result.best is not None
    assert (result.basis, result.best.trial.number) == (RETRAINED, 4)
    assert answer_to({"min_throughput_img_s": 1250}, evidence).best.trial.number == 2  # type: ignore[union-attr]


def test_the_last_rung_answers_where_its_best_candidate_is_not_retrained() -> None:
    evidence = evidence_of({2: (0.5, 0.51), 1: (0.3, 0.31)}, {1: 4.0, 2: 2.0})
    result = answer_to({}, evidence)
    assert result.best is not None
    assert (result.basis, result.best.trial.number, result.best.score) == (LAST_RUNG, 3, 0.60)
    assert evidence.retraining is not None
    assert [model.number for model in result.missing] == [3]
    assert (
        result.scatter == evidence.retraining.scatter_at_last_rung
    )  # measured by the retrainings after the study's last rung
    assert result.not_retrained == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 8)), min_size=1, max_size=5),
    st.floats(100, 9000),
    st.integers(50_000, 700_000),
)
def test_the_answer_fits_and_nothing_that_fits_is_better(
    points: list[tuple[float, float]], speed: float, params: int
) -> None:
    base = small_study(dict(enumerate([(0.3, 1.0), *points])))
    base = replace(base, trials=tuple(sized(t, 100_000 * (t.number + 1)) for t in base.trials))
    limits = {"min_throughput_img_s": speed, "max_params": float(params)}
    result = answer_to(limits, of=base)
    fit = [
        t for t in base.trials
        if t.measurement and t.measurement.throughput_img_s >= speed and t.params and t.params <= params
    ]  # fmt: skip
    assert result.fitting == len(fit)
    if result.best is None:
        assert not fit
        assert result.nearest is not None
        worst = max(result.nearest.excess(limits).values())
        assert all(
            max(speed / t.measurement.throughput_img_s, (t.params or 0) / params) >= worst * (1 - 1e-9)
            for t in base.trials
            if t.measurement
        )
    else:
        assert result.best.score == max(t.rungs[-1].score for t in fit)
        assert 0 < (result.best.chance_best or 0) <= 1
        assert result.best.trial.number not in numbers(result)


def test_chances_that_are_multiplied_as_independent_are_said_to_be() -> None:
    """Of latency and throughput one cause may move both; that of a counted number is certain."""
    evidence = gather_evidence(study())
    limits = {"max_params": 300_000.0, "max_latency_ms": 1.01, "min_throughput_img_s": 1995.0}
    result = answer(evidence, limits, lambda remeasurement, arch_id: [0.0009 + 2e-6 * n for n in range(1, 101)])
    assert result.best is not None
    chances = {name: result.best.quantities[name].chance(bound) or 0.0 for name, bound in limits.items()}
    smallest = min(chances.values())
    assert 0.5 < smallest < 0.9
    assert result.best.chance_to_keep == pytest.approx(chances["max_latency_ms"] * chances["min_throughput_img_s"])
    assert any("independent" in note for note in answer_notes(result, limits))
