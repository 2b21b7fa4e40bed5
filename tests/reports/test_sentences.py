"""Sentences of the report about what was predicted, and whether the search has converged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nas.study.proposer import NOTHING_NEW
from nas.study.records import Expectation, StudyRecord, TrialState
from reports.figure_data import PREDICTED, prepare
from reports.sentences import MEANINGS, TARGETS, convergence_words, predictions
from reports.summary import summarize
from tests.reports import synthetic


def expecting(study: StudyRecord, *shares: float) -> StudyRecord:
    """Return the study with these expected gains in units of the noise, trial by trial; the last one repeats."""
    gains = [*shares, *[shares[-1]] * len(study.trials)]
    changed = [replace(t, expected=Expectation(0.5, 0.01 * gains[t.number], 0.01)) for t in study.trials]
    return replace(study, trials=tuple(changed))


@pytest.mark.parametrize(
    "over", [{"sessions": ({"wall_s": 1.0, "ending": NOTHING_NEW},)}, {"environment": {"replayed": "a table"}}]
)
def test_a_search_that_has_not_converged_and_cannot_go_on_has_no_command(over):
    study = synthetic.with_info(expecting(synthetic.study(40), 3.0), **over)
    words = convergence_words(study)
    assert "has not converged" in words
    assert "--extend" not in words
    assert "--extend N" in convergence_words(expecting(synthetic.study(40), 3.0))


def test_a_search_that_converged_says_when():
    study = expecting(synthetic.study(60), *[3.0] * 20, 0.5)
    counted = sum(t.counts and t.number <= 25 for t in study.trials)
    words = convergence_words(study)
    assert "has converged" in words
    assert f"below 1 after {counted} candidates" in words
    again = convergence_words(expecting(synthetic.study(60), *[3.0] * 20, *[0.5] * 20, 1.5))
    assert "has not converged" in again


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
