"""The score and the throughput of each model that decide, and what is recommended from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.analysis.evidence import (
    LAST_RUNG,
    RACED,
    RETRAINED,
    ModelEvidence,
    StudyEvidence,
    gather_evidence,
    timed_before,
)
from nas.analysis.recommendation import (
    BaselineComparison,
    find_trial,
    race_words,
    recommend,
)
from nas.analysis.trial_choice import SelectionError, measurement
from nas.study.objectives import objectives
from nas.study.records import RaceResult, RaceTraining, Remeasurement, RungResult, StudyRecord
from nas.study.timing_doubts import RUN_DEVIATION, WRONG_OUTPUT, noise_floor
from tests.nas.analysis.builders import (
    OVERTURNED,
    SEARCHED,
    failed,
    remeasured,
    remeasured_for_retraining,
    retrained,
    small_study,
)
from tests.nas.study.builders import measurement as timing
from tests.nas.study.builders import rung


def evidence_of(scores: Mapping[int, tuple[float, ...]], **ratios: Mapping[int, float]) -> StudyEvidence:
    """Return the evidence of SEARCHED with these scores by trial, a seed each, and remeasurements by name."""
    trainings = [r for n, values in scores.items() for r in retrained(n, dict(enumerate(values, 1)))]
    again = [remeasured(each, name=name) for name, each in ratios.items()]
    return gather_evidence(small_study(SEARCHED), trainings, again)


def test_retrained_scores_decide_in_place_of_those_of_the_short_trainings() -> None:
    short = recommend(evidence_of({}))
    assert short is not None
    assert (short.model.number, short.basis) == (1, LAST_RUNG)
    found = recommend(evidence_of(OVERTURNED))
    assert found is not None
    assert (found.model.number, found.basis, found.by_search.number) == (2, RETRAINED, 1)
    assert found.fastest_as_good is not None
    assert (found.fastest_as_good.speedup, found.fastest_as_good.score_gain) == (3.3, pytest.approx(0.006))
    assert found.by_search.score == pytest.approx(0.607)
    alone = recommend(evidence_of({0: (0.7, 0.7), 1: (0.6, 0.6), 2: (0.5, 0.5), 3: (0.6, 0.59)}))
    assert alone is not None
    assert (alone.model.number, alone.fastest_as_good) == (1, None), "of the highest score, where none is as good"


def long_rung(score: float) -> RungResult:
    return replace(rung(0, score), steps=300, metrics={"knn": 0.45})


def raced(evidence: StudyEvidence, scores: Mapping[int, tuple[float, ...]], **result: Any) -> StudyEvidence:
    """Return the evidence with a race of 300 steps on 500 images: these scores by trial, a seed each."""
    race = RaceResult(**({"steps": 300, "images": 500, "seed": 1, "target": 0, "target_score": None,
                          "winner": 2, "best": 2, "chance": 0.95, "decided": True} | result))  # fmt: skip
    trainings = tuple(
        RaceTraining(n, seed, 300, 500, replace(evidence.record.trials[n], rungs=(long_rung(q),)))
        for n, values in scores.items()
        for seed, q in enumerate(values, 1)
    )
    record = replace(evidence.record, info=replace(evidence.record.info, race=race), races=trainings)
    return replace(evidence, record=record)


def test_a_decided_race_recommends_before_the_search_and_its_retrainings() -> None:
    """The search recommends 1, the retrainings 2; the baseline, the target of the race, is the reference."""
    found = recommend(raced(evidence_of(OVERTURNED), {0: (0.7,), 3: (0.71, 0.73)}, winner=3, best=3))
    assert found is not None
    assert (found.model.number, found.model.score, found.basis) == (3, pytest.approx(0.72), RACED)
    assert found.fastest_as_good is not None
    assert (found.fastest_as_good.speedup, found.fastest_as_good.against_reference) == (1.7, True)
    assert "1.70 times its throughput" in race_words(found)
    open_race = recommend(raced(evidence_of({}), {0: (0.7,), 3: (0.72,)}, decided=False))
    assert open_race is not None
    assert (open_race.model.number, open_race.basis) == (1, LAST_RUNG)


@pytest.mark.parametrize("left_out", [0, 1])
def test_retrained_scores_decide_only_with_the_baselines_and_the_searchs_recommendation(left_out: int) -> None:
    kept = [r for n, scores in OVERTURNED.items() if n != left_out for r in retrained(n, dict(enumerate(scores, 1)))]
    for trainings in (kept, [*kept, failed(left_out, 1, "nan")]):
        found = recommend(gather_evidence(small_study(SEARCHED), trainings))
        assert found is not None
        assert (found.model.number, found.model.score, found.basis) == (1, SEARCHED[1][0], LAST_RUNG)
        assert [model.number for model in found.missing] == [left_out]


def test_without_baselines_the_retrained_scores_of_the_recommended_model_decide() -> None:
    study = small_study(SEARCHED)
    lone = StudyRecord(study.info, study.trials[1:])
    found = recommend(gather_evidence(lone, [r for n in (2, 3) for r in retrained(n, {1: 0.8 - n / 10})]))
    assert found is not None
    assert (found.model.number, found.basis, found.by_search.number) == (2, RETRAINED, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SEARCHED)), st.lists(st.floats(0.1, 0.9), min_size=1, max_size=3)),
    st.sampled_from([90, 270]),
)
def test_retrained_and_short_scores_are_never_compared(scores: dict[int, list[float]], steps: int) -> None:
    trainings = [r for n, each in scores.items() for r in retrained(n, dict(enumerate(each)), steps)]
    found = recommend(gather_evidence(small_study(SEARCHED), trainings))
    assert found is not None
    compared = [c for c in (found.fastest_as_good, found.best_as_fast) if c]
    models = [found.model, found.by_search, *(m for c in compared for m in (c.candidate, c.baseline))]
    assert {m.steps for m in models} == {steps if found.retrained else 30}
    assert found.retrained == ({0, 1} <= set(scores))
    for model in models:
        mean = sum(scores[model.number]) / len(scores[model.number]) if found.retrained else SEARCHED[model.number][0]
        assert model.score == pytest.approx(mean)


def test_the_newest_timing_of_the_searchs_setting_counts() -> None:
    evidence = evidence_of({}, older={1: 4.0, 2: 3.0}, newer={1: 1.5})
    assert {m.number: (m.ratio, m.remeasurement) for m in evidence.searched} == {
        0: (1.0, None), 1: (1.5, "newer"), 2: (3.0, "older"), 3: (1.7, None), 4: (7.0, None)
    }  # fmt: skip
    assert evidence.remeasured == {1: "newer", 2: "older"}
    assert [t.measurement and t.measurement.ratio for t in evidence.record.trials] == [1.0, 5.94, 3.3, 1.7, 7.0]
    found = recommend(evidence)  # 1 and 2 are as good as the baseline; 1 is the slower one now
    assert found is not None
    assert (found.model.number, found.model.ratio) == (2, 3.0)


def test_each_timing_has_its_own_date() -> None:
    """An older remeasurement that was continued, or overwritten in part, does not date what it kept."""
    older = replace(remeasured({1: 4.0, 2: 3.0}, name="older"), created="2026-01-01")
    newer = replace(remeasured({1: 1.5, 2: 1.6}, name="newer"), created="2026-01-02")
    continued = replace(older, dates={2: "2026-01-03"})
    overwritten = replace(older, created="2026-01-03", dates={1: "2026-01-01"})
    for again in (continued, overwritten):
        evidence = gather_evidence(small_study(SEARCHED), (), sorted((again, newer), key=lambda r: r.created))
        assert evidence.remeasured == {1: "newer", 2: "older"}


def test_later_timings_are_not_from_before() -> None:
    study, named = small_study(SEARCHED), replace(remeasured({1: 4.0}, name="named"), created="2026-01-02")
    earlier = replace(remeasured({1: 3.0, 2: 3.1}, name="earlier"), created="2026-01-01", dates={2: "2026-01-03"})
    later = replace(remeasured({1: 2.0}, name="later"), created="2026-01-03")

    def ratios(from_now: bool) -> list[float]:
        before = timed_before(study, (earlier, named, later), "named", from_now)
        return [measurement(before.trials[number]).ratio for number in (1, 2)]

    assert ratios(from_now=False) == [3.0, SEARCHED[2][1]]
    assert ratios(from_now=True) == [2.0, 3.1], "with --overwrite"


def test_the_retrained_front_is_that_of_the_newest_timings_of_before() -> None:
    timings = {"disturbed": {2: 1.0, 4: 6.0}, "retraining": {1: 1.0, 2: 3.3}}  # 2 falls behind 3, 4 stays
    summary = evidence_of(dict.fromkeys((1, 2, 3, 4), (0.6,)), **timings).retraining
    assert summary is not None
    assert {c.trial.number: c.was_on_front for c in summary.candidates} == {1: True, 2: False, 3: True, 4: True}


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({}, 2.0),
        *(({name: other}, 5.94) for name, other in
          {"device": "another", "arm": "bf16", "batch": 1, "resolution": 96, "reference": "other"}.items()),
        ({"verdict": "contended"}, 5.94),
        ({"samples": 4}, 5.94),
        ({"ratio_low": 0.01, "ratio_high": 400.0}, 5.94),
        ({"verdict": WRONG_OUTPUT}, 5.94),
        ({"verdict": "wide"}, 2.0),
    ],
)  # fmt: skip
def test_other_settings_and_doubtful_timings_do_not_replace_the_searchs(changes: dict[str, Any], ratio: float) -> None:
    again = remeasured({1: 2.0})
    changed = {n: replace(m, **changes) for n, m in again.measurements.items()}
    (model,) = (
        m for m in gather_evidence(small_study(SEARCHED), (), [replace(again, measurements=changed)]).searched
        if m.number == 1
    )  # fmt: skip
    assert model.ratio == ratio


def test_a_doubtful_timing_of_the_search_is_replaced_by_a_trusted_one_and_else_by_the_newest() -> None:
    study = small_study(SEARCHED)
    bad = [replace(t, measurement=replace(measurement(t), verdict="contended")) for t in study.trials]
    disturbed = StudyRecord(study.info, tuple(bad))

    def ratio_of_1(*again: Remeasurement) -> float:
        return next(m.ratio for m in gather_evidence(disturbed, (), again).searched if m.number == 1)

    good, later = remeasured({1: 2.0}, name="good"), remeasured({1: 3.0}, name="later")
    noisy = replace(later, measurements={1: replace(later.measurements[1], verdict="throttled")})
    assert (ratio_of_1(good, noisy), ratio_of_1(noisy)) == (2.0, 3.0)


def test_retrained_models_have_their_trusted_timing() -> None:
    trainings = [r for n, values in OVERTURNED.items() for r in retrained(n, dict(enumerate(values, 1)))]
    at_retraining = replace(remeasured_for_retraining({0: 1.0, 1: 5.0, 2: 3.0, 3: 1.6}), created="2026-01-02")
    other_device = replace(at_retraining, measurements={
        n: replace(m, device="gpu", ratio=9.0) for n, m in at_retraining.measurements.items()
    })  # fmt: skip
    for again, ratio in ((at_retraining, 3.0), (other_device, 3.3)):
        found = recommend(gather_evidence(small_study(SEARCHED), trainings, [again]))
        assert found is not None
        assert found.model.ratio == ratio


def recommended(study: StudyRecord) -> int:
    evidence = gather_evidence(study)
    recommendation = recommend(evidence)
    assert recommendation is not None
    assert find_trial(evidence, "best") == recommendation.trial
    return recommendation.trial.number


def test_recommended_is_the_fastest_of_those_as_good_as_the_best_baseline() -> None:
    points = {0: (0.4, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0), 4: (0.35, 1.5), 5: (0.4, 1.99)}
    found = recommend(gather_evidence(small_study(points)))
    assert found is not None
    assert found.fastest_as_good is not None
    assert found.best_as_fast is not None
    assert (found.trial.number, found.fastest_as_good.candidate.number, found.best_as_fast.candidate.number) == (
        2,
        2,
        3,
    )
    assert (found.fastest_as_good.speedup, found.fastest_as_good.score_gain) == (2.0, 0.0)
    assert found.best_as_fast.speedup == 1.0
    assert found.best_as_fast.score_gain == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("reference", "factors"),
    [("another", ((0.8, 1 / 1.1), (1.3, 1 / 0.9))), ("baseline", ((0.8,), (1.3,)))],
)
def test_a_speedup_has_the_error_of_both_timings_and_of_their_processes_unless_the_baseline_is_the_reference(
    reference: str, factors: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    study = small_study()
    own = next(t.baseline for t in study.trials if t.baseline)
    study = replace(study, info=replace(study.info, reference=own if reference == "baseline" else reference))
    bounds = {0: (0.9, 1.1), 3: (0.8, 1.3)}  # of the baseline and of the candidate at equal speed
    trials = [
        replace(t, measurement=t.measurement and replace(t.measurement, ratio_low=low, ratio_high=high))
        for t in study.trials
        for low, high in [bounds.get(t.number, (1.0, 1.0))]
    ]
    found = recommend(gather_evidence(StudyRecord(study.info, tuple(trials))))
    assert found is not None
    assert found.best_as_fast is not None
    between = 1.959964 * RUN_DEVIATION
    below, above = (math.hypot(*(x for end in ends for x in (math.log(end), between))) for ends in factors)
    assert (found.best_as_fast.speedup_low, found.best_as_fast.speedup_high) == pytest.approx(
        (math.exp(-below), math.exp(above)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict", "floor", "shown"),
    [
        (1.01, 1.5, "ok", 0.0, True),
        (0.5, 0.99, "ok", 0.0, True),
        (0.97, 2.2, "ok", 0.0, False),
        (1.01, 1.5, "contended", 0.0, False),
        (1.01, 1.5, "ok", 0.19, True),
        (1.01, 1.5, "ok", 0.21, False),
    ],
)
def test_a_difference_is_shown_by_a_trusted_interval_that_leaves_out_1_beyond_that_of_equal_models(
    low: float, high: float, verdict: str, floor: float, shown: bool
) -> None:
    trials = [
        replace(t, measurement=t.measurement and replace(t.measurement, ratio_low=1.0, ratio_high=1.0, verdict="ok"))
        for t in small_study().trials
    ]
    found = replace(measurement(trials[3]), ratio_low=low, ratio_high=high, verdict=verdict)
    models = (ModelEvidence(trial, (0.5,), 30) for trial in (replace(trials[3], measurement=found), trials[0]))
    compared = BaselineComparison(*models, 1.2, low, high, 0.1, floor=floor)
    assert compared.shows_difference is shown


def test_the_noise_floor_is_the_larger_side_of_a_model_against_itself() -> None:
    for low, high in ((0.8, 1.01), (0.99, 1.25)):
        assert noise_floor(replace(timing(1.0), ratio_low=low, ratio_high=high)) == pytest.approx(0.25)


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
    evidence = gather_evidence(replace(study, trials=short))
    assert recommend(evidence) is None
    with pytest.raises(SelectionError, match="no trial that was measured and trained to its last rung"):
        find_trial(evidence, "best")


def test_timings_of_other_versions_do_not_take_the_place_of_the_searchs() -> None:
    study = small_study(SEARCHED)
    info = replace(study.info, environment={"torch": "2.6.0", "cuda": "12.4", "code": "a"})
    study = replace(study, info=info)
    ratios = {}
    for version, now in (("same", info.environment | {"code": "b"}), ("other", info.environment | {"torch": "2.13.0"})):
        again = replace(remeasured({1: 3.2}, name=version), environment=now)
        ratios[version] = gather_evidence(study, (), [again]).study.trials[1].measurement.ratio
    assert ratios == {"same": 3.2, "other": SEARCHED[1][1]}


def test_the_timings_of_one_remeasurement_alone_can_decide() -> None:
    study = small_study(SEARCHED)
    wrong = replace(timing(9.0), verdict="wrong output")
    smaller = replace(timing(9.0), batch=8, requested_batch=16)
    elsewhere = remeasured({0: 1.0, 1: 0.8, 2: 5.0}, name="t4")
    elsewhere = replace(elsewhere, measurements={**elsewhere.measurements, 3: wrong, 4: smaller})
    other_device = {n: replace(m, device="T4") for n, m in elsewhere.measurements.items()}
    elsewhere = replace(elsewhere, measurements=other_device)
    ignored = gather_evidence(study, (), [elsewhere])
    assert (ignored.untimed, [m.ratio for m in ignored.searched]) == (0, [ratio for _, ratio in SEARCHED.values()])
    evidence = gather_evidence(study, (), [elsewhere, remeasured({3: 7.0})], only="t4")
    assert {m.number: (m.ratio, m.remeasurement) for m in evidence.searched} == {
        0: (1.0, "t4"), 1: (0.8, "t4"), 2: (5.0, "t4")
    }  # fmt: skip
    assert (evidence.only, evidence.untimed) == ("t4", 2)
    found = recommend(evidence)
    assert found is not None
    assert found.model.number == 2
    with pytest.raises(SelectionError, match=r"no remeasurement 'a10' in this study, which has r, t4"):
        gather_evidence(study, (), [elsewhere, remeasured({3: 7.0})], only="a10")
    with pytest.raises(SelectionError, match="which has none"):
        gather_evidence(study, only="a10")
