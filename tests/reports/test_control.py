"""Misses of limits, further objectives, retraining."""

import json
from dataclasses import replace

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.study.objectives import OBJECTIVES
from nas.study.records import Objective, Remeasurement, Retraining, StudyRecord, TrialState
from reports.captions import curve_caption, footer, front_caption, hypervolume
from reports.charts import page_charts
from reports.evidence_data import read_evidence, retraining_points, retraining_results
from reports.figure_data import prepare
from reports.page import render
from reports.search_course import limit_misses
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.brute_force import Page
from tests.reports.synthetic import with_info


@pytest.mark.parametrize("names", [("score", "throughput"), ("score",), ("score", "params")])
def test_compare_is_named_only_where_it_takes_the_objectives_and_one_objective_has_no_hypervolume(names):
    study = with_info(synthetic.study(80), objectives=tuple(OBJECTIVES[name].objective for name in names))
    words = hypervolume(study.info, summarize(study))
    assert words.count("backbone-nas compare") == (1 if names[-1] == "throughput" else 0)
    assert ("hypervolume" in words) is (len(names) > 1)


def test_misses_name_the_limit_and_by_how_much():
    study = synthetic.study(20, only=TrialState.INFEASIBLE, baselines=False)
    trials = tuple(replace(t, params=2_000_000 + 100_000 * t.number) for t in study.trials)
    (row,) = limit_misses(StudyRecord(study.info, trials))
    assert (row.limit, len(row.numbers), row.numbers[0]) == ("max_params", 19, 1)  # trial 0 is on the limit: within
    assert row.narrowest == pytest.approx(0.05)
    assert row.median == pytest.approx(0.5)


PARAMS = Objective("params", "parameters", "weights", 1e9, log=True, minimize=True)


def test_captions_name_the_objectives_that_the_study_has():
    study = synthetic.study(40)
    score, speed = study.info.objectives
    texts = {}
    for objectives in ((score, speed), (score, PARAMS), (score, speed, PARAMS), (score,)):
        other = with_info(study, objectives=objectives)
        summary = summarize(other)
        data = prepare(other, summary)
        front = front_caption(other.info, data, summary)
        texts[objectives] = curve_caption(other.info, data), footer(other.info, summary), front
    curve, foot, _ = texts[score, speed]
    assert "throughput 0.25" in curve
    assert "throughput in doublings" in foot
    curve, foot, front = texts[score, PARAMS]
    assert "parameters 1e+09" in curve
    assert "parameters in doublings" in foot
    assert "parameters" in front
    assert "throughput and parameters in doublings" in texts[score, speed, PARAMS][1]
    assert "doublings" not in texts[score,][1]


def test_further_objectives_have_their_unit_their_direction_no_exponent_and_no_second_column():
    study = synthetic.timed(synthetic.study(40), lambda t: {"reserved_memory_mib": float(t.params)})
    memory, reserved = OBJECTIVES["memory"].objective, Objective("reserved_memory_mib", "reserved", "MiB", 1e9)
    other = with_info(study, objectives=(*study.info.objectives, PARAMS, memory, reserved))
    page = render(other, summarize(other))
    table = Page(page).table("Pareto front and baselines")
    assert table.head[1:5] == ["peak memory MiB lower is better", "reserved MiB", "score", table.head[4]]
    assert table.head.count("params M") == 1
    assert not any("parameters" in head for head in table.head)
    assert {row[2] for row in table.rows[1:]} <= {f"{t.params:,}" for t in study.trials}
    assert (
        '"type":"log"'
        in json.dumps(page_charts(prepare(other, summarize(other)))["front"], separators=(",", ":")).split('"size":{')[
            -1
        ]
    )


KNN = Objective("knn", "kNN accuracy", "", 0.0)


def test_one_objective_is_a_ranking_and_three_are_a_front_of_three():
    study = synthetic.study(60)
    score, speed = study.info.objectives
    one = summarize(with_info(study, objectives=(score,)))
    first = max(one.complete, key=lambda s: s.score)
    assert one.front == (first,)
    assert one.hypervolume == pytest.approx(first.score)
    page = render(with_info(study, objectives=(score,)), one)
    assert "Pareto front, fastest first" not in page
    assert 'id="chart-front"' not in page
    three = summarize(with_info(study, objectives=(score, speed, KNN)))

    def dominated(a, b):
        return a.values != b.values and all(y >= x for x, y in zip(a.values, b.values, strict=True))

    best = {a.trial.number for a in three.complete if not any(dominated(a, b) for b in three.complete)}
    assert {s.trial.number for s in three.front} == best
    assert 'id="chart-front"' in render(with_info(study, objectives=(score, speed, KNN)), three)


def test_equal_models_of_a_ranking_share_a_rank_and_a_best_below_the_reference_is_not_above_it():
    scores = (-0.5, -0.6, -0.6, -0.7)
    study = synthetic.scored(
        synthetic.study(4, only=TrialState.COMPLETE, baselines=False), lambda trial: scores[trial.number]
    )
    study = with_info(study, objectives=(OBJECTIVES["score"].objective,))
    summary = summarize(study)
    rows = Page(render(study, summary)).table("Ranking and baselines").body()
    assert [row["status"].partition(",")[0] for row in rows] == ["best", "2", "2", "4"]
    assert "above" not in hypervolume(study.info, summary).replace(
        "No model has a value above the reference point.", ""
    )


def test_results_of_retraining_are_on_the_page(retrained_study):
    folder, study = retrained_study
    retraining = retraining_results(read_evidence(folder))
    assert retraining is not None
    assert [p["long"] for p in retraining_points(study, retraining)] == pytest.approx([0.41, 0.51, 0.61], abs=1e-9)
    page = render(study, summarize(study), None, retraining)
    rows = Page(page).table("Retrained models").body()
    assert sorted(row["after 1620 steps"].split()[0] for row in rows) == ["0.410", "0.510", "0.610"]
    assert 'id="chart-retraining"' in page


def test_the_table_of_retrained_models_marks_doubtful_timings_and_names_their_device():
    study = synthetic.study(8, baselines=False, only=TrialState.COMPLETE)
    trainings = [
        Retraining(t.number, seed, 1620, "2026-01-01", "a GPU", (replace(t.rungs[-1], steps=1620),))
        for t in study.trials
        for seed in (0, 1)
    ]
    timings = {
        t.number: replace(t.measurement, device="a GPU", verdict="contended" if t.number else "ok")
        for t in study.trials
        if t.number < 7
    }
    again = Remeasurement(RETRAINING_TIMINGS, "2026-01-01", "a GPU", {}, {}, None, timings)
    evidence = gather_evidence(study, trainings, [again])
    page = Page(render(study, summarize(study), None, retraining_results(evidence)))
    head = "× eradio_pico, 95 % interval on a GPU"
    ratios = {row[""]: row[head] for row in page.table("Retrained models").body()}
    for trial in study.trials:
        words, m = ratios[trial.name], trial.measurement
        assert ("†" in words) is (0 < trial.number < 7)
        shown = "–" if trial.number == 7 else f"{m.ratio:.{2 if trial.number else 3}f}"
        assert words.startswith(shown + " " * (trial.number < 7))
    perfect = page.table("Rank correlations of retraining").body()
    assert {row["95 % interval"] for row in perfect if row["τ"] == "1.00"} == {"–"}


@pytest.fixture
def retrained_study(tmp_path):

    study = synthetic.study(6, baselines=False, only=TrialState.COMPLETE)
    store = synthetic.store_study(study, tmp_path / "run")
    for number, mean in ((0, 0.4), (1, 0.5), (2, 0.6)):
        for seed in (0, 1):
            rung = replace(study.trials[number].rungs[-1], steps=1620, score=mean + 0.02 * seed)
            store.save_retraining(Retraining(number, seed, 1620, "2025-02-01T12:00:00Z", "synthetic CPU", (rung,)))
    return tmp_path / "run", study


def test_without_retraining_there_is_none():
    assert retraining_results(gather_evidence(synthetic.study(3))) is None
