from dataclasses import replace

import pytest

from nas.study.records import StudyInfo, StudyRecord, TrialState
from reports.figure_data import prepare
from reports.metric_agreement import summarize_metrics
from reports.page import render
from reports.search_course import MIN_RANKED
from reports.summary import summarize
from tests.reports import synthetic


def with_metrics(study: StudyRecord, metrics) -> StudyRecord:
    """Return the study with `metrics` (of a trial's score and index) at every last rung."""
    trials = []
    for i, trial in enumerate(study.trials):
        if trial.state is TrialState.COMPLETE:
            last = replace(trial.rungs[-1], metrics=metrics(trial.score, i))
            trial = replace(trial, rungs=(*trial.rungs[:-1], last))
        trials.append(trial)
    return replace(study, trials=tuple(trials))


def rows_of(study: StudyRecord):
    return {row.name: row for row in summarize_metrics(study.info, summarize(study))}


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    def metrics(score: float, i: int) -> dict[str, float]:
        known = {"miou": -score, "knn": 2 * score, "retrieval/hed": 0.5, "zz": (i * 7919) % 101 / 500}
        return known if i else {**known, "knn": float("nan")}

    return with_metrics(synthetic.study(60, only=TrialState.COMPLETE), metrics)


def test_tau_is_one_minus_one_or_undefined_where_it_must_be(study):
    rows = rows_of(study)
    assert list(rows) == ["knn", "miou", "retrieval/hed", "zz"], "known metrics first, by name"
    assert (rows["knn"].tau, rows["miou"].tau, rows["retrieval/hed"].tau) == (pytest.approx(1), pytest.approx(-1), None)
    assert rows["knn"].models == 62, "three baselines and 60 trials, one of them without a finite number"
    assert rows["retrieval/hed"].label == "retrieval, hed"
    scores = [t.score for t in study.trials[1:]]
    assert rows["knn"].best == pytest.approx(2 * max(scores))
    assert (rows["knn"].teacher, rows["knn"].teacher_value) == (synthetic.TEACHERS[0], 0.5)
    assert rows["retrieval/hed"].chance == pytest.approx(1 / 600)


def test_agreement_over_all_models_may_be_missing_on_the_front(study):
    """The metric follows the score, but the models on the front have it in the opposite order."""
    summary = summarize(study)
    front = {s.trial.number for s in summary.front}
    assert len(front) >= MIN_RANKED
    scores = [s.score for s in summary.front]
    spread = max(scores) - min(scores)

    def metrics(score: float, i: int) -> dict[str, float]:
        on_front = study.trials[i].number in front and not study.trials[i].baseline
        return {"knn": max(scores) + 0.01 * spread * (max(scores) - score) if on_front else score, "miou": score}

    rows = rows_of(with_metrics(study, metrics))
    assert (rows["miou"].agrees, rows["miou"].agrees_on_front) == (True, True)
    assert (rows["knn"].agrees, rows["knn"].agrees_on_front) == (True, False)
    assert (rows["knn"].on_front.candidates, rows["knn"].on_front.tau) == (len(front), pytest.approx(-1))
    assert rows["knn"].tau > 0.3


def test_seed_noise_is_that_of_the_retrainings_and_unknown_without(study):
    retraining = {"metric_scatter": {"knn": {"sd": 0.02, "degrees": 4, "measured": True}}}
    rows = {row.name: row.seed_noise for row in summarize_metrics(study.info, summarize(study), retraining)}
    assert rows == {"knn": 0.02, "miou": None, "retrieval/hed": None, "zz": None}
    assert {row.seed_noise for row in rows_of(study).values()} == {None}


def test_metrics_agree_contradict_or_show_nothing(study):
    rows = rows_of(study)
    kinds = {name: (r.agrees, r.agrees_weakly, r.contradicts) for name, r in rows.items()}
    nothing = (False, False, False)
    assert kinds == {
        "knn": (True, False, False),
        "miou": (False, False, True),
        "retrieval/hed": nothing,
        "zz": nothing,
    }


def test_a_weak_order_that_is_no_chance_is_called_weak():
    study = synthetic.study(300, only=TrialState.COMPLETE)

    def metrics(score: float, i: int) -> dict[str, float]:
        return {"zz": (i * 7919) % 1009 / 1009 + 0.5 * score}

    (row,) = rows_of(with_metrics(study, metrics)).values()
    assert 0 < row.tau < 0.3
    assert row.p_value < 0.05
    assert (row.agrees, row.agrees_weakly, row.contradicts) == (False, True, False)


def test_near_chance_is_told_for_models_and_for_teachers():
    study = synthetic.study(30, only=TrialState.COMPLETE)
    low = with_metrics(study, lambda score, i: {"knn": 0.08 + i / 1e4, "retrieval/hed": 0.05 + i / 1e4})
    rows = rows_of(low)
    assert (rows["knn"].models_near_chance, rows["knn"].teacher_near_chance) == (True, False)
    assert not rows["retrieval/hed"].models_near_chance, "0.05 is thirty times a chance of 1 in 600"
    weak = {name: replace(facts, metrics={"knn": 0.09}) for name, facts in low.info.teacher_facts.items()}
    rows = rows_of(synthetic.with_info(low, teacher_facts=weak))
    assert rows["knn"].teacher_near_chance


def test_a_study_without_facts_of_teachers_and_chance_has_a_report():
    study = synthetic.study(8)
    assert StudyInfo.from_dict(study.info.to_dict()) == study.info
    bare = replace(study, info=replace(study.info, teacher_facts={}, chance={}))
    page = render(bare, summarize(bare))
    assert "variance kept" in page
    assert 'id="metrics"' in page
    assert not any(row.teacher_near_chance or row.models_near_chance for row in rows_of(bare).values())
    assert 'class="sheet"' not in page


@pytest.mark.parametrize("score", ["spatial", "both"])
def test_a_learning_curve_is_of_the_heads_in_the_score(score):
    study = synthetic.study(20)
    info = replace(study.info, config={**study.info.config, "distill": {"score": score, "summary_loss": "mse"}})
    study = replace(study, info=info)
    summary = summarize(study)
    curves = {each.teacher: each.points for each in prepare(study, summary).learning_curves}
    assert list(curves) == list(synthetic.TEACHERS)
    seen = set()
    for teacher, points in curves.items():
        for number, _, _, steps, value in points:
            (heads,) = [r.teachers[teacher] for r in study.trials[number].rungs if r.steps == steps]
            assert value == pytest.approx(heads["spatial"] if score == "spatial" else sum(heads.values()) / 2)
            seen.add(number)
    assert seen == {s.trial.number for s in (*summary.front, *(b.scored for b in summary.baselines))}
