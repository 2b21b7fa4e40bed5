"""Sentences of the report about what was predicted, and whether the search has converged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nas.analysis.evidence import RETRAINED
from nas.study.proposer import NOTHING_NEW
from nas.study.records import Expectation, StudyRecord, TrialState
from reports import figure_data
from reports.captions import front_caption, learning_caption, search_scores, teacher_caption
from reports.figure_data import PREDICTED, prepare
from reports.page import render
from reports.sentences import MEANINGS, TARGETS, convergence_words, noise, predictions, subject, trained_once, verdicts
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.brute_force import Page


def expecting(study: StudyRecord, *shares: float) -> StudyRecord:
    """Return the study with these expected gains in units of the noise, trial by trial; the last one repeats."""
    gains = [*shares, *[shares[-1]] * len(study.trials)]
    changed = [replace(t, expected=Expectation(0.5, 0.01 * gains[t.number], 0.01)) for t in study.trials]
    return replace(study, trials=tuple(changed))


def test_a_search_that_gains_more_than_noise_has_not_converged():
    words = convergence_words(expecting(synthetic.study(40), 3.0))
    expected = (
        "The search has not converged: the next architecture is expected to raise the hypervolume by 3.0 times what "
        "the noise of seeds and timings alone would. backbone-nas search --resume RUN --extend N evaluates N more. "
    )
    assert words.startswith(expected)
    again = convergence_words(expecting(synthetic.study(60), *[3.0] * 20, *[0.5] * 20, 1.5))
    assert again.startswith("The search has not converged: ")
    assert "by 1.5 times what the noise of seeds and timings alone would. " in again


@pytest.mark.parametrize(
    "over", [{"sessions": ({"wall_s": 1.0, "ending": NOTHING_NEW},)}, {"environment": {"replayed": "a table"}}]
)
def test_a_search_that_has_not_converged_and_cannot_go_on_has_no_command(over):
    study = synthetic.with_info(expecting(synthetic.study(40), 3.0), **over)
    words = convergence_words(study)
    assert "alone would. Noise is" in words
    assert "--extend" not in words


def test_a_search_that_converged_says_when():
    study = expecting(synthetic.study(60), *[3.0] * 20, 0.5)
    counted = sum(t.counts and t.number <= 25 for t in study.trials)
    words = convergence_words(study)
    assert words.startswith("The search has converged: the next architecture is expected")
    assert f"alone would. The ratio first fell below 1 after {counted} candidates" in words
    assert "less than a tenth of" in convergence_words(expecting(synthetic.study(60), 0.01))


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.94, "0.9"), (0.96, "0.96"), (0.998, "0.99"), (1.0, "1.00"), (1.04, "1.04"), (1.06, "1.1")]
)
def test_a_gain_near_the_noise_is_printed_on_its_side_of_it(ratio, shown):
    words = convergence_words(expecting(synthetic.study(40), ratio))
    assert f"by {shown} times what the noise" in words
    assert ("has not converged" in words) is (ratio >= 1)


def test_samplers_without_expectations_get_no_sentence():
    study = synthetic.study(40)
    assert convergence_words(study) == predictions(study.trials) == ""


def test_predicted_points_have_a_note_and_no_interval_and_are_on_no_front():
    study = synthetic.predicted(synthetic.study(60))
    summary = summarize(study)
    data = prepare(study, summary)
    noted = {p.number for p in data.points if p.note == PREDICTED}
    assert noted == {t.number for t in study.trials if t.predicted_ratio is not None}
    assert all(p.ratio_low is None and p.img_s is None for p in data.points if p.number in noted)
    assert not noted & {s.trial.number for s in summary.front}
    assert f"The throughput of {len(noted)} of them is predicted" in front_caption(study.info, data, summary)


def test_the_caption_of_the_front_explains_the_marks_that_are_there():
    study = synthetic.study(60)
    marks = {"Early-stopped": TrialState.STOPPED, "Crosses": TrialState.INFEASIBLE}
    for word, state in marks.items():
        without = replace(study, trials=tuple(t for t in study.trials if t.state is not state))
        for which, there in ((study, True), (without, False)):
            summary = summarize(which)
            assert (word in front_caption(which.info, prepare(which, summary), summary)) is there


def test_the_caption_counts_models_of_the_front_that_score_no_more_than_a_constant_prediction():
    study = synthetic.study(60)
    scores = sorted(scored.score for scored in summarize(study).front)
    for floor, words in ((scores[1], "2 models of the front"), (scores[0], "1 model of the front"), (-1.0, None)):
        config = {**study.info.config, "distill": {"score": "spatial"}}
        other = replace(study, info=replace(study.info, chance={"score": floor}, config=config))
        summary = summarize(other)
        caption = front_caption(other.info, prepare(other, summary), summary)
        assert ("ignores the image" in caption) is (words is not None)
        assert words is None or words in caption


def test_captions_say_after_how_many_steps_the_scores_are():
    study = synthetic.study(60)
    summary = summarize(study)
    data = prepare(study, summary)
    scores = "Scores are those of the search, after 540 training steps"
    longer = "; those of longer trainings are under “Can I trust this?”"
    assert search_scores(study.info) == f"{scores}."
    assert f" {scores}. The ring" in front_caption(study.info, data, summary)
    assert f" {scores}{longer}. The ring" in front_caption(study.info, data, summary, retrained=True)
    replay = synthetic.with_info(study, environment={"replayed": "a table"})
    assert search_scores(replay.info) == ""
    assert "Scores are" not in front_caption(replay.info, prepare(replay, summary), summary)


def test_captions_of_teachers_count_the_models_that_are_drawn(monkeypatch):
    study = synthetic.study(60)
    summary = summarize(study)
    assert "for the models on the Pareto front and the baselines, best model first" in teacher_caption(
        study.info, summary
    )
    monkeypatch.setattr(figure_data, "MAX_TEACHER_ROWS", 4)
    drawn = len({name for name, *_ in prepare(study, summary).teachers}) - len(summary.baselines)
    assert drawn < len(summary.front)
    words = f"for {drawn} of the {len(summary.front)} models on the front and the baselines"
    assert words in teacher_caption(study.info, summary)
    assert words in learning_caption(study.info, summary)


def test_captions_of_one_objective_name_no_front():
    study = synthetic.study(60)
    study = synthetic.with_info(study, objectives=study.info.objectives[:1])
    summary = summarize(study)
    caption = teacher_caption(study.info, summary)
    assert caption.startswith("Explained variance by teacher for the best model and the baselines, best model first.")


def test_trained_once_names_the_steps_and_stands_once_in_a_report():
    study = synthetic.study(60)
    summary = summarize(study)
    once = "The search trained each model once, for at most 540 steps: scores have no interval"
    assert " ".join(Page(render(study, summary)).words.split()).count(once) == 1
    assert "once, for 5,400 steps: scores" in trained_once(replace(study.info, rung_steps=(5400,)))
    retrained = replace(summary, recommendation=replace(summary.recommendation, basis=RETRAINED))
    said = noise(study.info, retrained)
    assert said.endswith("could be on the front.")
    doubtful = synthetic.timed(study, lambda t: {"verdict": "contended"})
    summary = replace(summarize(doubtful), recommendation=retrained.recommendation)
    assert noise(study.info, summary) == "Which models tie in throughput is unknown, because timings cannot be trusted."


def test_the_subject_names_objectives_and_teachers():
    study = synthetic.study(3)
    words = "compared by distillation score (agreement with the features of the teachers {}) and throughput."
    assert subject(study.info).endswith(words.format("efficientnet_lite0, hed and xfeat"))
    many = synthetic.with_info(study, teachers={f"t{i}": "" for i in range(9)})
    assert "features of 9 teachers)" in subject(many.info)
    none = synthetic.with_info(study, teachers={}, objectives=study.info.objectives[:1])
    assert subject(none.info) == "A search for vision backbones, compared by distillation score."


def test_verdicts_of_timings_say_what_they_mean():
    study = synthetic.timed(synthetic.study(6), lambda t: {"verdict": "ok" if t.baseline else "wide"})
    words = verdicts(summarize(study))
    assert "3 ok (the 95 % interval is within ±1 %)" in words
    assert "wide (the time ran out before the interval was within ±1 %)" in words


def test_a_trial_that_runs_or_failed_is_no_candidate_that_ended_unmeasured():
    study = synthetic.predicted(synthetic.study(60))
    trials = [replace(t, state=TrialState.FAILED) if t.state is TrialState.STOPPED else t for t in study.trials]
    assert "not measured" not in predictions(trials)
    assert all(t.predicted_ratio is None for t in trials)


def test_every_verdict_of_a_measurement_that_can_be_trained_has_a_meaning() -> None:
    """The verdicts are those of the page on measurements; after the two that are not here, nothing is trained."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "measurement.md").read_text()
    table = page.partition("| verdict | meaning |")[2].partition("\n\n")[0]
    verdicts = set(re.findall(r"^\| `([a-z- ]+)` \|", table, re.MULTILINE))
    assert verdicts - {"out of memory", "wrong output"} == (MEANINGS | TARGETS).keys()
