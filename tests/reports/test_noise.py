"""The noise of the timings: disturbed measurements, ties by the A/A pair, throughputs that were never timed."""

from dataclasses import replace

import pytest

from nas.study.records import Study, TrialState
from reports import sentences
from reports.noise import disturbance
from reports.page import render
from reports.summary import summarize
from tests.reports import brute_force, synthetic
from tests.reports.brute_force import Page


@pytest.fixture(scope="module")
def study() -> Study:
    return synthetic.study(60)


@pytest.fixture(scope="module")
def page_of_study(study) -> Page:
    return Page(render(study, summarize(study)))


@pytest.mark.parametrize("verdict", ["contended", "throttled", "clock changed"])
def test_a_disturbed_measurement_is_marked_wherever_its_number_is(study, page_of_study, verdict):
    summary = summarize(study)
    best, itself = summary.best_baseline, summary.self_comparison
    numbers = {n.trial.number for n in (best, itself, summary.front[0])}
    bad = synthetic.timed(study, lambda t: {"verdict": verdict if t.number in numbers else t.measurement.verdict})
    assert {s.trial.number for s in (*summarize(bad).complete, *(b.scored for b in summarize(bad).baselines))
            if disturbance(s.trial)} == numbers  # fmt: skip
    words, rows, tiles = {}, {}, {}
    for which, page in (("good", page_of_study), ("bad", Page(render(bad, summarize(bad))))):
        words[which], tiles[which] = page.words, page.tiles
        rows[which] = [cell for row in page.table("Pareto front and baselines").body() for cell in row.values()]
    assert f"{best.name} {verdict}" in words["bad"]
    assert verdict not in words["good"]
    floor = sentences.noise_floor_sentence(summarize(bad)).strip()
    assert verdict in floor
    assert words["bad"].count(floor) == 1
    assert "†" in words["bad"]
    assert "†" not in words["good"]
    assert sum("†" in cell for cell in rows["bad"]) == len(numbers)
    assert tiles["good"] == {name: tile.replace(" †", "") for name, tile in tiles["bad"].items()}
    marked = {name for name, tile in tiles["bad"].items() if "†" in tile}
    assert marked == {"speed-up at equal score", "score gain at equal speed"}


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

    assert near(1.03, off=0.05)
    assert not near(1.03, off=0.02)
    assert not near(1.07, off=0.05)


def test_published_throughputs_have_no_noise(study):
    replayed = synthetic.timed(study, lambda t: {"arm": "published", "ratio_low": t.measurement.ratio})
    summary = summarize(replayed)
    assert summary.half_width is None
    assert sentences.noise(replayed.info, summary) == ""
    assert "interleaved" not in sentences.footer(replayed.info, summary)
    page = Page(render(replayed, summary)).words
    assert "half-width" not in page
    assert "interleaved" in sentences.footer(study.info, summarize(study))


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
    assert "6 early-stopped" in sentences.headline(study.info, summary)[0]
