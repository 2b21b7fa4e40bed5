"""The verdict on the recommended candidate: a difference is claimed where it is shown, a tie is called one."""

import random

import pytest

from nas.study.records import StudyRecord, TrialState
from reports.page import render
from reports.sentences import baseline_words
from reports.summary import summarize
from reports.verdict import NO_DIFFERENCE, UNKNOWN, before_export, headline, recommended, result_line, tiles
from tests.nas.study.builders import search_config, study_info
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


def timed_at(ratio):
    return synthetic.measurement(random.Random(0), ratio).to_dict()


@pytest.mark.parametrize(
    ("ratio", "half", "verdict", "shown"),
    [(1.2, 0.01, "ok", True), (1.2, 0.2, "ok", False), (1.2, 0.01, "contended", False), (1.005, 0.01, "ok", False)],
)
def test_a_tie_is_called_one_in_the_tile_the_sentences_and_the_line(ratio, half, verdict, shown):
    study = compared(ratio, half, verdict)
    summary = summarize(study)
    throughput, score, _ = tiles(study.info, summary)
    disturbed = verdict != "ok"
    assert throughput.value == (f"{ratio:.2f}×" if shown else UNKNOWN if disturbed else NO_DIFFERENCE)
    assert score.value == "+0.100"
    first, *_ = headline(study.info, summary, "runs/mine")
    assert ("cannot be trusted" in first) is disturbed
    assert ("No difference" in first) is not (shown or disturbed)
    assert (f"{ratio:.2f} times its throughput" in result_line(summary)) is shown


def test_a_disturbed_timing_is_said_first_and_once_and_gives_no_ratio():
    study = compared(1.27, verdict="contended")
    summary = summarize(study)
    first, *others = headline(study.info, summary, "runs/mine")
    assert first.startswith("Of 4 timings, 1 cannot be trusted, with that of trial 3 (contended: other work")
    assert "backbone-nas remeasure runs/mine" in first
    shown = " ".join([*others, recommended(study.info, summary), result_line(summary)])
    assert "trusted" not in " ".join(others)
    assert "1.27" not in shown
    assert "interval" not in " ".join(others).replace("scores have no interval", "")
    every = synthetic.timed(study, lambda t: {"verdict": "contended"})
    assert headline(every.info, summarize(every), "RUN")[0].startswith("None of the 4 timings can be trusted")


@pytest.mark.parametrize("verdict", ["ok", "contended"])
def test_the_recommended_model_shows_its_doubts_with_their_commands(verdict):
    study = compared(1.2, verdict=verdict)
    summary = summarize(study)
    commands = [command for _, command in before_export(study.info, summary, None, "RUN")]
    remedies = ["backbone-nas remeasure RUN"] * (verdict != "ok")
    assert commands == ["backbone-nas retrain RUN", *remedies]
    assert recommended(study.info, summary).count("†") == 2 * len(remedies)
    own = {"trial": summary.recommendation.trial.number, "change": "still on it", "score": 0.7, "measurement": None}
    rival = {"trial": 0, "name": "eradio_femto", "change": "baseline", "score": 0.6, "measurement": None}
    retrained = {"steps": 810, "candidates": [own, rival]}
    assert [command for _, command in before_export(study.info, summary, retrained, "RUN")] == remedies
    rival["score"] = 0.8
    assert len(before_export(study.info, summary, retrained, "RUN")) == 1 + len(remedies)
    better = {"trial": 77, "change": "not on it", "score": 0.81, "measurement": timed_at(1.25)}
    slower = {"trial": 78, "change": "not on it", "score": 0.9, "measurement": timed_at(0.5)}
    retrained["candidates"] += [slower, better]
    (sentence, command), *_ = before_export(study.info, summary, retrained, "RUN")
    assert command.startswith("backbone-nas export RUN --trials 77 --format timm")
    assert "0.700" in sentence
    assert "eradio_femto, 0.800" in sentence
    assert "0.810 at 1.25 times" in sentence
    assert headline(study.info, summary, "RUN", retrained)[0] == sentence
    better["measurement"]["verdict"] = "contended"
    assert before_export(study.info, summary, retrained, "RUN")[0][1].startswith("backbone-nas export RUN --trials 78")


def test_one_sentence_compares_with_the_best_baseline_and_with_the_reference():
    for reference, times in (
        ("eradio_nano", 2),
        ("eradio_femto", 1),
    ):  # of the best baseline's own study the ratio is one
        study = compared(1.2, reference=reference)
        first, *_ = headline(study.info, summarize(study), "RUN")
        assert first.count("1.20 times that of") == times
        assert reference in first


def test_one_candidate_that_is_best_on_both_axes_is_named_once():
    study = compared(1.2)
    _, second, _ = headline(study.info, summarize(study), "RUN")
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
    assert f"{better.found.name}, which was timed as fast as" in score.label


def test_the_difference_in_score_is_that_of_the_printed_scores():
    scores = {"eradio_femto": 0.5344, None: 0.6005}  # printed as 0.534 and 0.601; their difference is 0.0661
    study = synthetic.scored(compared(1.2), lambda t: scores.get(t.baseline, 0.1))
    summary = summarize(study)
    assert tiles(study.info, summary)[1].value == "+0.067"
    assert "0.067 higher" in headline(study.info, summary, "RUN")[1]


def test_no_candidate_as_fast_has_no_difference_in_score():
    study = compared(0.5)
    summary = summarize(study)
    assert [tile.value for tile in tiles(study.info, summary)][1] == "–"
    assert headline(study.info, summary, "RUN")[1] == "No candidate was timed as fast as eradio_femto."


def test_a_recommendation_of_an_unfinished_study_is_one_so_far():
    study = compared(1.2)
    for budget, words in ((8, "(unfinished: 1 of 8 architectures evaluated)"), (1, "")):
        page = Page(
            render(synthetic.with_info(study, config={**study.info.config, "budget": budget}), summarize(study))
        )
        assert ("Recommended so far: trial 3" in page.words) is bool(words)
        assert words in page.words


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (("eradio_femto", "eradio_nano"), "E\u2011RADIO-style 64 px baselines (ours)"),
        (("eradio_xt", "eradio_s"), "E\u2011RADIO baselines at 64 px"),
        (("eradio_pico", "eradio_xt"), "E\u2011RADIO baselines at 64 px"),
        (("timm:resnet18",), "64 px baselines of timm"),
    ],
)
def test_only_our_small_presets_are_in_the_style_of_e_radio(baselines: tuple[str, ...], words: str) -> None:
    assert baseline_words(study_info(search_config(baselines=baselines))) == words
