"""What a page may say beside its curves: the random start, misses of limits, further objectives, retraining."""

import json
from dataclasses import replace

import pytest

from nas.records import Objective, Retraining, Study, TrialState
from reports.captions import control, curve_caption, footer, front_caption
from reports.figures import charts
from reports.misses import misses
from reports.page import render
from reports.points import prepare
from reports.retraining import read_retraining, retraining_points
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.plainly import Page
from tests.reports.test_summary import brute_hypervolume, complete


def of(study: Study, **changes) -> Study:
    return Study(replace(study.info, **changes), study.trials)


def test_the_random_start_ends_where_its_own_trials_do_whatever_their_order():
    study = synthetic.study(80)
    start = summarize(study).chance_start
    assert start is not None
    first = Study(study.info, tuple(t for t in study.trials if t.number in start.trials))
    drawn = [t for t in study.trials if t.origin == "sampler"][:32]
    assert set(start.trials) == {t.number for t in drawn if t.counts}
    assert start.expected[-1] == pytest.approx(brute_hypervolume(complete(first), 0.0, 0.25))
    assert list(start.expected) == sorted(start.expected)


@pytest.mark.parametrize(("sampler", "words"), [("random", "is a random search itself"), ("known-cost", "no random")])
def test_no_control_is_invented(sampler, words):
    study = synthetic.study(80)
    study = of(study, config={**study.info.config, "sampler": sampler})
    summary = summarize(study)
    assert summary.chance_start is None
    assert words in control(study.info, summary)


def test_misses_name_the_limit_and_by_how_much():
    study = synthetic.study(20, only=TrialState.INFEASIBLE, baselines=False)
    trials = tuple(replace(t, params=2_000_000 + 100_000 * t.number) for t in study.trials)
    (miss,) = misses(Study(study.info, trials))
    assert (miss.limit, len(miss.numbers), miss.numbers[0]) == ("max_params", 19, 1)  # trial 0 is on the limit: within
    assert miss.narrowest == pytest.approx(0.05)
    assert miss.middle == pytest.approx(0.5)


PARAMS = Objective("params", "parameters", "weights", 1e9, log=True, minimise=True)


def test_captions_name_the_objectives_that_the_study_has():
    study = synthetic.study(40)
    quality, speed = study.info.objectives
    said = {}
    for objectives in ((quality, speed), (quality, PARAMS), (quality, speed, PARAMS), (quality,)):
        other = of(study, objectives=objectives)
        summary = summarize(other)
        data = prepare(other, summary)
        said[objectives] = curve_caption(other.info, data), footer(other.info, summary), front_caption(data)
    curve, foot, _ = said[quality, speed]
    assert "(quality 0, speed 0.25; speed in doublings)" in curve
    assert "hypervolume counts speed in doublings" in foot
    curve, foot, front = said[quality, PARAMS]
    assert "(quality 0, parameters 1e+09; parameters in doublings)" in curve
    assert "hypervolume counts parameters in doublings" in foot
    assert "the larger its parameters (lower is better)" in front
    assert "counts speed and parameters in doublings" in said[quality, speed, PARAMS][1]
    assert "doublings" not in said[quality,][1]


def test_a_third_objective_has_its_unit_its_direction_and_no_exponent():
    study = synthetic.study(40)
    other = of(study, objectives=(*study.info.objectives, PARAMS))
    page = render(other, summarize(other))
    head = Page(page).table("Nets on the front and baselines")
    assert head.head[1] == "parameters weights lower is better"
    params = {f"{t.params:,}" for t in study.trials}
    assert {row[1] for row in head.rows[1:]} <= params
    assert (
        '"type":"log"'
        in json.dumps(charts(prepare(other, summarize(other)))["front"], separators=(",", ":")).split('"size":{')[-1]
    )


KNN = Objective("knn", "kNN accuracy", "", 0.0)


def test_one_objective_is_a_ranking_and_three_are_a_front_of_three():
    study = synthetic.study(60)
    quality, speed = study.info.objectives
    one = summarize(of(study, objectives=(quality,)))
    first = max(one.complete, key=lambda s: s.quality)
    assert one.front == (first,)
    assert one.hypervolume == pytest.approx(first.quality)
    page = render(of(study, objectives=(quality,)), one)
    assert "The ranking" in page
    assert 'id="chart-front"' not in page
    three = summarize(of(study, objectives=(quality, speed, KNN)))

    def beaten(a, b):
        return a.values != b.values and all(y >= x for x, y in zip(a.values, b.values, strict=True))

    best = {a.trial.number for a in three.complete if not any(beaten(a, b) for b in three.complete)}
    assert {s.trial.number for s in three.front} == best
    assert 'id="chart-front"' in render(of(study, objectives=(quality, speed, KNN)), three)


def test_retrainings_are_on_the_page(retrained_study):
    folder, study = retrained_study
    retraining = read_retraining(folder, study)
    assert retraining is not None
    assert [p["long"] for p in retraining_points(retraining)] == pytest.approx([0.41, 0.51, 0.61], abs=1e-9)
    page = render(study, summarize(study), None, retraining)
    assert "3 nets were trained to 1620 steps with 2 seeds" in page
    assert 'id="chart-retraining"' in page


@pytest.fixture
def retrained_study(tmp_path):
    from tests.reports.test_command import store_study

    study = synthetic.study(6, baselines=False, only=TrialState.COMPLETE)
    store = store_study(study, tmp_path / "run")
    for number, mean in ((0, 0.4), (1, 0.5), (2, 0.6)):
        for seed in (0, 1):
            rung = replace(study.trials[number].rungs[-1], steps=1620, quality=mean + 0.02 * seed)
            store.save_retraining(Retraining(number, seed, 1620, "2025-02-01T12:00:00Z", "synthetic CPU", (rung,)))
    return tmp_path / "run", study


def test_without_retrainings_there_is_none(tmp_path):
    assert read_retraining(tmp_path, synthetic.study(3)) is None
