"""The verdict on the recommended candidate: a difference is claimed where it is shown, a tie is called one."""

import pytest

from nas.study.records import StudyRecord, TrialState
from reports.page import render
from reports.summary import summarize
from reports.verdict import NO_DIFFERENCE, headline, result_line, tiles
from tests.reports import synthetic
from tests.reports.brute_force import Page


def compared(ratio: float, half: float = 0.01, verdict: str = "ok", reference: str = "eradio_femto") -> StudyRecord:
    """One candidate of this ratio that scores higher than all baselines; their ratios are 1, 0.5 and 0.4."""
    study = synthetic.study(1, only=TrialState.COMPLETE)
    scores = dict(zip((*synthetic.BASELINES, None), (0.5, 0.3, 0.2, 0.6), strict=True))
    ratios = dict(zip((*synthetic.BASELINES, None), (1.0, 0.5, 0.4, ratio), strict=True))
    study = synthetic.timed(
        study,
        lambda t: {
            "ratio": ratios[t.baseline],
            "ratio_low": ratios[t.baseline] - half,
            "ratio_high": ratios[t.baseline] + half,
            "verdict": "ok" if t.baseline else verdict,
        },
    )
    return synthetic.with_info(synthetic.scored(study, lambda t: scores[t.baseline]), reference=reference)


@pytest.mark.parametrize(
    ("ratio", "half", "verdict", "shown"),
    [(1.2, 0.01, "ok", True), (1.2, 0.2, "ok", False), (1.2, 0.01, "contended", False), (1.005, 0.01, "ok", False)],
)
def test_a_tie_is_called_one_in_the_tile_the_sentences_and_the_line(ratio, half, verdict, shown):
    study = compared(ratio, half, verdict)
    summary = summarize(study)
    throughput, score, _ = tiles(study.info, summary)
    assert (throughput.value == NO_DIFFERENCE) is not shown
    assert f"{ratio:.2f}×" in (throughput.value if shown else throughput.note)
    assert score.value == "+0.100"
    first, *_ = headline(study.info, summary)
    assert ("No difference" in first) is not shown
    assert ("disturbed" in first) is (verdict != "ok")
    assert (NO_DIFFERENCE in result_line(summary)) is not shown


def test_one_sentence_compares_with_the_best_baseline_and_with_the_reference():
    for reference, times in (
        ("eradio_nano", 2),
        ("eradio_femto", 1),
    ):  # of the best baseline's own study the ratio is one
        study = compared(1.2, reference=reference)
        first, *_ = headline(study.info, summarize(study))
        assert first.count("1.20 times that of") == times
        assert reference in first


def test_one_candidate_that_is_best_on_both_axes_is_named_once():
    study = compared(1.2)
    _, second, _ = headline(study.info, summarize(study))
    assert "trial" not in second
    assert "0.100 higher" in second
    labels = [tile.label for tile in tiles(study.info, summarize(study))]
    assert all("against eradio_femto" in label for label in labels[:2])


def test_tiles_of_two_candidates_say_what_they_were_chosen_for():
    study = synthetic.study(150, seed=3)
    summary = summarize(study)
    faster, better = summary.comparisons
    assert faster.found != better.found
    throughput, score, _ = tiles(study.info, summary)
    assert f"{faster.found.name}, which scores at least as high as" in throughput.label
    assert f"{better.found.name}, which is as fast as" in score.label


def test_no_candidate_as_fast_has_no_difference_in_score():
    study = compared(0.5)
    summary = summarize(study)
    assert [tile.value for tile in tiles(study.info, summary)][1] == "–"
    assert headline(study.info, summary)[1] == "No candidate is as fast as eradio_femto."


def test_a_recommendation_of_an_unfinished_study_is_one_so_far():
    study = compared(1.2)
    for budget, words in ((8, "(unfinished: 1 of 8 architectures evaluated)"), (1, "")):
        page = Page(
            render(synthetic.with_info(study, config={**study.info.config, "budget": budget}), summarize(study))
        )
        assert ("Recommended so far: trial 3" in page.words) is bool(words)
        assert words in page.words
