import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from nas.study.records import StudyRecord, TrialRecord, TrialState
from nas.study.timing_doubts import RUN_DEVIATION
from reports.compare.comparison import compare_studies
from reports.scored_trials import ScoredTrial
from reports.search_course import rung_correlations
from reports.summary import summarize
from tests.nas.study.builders import measurement
from tests.reports import brute_force, synthetic
from tests.reports.brute_force import place

REFERENCE = (0.0, 0.25)  # of the synthetic studies


def complete(study: StudyRecord) -> list[TrialRecord]:
    return brute_force.trained(study, baselines=False)


def numbers(trials: Iterable[ScoredTrial]) -> set[int]:
    return {s.trial.number for s in trials}


@pytest.mark.parametrize("seed", range(2))
def test_front_and_hypervolume_equal_a_brute_force(seed):
    study = synthetic.study(120, seed=seed)
    summary = summarize(study)
    assert [s.trial for s in summary.front] == brute_force.front(complete(study))
    assert summary.hypervolume == pytest.approx(brute_force.hypervolume([place(t) for t in complete(study)], REFERENCE))


def test_curve_counts_evaluations_in_the_order_they_finished():
    study = synthetic.study(60)
    late_first = replace(study, trials=tuple(replace(t, finished_s=-t.finished_s) for t in study.trials))
    for s in (study, late_first):
        summary = summarize(s)
        volumes = [c.hypervolume for c in summary.curve]
        assert len(volumes) == summary.evaluated == sum(t.counts for t in s.trials)
        assert volumes == sorted(volumes)
        assert volumes[-1] == pytest.approx(summary.hypervolume)
        seconds = [c.seconds for c in summary.curve]
        assert seconds == sorted(seconds)
    first = min((t for t in study.trials if t.counts), key=lambda t: t.finished_s)
    expected = brute_force.hypervolume([place(first)], REFERENCE) if first.state is TrialState.COMPLETE else 0.0
    assert summarize(study).curve[0].hypervolume == pytest.approx(expected)


def test_no_model_may_score_as_high_as_the_best_baseline():
    study = synthetic.study(40)
    strong = replace(study.trials[0], rungs=(*study.trials[0].rungs[:2], replace(study.trials[0].rungs[2], score=0.99)))
    summary = summarize(replace(study, trials=(strong, *study.trials[1:])))
    fastest_as_good, best_as_fast = summary.comparisons
    assert fastest_as_good is None
    assert best_as_fast.score_gain < 0


def test_equal_models_are_all_on_the_front():
    study = synthetic.study(30)
    best = max(complete(study), key=lambda t: t.rungs[-1].score)
    twin = replace(best, number=9999)
    front = numbers(summarize(replace(study, trials=(*study.trials, twin))).front)
    assert {best.number, twin.number} <= front


def test_near_models_are_those_whose_interval_reaches_the_front():
    study = synthetic.study(40, baselines=False)
    best = max(complete(study), key=lambda t: t.rungs[-1].score)
    m = best.measurement
    slower = replace(m, ratio=m.ratio * 0.99, ratio_low=m.ratio * 0.98, ratio_high=m.ratio * 1.01)
    far = replace(m, ratio=m.ratio * 0.8, ratio_low=m.ratio * 0.79, ratio_high=m.ratio * 0.81)
    trials = (
        *study.trials,
        replace(best, number=9001, measurement=slower),
        replace(best, number=9002, measurement=far),
    )
    near = numbers(summarize(replace(study, trials=trials)).near)
    assert 9001 in near
    assert 9002 not in near


def test_rank_correlation_of_the_same_and_the_opposite_order():
    trials = [t for t in synthetic.study(80).trials if t.state is TrialState.COMPLETE][:20]
    same = [replace(t, rungs=tuple(replace(r, score=i / 100) for r in t.rungs)) for i, t in enumerate(trials)]
    signs = (1, -1, 1)
    opposite = [
        replace(t, rungs=tuple(replace(r, score=s * i) for r, s in zip(t.rungs, signs, strict=True)))
        for i, t in enumerate(trials)
    ]
    assert [(c.low, c.high, c.tau) for c in rung_correlations(same, 3)] == [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)]
    assert [c.tau for c in rung_correlations(opposite, 3)] == [-1.0, -1.0, 1.0]
    assert rung_correlations(same[:2], 3)[0].tau is None


def test_not_finite_and_half_trained_trials_reach_no_front():
    study = synthetic.study(20)
    trial = complete(study)[0]
    poisoned = replace(trial, number=901, rungs=(*trial.rungs[:2], replace(trial.rungs[2], score=float("nan"))))
    short = replace(trial, number=902, rungs=trial.rungs[:2])
    summary = summarize(replace(study, trials=(*study.trials, poisoned, short)))
    assert not {901, 902} & numbers(summary.complete)


def test_the_reference_against_itself_is_the_least_difference_that_counts():
    study = synthetic.study(120)
    first = summarize(study)
    apart = first.front[0].ratio / first.front[1].ratio - 1
    narrow = {
        s.trial.number: replace(s.trial.measurement, ratio_low=s.ratio, ratio_high=s.ratio) for s in first.complete
    }
    trials = [replace(t, measurement=narrow.get(t.number, t.measurement)) for t in study.trials]
    itself = next(t for t in trials if t.baseline == study.info.reference)

    def ties(floor: float) -> int:
        aa = replace(itself.measurement, ratio=1.0, ratio_low=1 / (1 + floor), ratio_high=1.0)
        changed = [replace(t, measurement=aa) if t is itself else t for t in trials]
        summary = summarize(replace(study, trials=tuple(changed)))
        assert (summary.self_comparison.trial, summary.self_comparison.ratio) == (changed[trials.index(itself)], 1.0)
        return summary.tied_neighbors

    gaps = [a.ratio / b.ratio - 1 for a, b in pairwise(first.front)]
    between = math.exp(2 * 1.959964 * RUN_DEVIATION) - 1
    assert ties(0.0) == sum(gap <= between for gap in gaps)
    apart = max(apart, 2 * between)
    assert ties(apart) == sum(gap <= apart * (1 + 1e-9) for gap in gaps) > 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_comparison_refuses_other_objectives(count):
    study = synthetic.study(3)
    score, speed = study.info.objectives
    info = replace(study.info, objectives=(score, speed, replace(speed, name="memory"))[:count])
    with pytest.raises(ValueError, match=r"^synthetic study: .*score"):
        compare_studies([study, replace(study, info=info)])


def test_a_reference_that_is_no_baseline_is_compared_with_itself_among_the_comparison_networks():
    study = synthetic.study(12, baselines=False)
    aa = replace(measurement(1.0), ratio=1.0, ratio_low=0.98, ratio_high=1.01)
    itself = TrialRecord(-1, "timm:a", {}, TrialState.MEASURED, scale="timm:a", measurement=aa)
    other = replace(itself, number=-2, scale="timm:b", measurement=replace(aa, ratio=0.5))
    with_scale = replace(study, info=replace(study.info, reference="timm:a"), scale=(other, itself))
    before, after = summarize(study), summarize(with_scale)
    assert before.self_comparison is None
    assert after.self_comparison is not None
    assert (after.self_comparison.name, after.self_comparison.ratio_low) == ("timm:a", 0.98)
    assert (after.complete, after.front, after.counts) == (before.complete, before.front, before.counts)
