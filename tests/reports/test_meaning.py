from dataclasses import replace

import pytest

from nas.records import Study, StudyInfo, TrialState
from reports import sentences
from reports.meaning import head_rows, metric_rows
from reports.page import render
from reports.points import prepare
from reports.summary import summarize
from tests.reports import synthetic


def with_metrics(study: Study, metrics) -> Study:
    """The study with `metrics` (of a trial's quality and place) at every last rung."""
    trials = []
    for i, trial in enumerate(study.trials):
        if trial.state is TrialState.COMPLETE:
            last = replace(trial.rungs[-1], metrics=metrics(trial.quality, i))
            trial = replace(trial, rungs=(*trial.rungs[:-1], last))
        trials.append(trial)
    return replace(study, trials=tuple(trials))


def rows_of(study: Study):
    return {row.name: row for row in metric_rows(study.info, summarize(study))}


@pytest.fixture(scope="module")
def study() -> Study:
    def metrics(quality: float, i: int) -> dict[str, float]:
        known = {"miou": -quality, "knn": 2 * quality, "retrieval/hed": 0.5, "zz": (i * 7919) % 101 / 500}
        return known if i else {**known, "knn": float("nan")}

    return with_metrics(synthetic.study(60, only=TrialState.COMPLETE), metrics)


def test_tau_is_one_minus_one_or_undefined_where_it_must_be(study):
    rows = rows_of(study)
    assert list(rows) == ["knn", "miou", "retrieval/hed", "zz"], "known metrics first, by name"
    assert (rows["knn"].tau, rows["miou"].tau, rows["retrieval/hed"].tau) == (pytest.approx(1), pytest.approx(-1), None)
    assert rows["knn"].nets == 62, "three baselines and 60 nets, one of them without a finite number"
    assert rows["retrieval/hed"].label == "retrieval, hed"
    qualities = [t.quality for t in study.trials[1:]]
    assert rows["knn"].best == pytest.approx(2 * max(qualities))
    assert (rows["knn"].teacher, rows["knn"].teachers) == (synthetic.TEACHERS[0], 0.5)
    assert rows["retrieval/hed"].chance == pytest.approx(1 / 600)


def test_words_say_what_agrees_what_contradicts_and_what_is_silent(study):
    said = " ".join(sentences.meaning(list(rows_of(study).values())))
    assert "Quality ranks the nets as these do: kNN (τ 1.00)." in said
    assert "against these: mIoU (τ -1.00)." in said
    assert "says nothing that 63 nets could show: zz (τ " in said


def test_a_weak_order_that_is_no_chance_is_called_weak():
    study = synthetic.study(300, only=TrialState.COMPLETE)

    def metrics(quality: float, i: int) -> dict[str, float]:
        return {"zz": (i * 7919) % 1009 / 1009 + 0.5 * quality}

    (row,) = rows_of(with_metrics(study, metrics)).values()
    assert 0 < row.tau < 0.3
    assert row.p_value < 0.05
    said = " ".join(sentences.meaning([row]))
    assert "ranks them weakly as these do" in said
    assert "says nothing" not in said


def test_near_chance_is_said_with_what_the_teachers_reach():
    study = synthetic.study(30, only=TrialState.COMPLETE)
    low = with_metrics(study, lambda quality, i: {"knn": 0.08 + i / 1e4, "retrieval/hed": 0.05 + i / 1e4})
    said = sentences.meaning(list(rows_of(low).values()))
    assert [s for s in said if "kNN all nets stay near chance (at most 0.083 against 0.067)" in s]
    assert not [s for s in said if "retrieval" in s and "chance" in s], "0.05 is thirty times a chance of 1 in 600"
    weak = {name: replace(facts, metrics={"knn": 0.09}) for name, facts in low.info.teacher_facts.items()}
    said = sentences.meaning(list(rows_of(replace(low, info=replace(low.info, teacher_facts=weak))).values()))
    (sentence,) = [s for s in said if "kNN even the best teacher itself" in s]
    assert sentence.endswith("is near chance (0.090 against 0.067) on these images.")


def test_few_nets_prove_nothing_and_none_say_nothing():
    few = synthetic.study(1, only=TrialState.COMPLETE, baselines=False)
    assert sentences.meaning(list(rows_of(few).values()))[0].startswith("Too few nets")
    assert sentences.meaning(list(rows_of(with_metrics(few, lambda quality, i: {})).values())) == ()


def test_heads_carry_what_is_kept_and_the_best_that_was_reached():
    study = synthetic.study(40)
    complete = [t for t in study.trials if t.state is TrialState.COMPLETE]
    rows = {(row.teacher, row.head): row for row in head_rows(study.info, summarize(study))}
    assert len(rows) == 2 * len(synthetic.TEACHERS)
    row = rows["hed", "spatial"]
    assert row.facts == study.info.teacher_facts["hed"].heads["spatial"]
    assert row.best == pytest.approx(max(t.rungs[-1].teachers["hed"]["spatial"] for t in complete))


def test_a_study_of_before_is_read_and_shown_without_what_it_did_not_record():
    study = synthetic.study(40)
    plain = study.info.to_dict()
    assert StudyInfo.from_dict(plain) == study.info
    del plain["teacher_facts"], plain["chance"]
    old = replace(study, info=StudyInfo.from_dict(plain))
    page = render(old, summarize(old))
    assert "variance kept" in page
    assert "Does the quality mean something?" in page
    assert "near chance" not in page
    assert "What the features look like" not in page


@pytest.mark.parametrize("score", ["spatial", "both"])
def test_a_teacher_rises_by_what_of_it_is_in_the_quality(score):
    study = synthetic.study(20)
    info = replace(study.info, config={**study.info.config, "distill": {"score": score}})
    study = replace(study, info=info)
    summary = summarize(study)
    rises = {rise.teacher: rise.points for rise in prepare(study, summary).rises}
    assert list(rises) == list(synthetic.TEACHERS)
    seen = set()
    for teacher, points in rises.items():
        for number, _, _, steps, value in points:
            (heads,) = [r.teachers[teacher] for r in study.trials[number].rungs if r.steps == steps]
            assert value == pytest.approx(heads["spatial"] if score == "spatial" else sum(heads.values()) / 2)
            seen.add(number)
    assert seen == {s.trial.number for s in (*summary.front, *(b.scored for b in summary.baselines))}
    page = render(study, summary)
    assert ("each teacher’s maps after the steps" in page) == (score == "spatial")
    assert ("mean of its heads" in page) == (score == "both")


def test_of_thousands_of_nets_the_pictures_of_metrics_draw_some():
    study = synthetic.study(2600, only=TrialState.COMPLETE)
    summary = summarize(study)
    data = prepare(study, summary)
    assert {scatter.step for scatter in data.metrics} == {3}
    assert all(len(scatter.points) == 2603 for scatter in data.metrics), "what the numbers are of"
