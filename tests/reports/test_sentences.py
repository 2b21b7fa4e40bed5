"""Sentences of the report about what was predicted, and whether the search has converged."""

from __future__ import annotations

from dataclasses import replace

from nas.study.records import Expectation, StudyRecord, TrialState
from reports.figure_data import PREDICTED, prepare
from reports.sentences import convergence_words, front_caption, predictions
from reports.summary import summarize
from tests.reports import synthetic


def expecting(study: StudyRecord, *shares: float) -> StudyRecord:
    """Return the study with these expected gains in units of the noise, trial by trial; the last one repeats."""
    gains = [*shares, *[shares[-1]] * len(study.trials)]
    changed = [replace(t, expected=Expectation(0.5, 0.01 * gains[t.number], 0.01)) for t in study.trials]
    return replace(study, trials=tuple(changed))


def test_a_search_that_gains_more_than_noise_has_not_converged():
    words = convergence_words(expecting(synthetic.study(40), 3.0).trials)
    expected = (
        "One more architecture is expected to add 3.0 times the hypervolume that noise seems to add: the search has"
    )
    assert f"{expected} not converged" in words
    again = convergence_words(expecting(synthetic.study(60), *[3.0] * 20, *[0.5] * 20, 1.5).trials)
    assert "add 1.5 times the hypervolume that noise seems to add: the search has not converged" in again


def test_a_search_that_converged_says_when():
    study = expecting(synthetic.study(60), *[3.0] * 20, 0.5)
    counted = sum(t.counts and t.number <= 25 for t in study.trials)
    words = convergence_words(study.trials)
    assert f"noise seems to add. The ratio first fell below 1 after {counted} candidates" in words
    assert "less than a tenth of" in convergence_words(expecting(synthetic.study(60), 0.01).trials)


def test_samplers_without_expectations_get_no_sentence():
    study = synthetic.study(40)
    assert convergence_words(study.trials) == predictions(study.trials) == ""


def test_predicted_points_have_a_note_and_no_interval_and_are_on_no_front():
    study = synthetic.predicted(synthetic.study(60))
    summary = summarize(study)
    data = prepare(study, summary)
    noted = {p.number for p in data.points if p.note == PREDICTED}
    assert noted == {t.number for t in study.trials if t.predicted_ratio is not None}
    assert all(p.ratio_low is None and p.img_s is None for p in data.points if p.number in noted)
    assert not noted & {s.trial.number for s in summary.front}
    assert f"The throughput of {len(noted)} of them is predicted" in front_caption(study.info, data, summary)


def test_a_trial_that_runs_or_failed_is_no_candidate_that_ended_unmeasured():
    study = synthetic.predicted(synthetic.study(60))
    trials = [replace(t, state=TrialState.FAILED) if t.state is TrialState.STOPPED else t for t in study.trials]
    assert "not measured" not in predictions(trials)
    assert all(t.predicted_ratio is None for t in trials)
