"""The noise of the timings: disturbed measurements, ties by the A/A pair, throughputs that were never timed."""

import re
from dataclasses import replace

import pytest

from nas.study.records import StudyRecord, TrialState
from nas.study.timing_doubts import timing_doubt
from reports import captions, headline, sentences
from reports.page import render
from reports.summary import summarize
from tests.reports import brute_force, synthetic
from tests.reports.brute_force import Page, payload


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    return synthetic.study(60)


@pytest.fixture(scope="module")
def page_of_study(study) -> Page:
    return Page(render(study, summarize(study)))


@pytest.mark.parametrize("word", ["contended", "throttled", "clock changed"])
def test_a_disturbed_measurement_is_marked_wherever_its_number_is(study, page_of_study, word):
    summary = summarize(study)
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
    for which in words:
        assert f"A/A: {itself.name} is the reference" in words[which]
        assert f"× {itself.name}: throughput relative to the reference, {itself.name}. Compare" in words[which]
        assert sum("A/A" in cell for cell in rows[which]) == 1
    ratios = [cell for cell in rows["bad"] if "†" in cell and " to " in cell]
    assert len(ratios) == len(numbers)
    assert all(len(number.partition(".")[2]) == 2 for cell in ratios for number in re.findall(r"[\d.]+", cell))


SHORT = {"samples": 4, "verdict": "too few samples"}
WILD = {"samples": 12, "verdict": "contended", "ratio_low": 1e-6, "ratio_high": 1.7e6}


@pytest.mark.parametrize(
    ("changes", "words"), [(SHORT, "only 4 samples"), (WILD, "12 samples, contended"),
                           (WILD | {"verdict": "wide"}, "12 samples, scattered")]
)  # fmt: skip
def test_an_interval_that_says_nothing_is_not_shown(study, changes, words):
    """As on a card: one rule says which timings can be trusted. An old record may hold any width."""
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


def test_a_dominated_model_within_the_noise_floor_ties_with_the_front():
    study = synthetic.study(40)
    best = max(brute_force.trained(study, baselines=False), key=lambda t: t.rungs[-1].score)
    fast = best.measurement.ratio
    aa = study.info.reference

    def near(slower: float, off: float) -> bool:
        exact = synthetic.timed(
            replace(study, trials=(*study.trials, replace(best, number=9001))),
            lambda t: (
                {"ratio": 1.0, "ratio_low": 1 / (1 + off), "ratio_high": 1.0}
                if t.baseline == aa
                else dict.fromkeys(
                    ("ratio", "ratio_low", "ratio_high"), fast / slower if t.number == 9001 else t.measurement.ratio
                )
            ),
        )
        return 9001 in {s.trial.number for s in summarize(exact).near}

    assert near(1.06, off=0.07)
    assert not near(1.07, off=0.02)
    assert not near(1.08, off=0.07)
    assert near(1.05, off=0.0), "exact timings of two processes differ by 2.4 %, a standard deviation"


def test_tables_say_batch_and_resolution_of_their_speeds(study, page_of_study):
    words = "Images/s are of batch 16 at 64 px, latencies of batch 1 at 64 px."
    assert words in page_of_study.table("Pareto front and baselines").caption
    assert words in page_of_study.words, "above the table of all trials"
    one = study.trials[0].number
    smaller = synthetic.timed(study, lambda t: {"batch": 8} if t.number == one else {})
    assert "batch 8 or 16" in sentences.timed_sizes(smaller.trials)
    assert sentences.timed_sizes(synthetic.timed(study, lambda t: {"arm": "published"}).trials) == ""


def test_published_throughputs_have_no_noise(study):
    replayed = synthetic.timed(study, lambda t: {"arm": "published", "ratio_low": t.measurement.ratio})
    summary = summarize(replayed)
    assert summary.half_width is None
    assert sentences.noise(replayed.info, summary) == ""
    assert "interleaved" not in captions.footer(replayed.info, summary)
    page = Page(render(replayed, summary)).words
    assert "half-width" not in page
    assert "interleaved" in captions.footer(study.info, summarize(study))


def test_a_front_without_throughput_has_no_sentence_about_noise(study):
    score, speed = study.info.objectives
    small = replace(speed, name="params", label="parameters", unit="", reference=1e9, minimize=True)
    for objectives, said in (((score, speed), True), ((score, small), False), ((score,), False)):
        other = replace(study, info=replace(study.info, objectives=objectives))
        assert bool(sentences.noise(other.info, summarize(other))) is said


def test_a_study_without_a_front_lists_what_became_of_its_trials():
    study = synthetic.study(6, only=TrialState.STOPPED, baselines=False)
    summary = summarize(study)
    assert summary.front == ()
    assert "(6 candidates early-stopped)" in headline.headline(study.info, summary, "RUN")[0]
