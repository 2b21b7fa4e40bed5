"""What the noise of the timings forbids to say: disturbed measurements, ties by the A/A pair, speeds never timed."""

from dataclasses import replace

import pytest

from nas.records import Measurement, Study, TrialRecord, TrialState
from reports import captions, sentences
from reports.page import render
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.plainly import Page
from tests.reports.test_summary import complete


def timed(study: Study, change) -> Study:
    """The study with `change` made to the measurement of each trial; it takes the trial and says what is other."""

    def changed(t: TrialRecord) -> Measurement | None:
        return t.measurement and replace(t.measurement, **change(t))

    return replace(study, trials=tuple(replace(t, measurement=changed(t)) for t in study.trials))


@pytest.fixture(scope="module")
def study() -> Study:
    return synthetic.study(60)


@pytest.mark.parametrize("verdict", ["contended", "throttled", "clock changed"])
def test_a_disturbed_measurement_is_said_wherever_its_number_is(study, verdict):
    summary = summarize(study)
    best, itself = summary.best_baseline, summary.itself
    of_best, of_itself = (f"{n.name} {verdict}): this interval cannot be trusted" for n in (best, itself))
    floor = f"was disturbed ({verdict}): its interval cannot be trusted"
    found = {n.trial.number for n in (best, itself, summary.front[0])}
    bad = timed(study, lambda t: {"verdict": verdict if t.number in found else t.measurement.verdict})
    words, rows, tiles = {}, {}, {}
    for which, s in (("good", study), ("bad", bad)):
        page = Page(render(s, summarize(s)))
        words[which], tiles[which] = page.words, page.tiles
        rows[which] = [cell for row in page.table("Nets on the front and baselines").body() for cell in row.values()]
    assert of_best in words["bad"]
    assert of_best not in words["good"]
    assert of_itself not in words["good"]
    assert words["bad"].count(floor) == 2, "beside the noise, and where trust is spoken of"
    assert floor not in words["good"]
    assert "† The measurement was disturbed" in words["bad"]
    assert "†" not in words["good"]
    assert sum("†" in cell for cell in rows["bad"]) == len(found)
    assert tiles["good"] == {name: tile.removesuffix(" †") for name, tile in tiles["bad"].items()}
    marked = {name for name, tile in tiles["bad"].items() if "†" in tile}
    assert marked == {f"speed at {best.name}’s quality", "quality at its speed"}


def test_a_dominated_net_within_what_the_reference_is_off_itself_ties_with_the_front():
    study = synthetic.study(40)
    best = max(complete(study), key=lambda t: t.rungs[-1].quality)
    fast = best.measurement.ratio
    aa = study.info.reference

    def near(slower: float, off: float) -> bool:
        exact = timed(
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


def test_published_speeds_have_no_noise_and_nobody_timed_them(study):
    replayed = timed(study, lambda t: {"arm": "published", "ratio_low": t.measurement.ratio})
    summary = summarize(replayed)
    assert summary.half_width is None
    assert sentences.noise(replayed.info, summary) == ""
    assert "interleaved" not in captions.footer(replayed.info, summary)
    page = Page(render(replayed, summary)).words
    assert "half-width" not in page
    assert "No throughput was timed in this study." in page
    assert "interleaved" in captions.footer(study.info, summarize(study))


def test_the_noise_of_speed_is_no_word_on_a_front_without_it(study):
    quality, speed = study.info.objectives
    small = replace(speed, name="params", label="parameters", unit="", reference=1e9, minimise=True)
    for objectives, said in (((quality, speed), True), ((quality, small), False), ((quality,), False)):
        other = replace(study, info=replace(study.info, objectives=objectives))
        assert ("dominated net" in sentences.noise(other.info, summarize(other))) is said


def test_no_front_is_not_called_trained_to_the_end():
    study = synthetic.study(6, only=TrialState.STOPPED, baselines=False)
    said = sentences.headline(study.info, summarize(study))[0]
    assert said == ("There is no front: 6 architectures were evaluated, none of them to the last rung (6 stopped).")
