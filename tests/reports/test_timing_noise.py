"""The noise of the timings: disturbed measurements, ties by the A/A pair, throughputs that were never timed."""

import re

import pytest

from nas.study.records import StudyRecord
from nas.study.timing_doubts import timing_doubt
from reports import sentences
from reports.page import render
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.brute_force import Page, payload


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    return synthetic.study(60)


@pytest.fixture(scope="module")
def page_of_study(study) -> Page:
    return Page(render(study, summarize(study)))


def test_a_disturbed_measurement_is_marked_wherever_its_number_is(study, page_of_study):
    word, summary = "contended", summarize(study)
    best, itself = summary.best_baseline, summary.self_comparison
    numbers = {n.trial.number for n in (best, itself, summary.front[0])}
    bad = synthetic.timed(study, lambda t: {"verdict": word if t.number in numbers else t.measurement.verdict})
    assert {s.trial.number for s in (*summarize(bad).complete, *(b.scored for b in summarize(bad).baselines))
            if timing_doubt(s.trial.measurement)} == numbers  # fmt: skip
    words, rows = {}, {}
    for which, page in (("good", page_of_study), ("bad", Page(render(bad, summarize(bad))))):
        words[which] = page.words
        rows[which] = [cell for row in page.table("Pareto front and baselines").body() for cell in row.values()]
    assert f"{best.name} {word}" in words["bad"]
    assert word not in words["good"]
    floor = sentences.noise_floor_sentence(summarize(bad)).strip()
    assert word in floor
    assert words["bad"].count(floor) == 1
    assert "†" in words["bad"]
    assert "†" not in words["good"]
    assert sum("†" in cell for cell in rows["bad"]) == 3 * len(numbers), "ratio, images/s, latency"
    assert "† The timing cannot be trusted" in words["bad"]
    assert [sum("A/A" in cell for cell in cells) for cells in rows.values()] == [1, 1]
    ratios = [cell for cell in rows["bad"] if "†" in cell and " to " in cell]
    assert len(ratios) == len(numbers)
    assert all(len(number.partition(".")[2]) == 2 for cell in ratios for number in re.findall(r"[\d.]+", cell))


WILD = {"samples": 12, "verdict": "contended", "ratio_low": 1e-6, "ratio_high": 1.7e6}


def test_an_interval_that_says_nothing_is_not_shown(study):
    """As on a card: one rule says which timings can be trusted. An old record may hold any width."""
    changes, words = WILD, "12 samples, contended"
    number = summarize(study).front[0].trial.number
    bad = synthetic.timed(study, lambda t: changes if t.number == number or t.baseline == study.info.reference else {})
    html = render(bad, summarize(bad))
    page = Page(html)
    rows = page.table("Pareto front and baselines").body()
    shown = [cell for row in rows for cell in row.values() if f"interval not usable: {words}" in cell]
    assert len(shown) == 2, "the first of the front, and the reference"
    assert all("†" in cell for cell in shown)
    assert "1700000" not in page.words.replace(",", "")
    assert "it is unknown which differences are ties" in sentences.noise_floor_sentence(summarize(bad))
    assert [p["ratio_high"] for p in payload(html)["datasets"]["points"] if p["number"] == number] == [
        pytest.approx(summarize(study).front[0].ratio, rel=1e-5)
    ]


def test_disturbed_timings_leave_the_ties_unknown(study):
    good = summarize(study)
    assert good.near
    count = f"{len(good.near)} dominated model"
    assert count in sentences.noise(study.info, good)
    on_front = good.front[0].trial.number
    others = [s.trial.number for s in good.complete if s not in good.front]
    for bad, known in (({on_front}, False), (set(others[:1]), True), (set(others), False)):
        disturbed = synthetic.timed(study, lambda t, bad=bad: {"verdict": "contended"} if t.number in bad else {})
        text = sentences.noise(study.info, summarize(disturbed))
        assert (count in text, "unknown" in text) == (known, not known)


def test_published_throughputs_have_no_noise(study):
    replayed = synthetic.timed(study, lambda t: {"arm": "published", "ratio_low": t.measurement.ratio})
    summary = summarize(replayed)
    assert summary.half_width is None
    assert sentences.noise(replayed.info, summary) == ""
