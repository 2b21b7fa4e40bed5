"""Misses of limits, further objectives, retraining."""

from dataclasses import replace

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.retraining import RETRAINING_TIMINGS
from nas.study.records import Objective, Remeasurement, Retraining, StudyRecord, TrialState
from reports.evidence_data import read_evidence, retraining_points, retraining_results
from reports.page import render
from reports.search_course import limit_misses
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.brute_force import Page
from tests.reports.synthetic import with_info


def test_misses_name_the_limit_and_by_how_much():
    study = synthetic.study(20, only=TrialState.INFEASIBLE, baselines=False)
    trials = tuple(replace(t, params=2_000_000 + 100_000 * t.number) for t in study.trials)
    (row,) = limit_misses(StudyRecord(study.info, trials))
    assert (row.limit, len(row.numbers), row.numbers[0]) == ("max_params", 19, 1)  # trial 0 is on the limit: within
    assert row.narrowest == pytest.approx(0.05)
    assert row.median == pytest.approx(0.5)


KNN = Objective("knn", "kNN accuracy", "", 0.0)


def test_one_objective_is_a_ranking_and_three_are_a_front_of_three():
    study = synthetic.study(60)
    score, speed = study.info.objectives
    one = summarize(with_info(study, objectives=(score,)))
    first = max(one.complete, key=lambda s: s.score)
    assert one.front == (first,)
    assert one.hypervolume == pytest.approx(first.score)
    three = summarize(with_info(study, objectives=(score, speed, KNN)))

    def dominated(a, b):
        return a.values != b.values and all(y >= x for x, y in zip(a.values, b.values, strict=True))

    best = {a.trial.number for a in three.complete if not any(dominated(a, b) for b in three.complete)}
    assert {s.trial.number for s in three.front} == best


def test_results_of_retraining_are_on_the_page(retrained_study):
    folder, study = retrained_study
    retraining = retraining_results(read_evidence(folder))
    assert retraining is not None
    assert [p["long"] for p in retraining_points(study, retraining)] == pytest.approx([0.41, 0.51, 0.61], abs=1e-9)
    rows = Page(render(study, summarize(study), None, retraining)).table("Retrained models").body()
    assert sorted(row["after 1620 steps"].split()[0] for row in rows) == ["0.410", "0.510", "0.610"]
    assert retraining_results(gather_evidence(study)) is None


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
