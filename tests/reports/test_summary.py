from dataclasses import replace
from itertools import pairwise
from math import log2

import pytest

from nas.records import Study, TrialState
from reports import sentences
from reports.compare.sides import side_by_side
from reports.summary import summarize
from reports.tallies import rung_correlations
from tests.reports import synthetic


def complete(study: Study) -> list:
    return [t for t in study.trials if not t.baseline and t.state is TrialState.COMPLETE]


def brute_front(study: Study) -> set[int]:
    points = [(t.rungs[-1].quality, t.measurement.ratio, t.number) for t in complete(study)]
    return {n for q, r, n in points if not any(a >= q and b >= r and (a > q or b > r) for a, b, _ in points)}


def brute_hypervolume(trials: list, quality_reference: float, ratio_reference: float) -> float:
    """Strips between neighbouring speeds, each as high as the best net that is at least as fast."""
    points = [(log2(t.measurement.ratio), t.rungs[-1].quality) for t in trials]
    edges = sorted({log2(ratio_reference), *(x for x, _ in points if x > log2(ratio_reference))})
    area = 0.0
    for left, right in pairwise(edges):
        area += (right - left) * max(0.0, max(q for x, q in points if x >= right) - quality_reference)
    return area


@pytest.mark.parametrize("seed", range(4))
def test_front_and_hypervolume_equal_a_brute_force(seed):
    study = synthetic.study(120, seed=seed)
    summary = summarize(study)
    assert {s.trial.number for s in summary.front} == brute_front(study)
    assert summary.hypervolume == pytest.approx(brute_hypervolume(complete(study), 0.0, 0.25))
    assert [s.ratio for s in summary.front] == sorted((s.ratio for s in summary.front), reverse=True)


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
    expected = brute_hypervolume([first], 0.0, 0.25) if first.state is TrialState.COMPLETE else 0.0
    assert summarize(study).curve[0].hypervolume == pytest.approx(expected)


def test_comparisons_are_with_the_best_baseline():
    study = synthetic.study(150, seed=3)
    summary = summarize(study)
    best = max((t for t in study.trials if t.baseline), key=lambda t: t.rungs[-1].quality)
    as_good = [t for t in complete(study) if t.rungs[-1].quality >= best.rungs[-1].quality]
    as_fast = [t for t in complete(study) if t.measurement.ratio >= best.measurement.ratio]
    fastest = max(as_good, key=lambda t: t.measurement.ratio)
    strongest = max(as_fast, key=lambda t: t.rungs[-1].quality)
    faster, better = summary.fastest_as_good, summary.best_as_fast
    assert faster.found.trial == fastest
    assert faster.speedup == pytest.approx(fastest.measurement.ratio / best.measurement.ratio)
    assert faster.speedup_low < faster.speedup < faster.speedup_high
    assert better.found.trial == strongest
    assert f"{faster.speedup:.2f} times its throughput" in sentences.headline(study.info, summary)[1]


def test_no_net_as_good_as_the_baseline_is_said_plainly():
    study = synthetic.study(40)
    strong = replace(
        study.trials[0], rungs=(*study.trials[0].rungs[:2], replace(study.trials[0].rungs[2], quality=0.99))
    )
    summary = summarize(replace(study, trials=(strong, *study.trials[1:])))
    assert summary.fastest_as_good is None
    assert "No net found is as good as eradio_femto" in sentences.headline(study.info, summary)[1]


def test_equal_nets_are_all_on_the_front():
    study = synthetic.study(30)
    best = max(complete(study), key=lambda t: t.rungs[-1].quality)
    twin = replace(best, number=9999)
    front = {s.trial.number for s in summarize(replace(study, trials=(*study.trials, twin))).front}
    assert {best.number, twin.number} <= front


def test_near_nets_are_those_whose_interval_reaches_the_front():
    study = synthetic.study(40, baselines=False)
    best = max(complete(study), key=lambda t: t.rungs[-1].quality)
    m = best.measurement
    slower = replace(m, ratio=m.ratio * 0.99, ratio_low=m.ratio * 0.98, ratio_high=m.ratio * 1.01)
    far = replace(m, ratio=m.ratio * 0.8, ratio_low=m.ratio * 0.79, ratio_high=m.ratio * 0.81)
    trials = (
        *study.trials,
        replace(best, number=9001, measurement=slower),
        replace(best, number=9002, measurement=far),
    )
    near = {s.trial.number for s in summarize(replace(study, trials=trials)).near}
    assert 9001 in near
    assert 9002 not in near


def test_rank_correlation_of_the_same_and_the_opposite_order():
    trials = [t for t in synthetic.study(80).trials if t.state is TrialState.COMPLETE][:20]
    same = [replace(t, rungs=tuple(replace(r, quality=i / 100) for r in t.rungs)) for i, t in enumerate(trials)]
    signs = (1, -1, 1)
    opposite = [
        replace(t, rungs=tuple(replace(r, quality=s * i) for r, s in zip(t.rungs, signs, strict=True)))
        for i, t in enumerate(trials)
    ]
    assert [(c.low, c.high, c.tau) for c in rung_correlations(same, 3)] == [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)]
    assert [c.tau for c in rung_correlations(opposite, 3)] == [-1.0, -1.0, 1.0]
    assert rung_correlations(same[:2], 3)[0].tau is None


def test_not_finite_and_half_trained_trials_reach_no_front():
    study = synthetic.study(20)
    trial = complete(study)[0]
    poisoned = replace(trial, number=901, rungs=(*trial.rungs[:2], replace(trial.rungs[2], quality=float("nan"))))
    short = replace(trial, number=902, rungs=trial.rungs[:2])
    summary = summarize(replace(study, trials=(*study.trials, poisoned, short)))
    assert not {901, 902} & {s.trial.number for s in summary.complete}


def test_budget_shares_add_up_and_reasons_keep_every_trial():
    study = synthetic.study(300)
    summary = summarize(study)
    assert sum(row.share for row in summary.ledger) == pytest.approx(1)
    lost = {t.number for t in study.trials if t.state in (TrialState.FAILED, TrialState.INFEASIBLE)}
    assert {n for row in summary.reasons for n in row.numbers} == lost


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
        assert "came to 1.000 times its own throughput" in sentences.noise(study.info, summary)
        return summary.tied_neighbours

    gaps = [a.ratio / b.ratio - 1 for a, b in pairwise(first.front)]
    assert ties(0.0) == 0
    assert ties(apart) == sum(gap <= apart * (1 + 1e-9) for gap in gaps) > 0


@pytest.mark.parametrize("count", [1, 3])
def test_a_comparison_refuses_other_objectives_in_words(count):
    study = synthetic.study(3)
    quality, speed = study.info.objectives
    info = replace(study.info, objectives=(quality, speed, replace(speed, name="memory"))[:count])
    with pytest.raises(ValueError, match=r"^synthetic study: its objectives are quality.*: a comparison knows quality"):
        side_by_side([study, replace(study, info=info)])
