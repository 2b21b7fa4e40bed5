"""The recommended candidate: a difference is claimed where it is shown, a tie is called one."""

from dataclasses import replace

import pytest

from nas.analysis.evidence import StudyEvidence, gather_evidence
from nas.analysis.recommendation import recommended_words
from nas.study.horizon import LAPTOP
from nas.study.objectives import objectives
from nas.study.records import RaceResult, RaceTraining, Retraining, StudyRecord, TrialState
from reports.evidence_data import race_points
from reports.export_advice import before_export, export_command, race_command, weights_place
from reports.headline import NO_DIFFERENCE, UNKNOWN, headline, recommended, result_line
from reports.page import render, write_page
from reports.summary import summarize
from reports.tiles import tiles
from tests.reports import synthetic
from tests.reports.brute_force import Page


def compared(ratio: float, half: float = 0.01, verdict: str = "ok", reference: str = "eradio_femto") -> StudyRecord:
    """One candidate of this ratio that scores higher than all baselines; their ratios are 1, 0.5 and 0.4, if not 1."""
    study = synthetic.study(1, only=TrialState.COMPLETE)
    scores = dict(zip((*synthetic.BASELINES, None), (0.5, 0.3, 0.2, 0.6), strict=True))
    ratios = dict(zip((*synthetic.BASELINES, None), (1.0, 0.5, 0.4, ratio), strict=True)) | {reference: 1.0}
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
    disturbed = verdict != "ok"
    assert throughput.value == (f"{ratio:.2f}×" if shown else UNKNOWN if disturbed else NO_DIFFERENCE)
    assert score.value == "+0.100"
    first, *_ = headline(study.info, summary, "runs/mine")
    assert ("cannot be trusted" in first) is disturbed
    assert ("No difference" in first) is not (shown or disturbed)
    assert (f"{ratio:.2f} times its throughput" in result_line(study.info, summary)) is shown


def after_retraining(study: StudyRecord, scores: dict[int, float], seeds: int = 2, steps: int = 1620) -> StudyEvidence:
    """Return the evidence of a study whose trials were retrained to these scores; seeds differ by 0.002."""
    trainings = [
        Retraining(n, seed, steps, "2026-01-01", "cpu", (replace(study.trials[n].rungs[-1], steps=steps, score=score),))
        for n, mean in scores.items()
        for seed in range(seeds)
        for score in [mean + 0.002 * seed]
    ]
    return gather_evidence(study, trainings)


def with_trial_4(study: StudyRecord, ratio: float, score: float) -> StudyRecord:
    """Return a study with a trial like trial 3, of another throughput and score."""
    like = study.trials[3]
    rungs = (*like.rungs[:-1], replace(like.rungs[-1], score=score))
    other = replace(like, number=4, arch_id="4" * 12, measurement=replace(like.measurement, ratio=ratio), rungs=rungs)
    return replace(study, trials=(*study.trials, other))


def with_race(study: StudyRecord, scores: dict[int, float], **result: object) -> StudyEvidence:
    """Return the evidence of a study with a race of 5,400 steps on 9,000 images, which trained each trial once."""
    race = RaceResult(**({"steps": 5400, "images": 9000, "seed": 1, "target": 0, "target_score": None,
                          "winner": 3, "best": 3, "chance": 0.97, "decided": True} | result))  # fmt: skip
    trainings = tuple(
        RaceTraining(
            n, 1, 5400, 9000, replace(study.trials[n], rungs=(replace(study.trials[n].rungs[-1], score=score),))
        )
        for n, score in scores.items()
    )
    return gather_evidence(replace(synthetic.with_info(study, race=race), races=trainings))


def test_long_scores_are_trained_or_predicted_with_the_offset_of_the_trained_ones():
    evidence = with_race(compared(1.2), {0: 0.8, 3: 0.81})
    rows = {row["number"]: row for row in race_points(evidence.study)}
    assert {number for number, row in rows.items() if row["trained"]} == {0, 3}
    assert [rows[number]["score"] for number in (0, 3)] == [0.8, 0.81]
    trials = {number: evidence.study.trials[number] for number in rows}
    plain = {number: LAPTOP.predict(trial.final_score, trial.params) for number, trial in trials.items()}
    offset, _ = LAPTOP.offset([0.8 - plain[0], 0.81 - plain[3]])
    for number in rows.keys() - {0, 3}:
        assert rows[number]["score"] == pytest.approx(plain[number] + offset)
        assert rows[number]["low"] < rows[number]["score"] < rows[number]["high"]
    assert abs(offset - (0.805 - (plain[0] + plain[3]) / 2)) < 0.01
    assert race_points(compared(1.2)) == []


@pytest.mark.parametrize(
    ("result", "word"),
    [({"chance": 0.95}, "recommended"), ({"winner": None, "chance": 0.71}, "leading"), ({"chance": 0.71}, "leading")],
)
def test_no_model_below_the_wanted_chance_is_called_recommended(result, word, tmp_path):
    """The third race is of an older version, which asked less of some winners."""
    evidence = with_race(compared(1.2), {0: 0.8, 3: 0.81}, **result)
    write_page(evidence, tmp_path / "report.html", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f"<h3>{word.capitalize()}" in page
    assert ("<h3>Recommended" in page, ", recommended<" in page) == (word == "recommended",) * 2
    assert recommended_words(evidence).startswith(f"{word} model: ")
    assert f"chance {result['chance']:.2f}" in recommended_words(evidence)


def test_a_study_with_neither_baselines_nor_limits_is_offered_no_race():
    study = compared(1.2)
    alone = replace(study, info=replace(study.info, baselines=(), limits={}), trials=study.trials[3:])
    for of_study, command in (
        (study, "backbone-nas race RUN"),
        (replace(alone, info=replace(alone.info, limits={"max_params": 2e6})), "backbone-nas race RUN"),
        (alone, None),
    ):
        summary = summarize(of_study)
        assert race_command(of_study.info, summary, "RUN") == command
        ((doubt, settled_by),) = before_export(of_study.info, summary, "RUN")
        assert (settled_by, "train it and its rivals" in doubt) == (command, command is not None)


def test_a_difference_smaller_than_that_of_two_equal_models_is_a_tie():
    study = compared(1.2, reference="eradio_pico")
    unequal = synthetic.timed(study, lambda t: {"ratio_low": 0.8} if t.baseline == "eradio_pico" else {})
    for which, shown in ((study, True), (unequal, False)):
        summary = summarize(which)
        tile, *_ = tiles(which.info, summary)
        assert tile.value == ("1.20×" if shown else NO_DIFFERENCE)


def test_the_reference_as_the_best_baseline_has_one_ratio_and_the_interval_of_the_candidate():
    """Its own timing is that against a copy of itself, which is noise."""
    study = compared(1.3, reference="eradio_femto")
    itself = {"ratio": 1.012, "ratio_low": 1.009, "ratio_high": 1.015, "verdict": "contended"}
    study = synthetic.timed(study, lambda t: itself if t.baseline == "eradio_femto" else {})
    summary = summarize(study)
    tile, *_ = tiles(study.info, summary)
    assert (tile.value, tile.note) == ("1.30×", "throughput: 95 % interval 1.26 to 1.35")
    slower = synthetic.timed(study, lambda t: {} if t.baseline else {"ratio": 1.01})
    assert summarize(slower).comparisons[1].speedup == 1.01


def test_the_difference_in_score_is_that_of_the_printed_scores():
    scores = {"eradio_femto": 0.5344, None: 0.6005}  # printed as 0.534 and 0.601; their difference is 0.0661
    study = synthetic.scored(compared(1.2), lambda t: scores.get(t.baseline, 0.1))
    summary = summarize(study)
    assert tiles(study.info, summary)[1].value == "+0.067"
    assert "0.067 higher" in headline(study.info, summary, "RUN")[1]


@pytest.mark.parametrize(
    ("baseline", "candidate", "shown"),
    [
        (0.5684, 0.5676, ("0.5684", "0.5676")),
        (0.5684, 0.5683999, ("0.568400", "0.568400")),
        (0.57, 0.56, ("0.570", "0.560")),
    ],
)
def test_a_score_that_is_lower_is_printed_lower(baseline, candidate, shown):
    study = synthetic.study(3, only=TrialState.COMPLETE)
    scores = {"eradio_nano": baseline, None: candidate}
    study = synthetic.scored(study, lambda t: scores.get(t.baseline, 0.1))
    first = headline(study.info, summarize(study), "RUN")[0]
    assert f"eradio_nano ({shown[0]}). The highest score of a candidate is that of trial" in first
    assert f"(score {shown[1]} at " in first


def test_no_candidate_as_fast_has_no_difference_in_score():
    study = compared(0.5)
    summary = summarize(study)
    assert [tile.value for tile in tiles(study.info, summary)][1] == "–"


def test_commands_are_offered_only_where_they_take_the_objectives_and_they_quote_the_folder():
    """`retrain` and `remeasure` refuse other objectives than score and throughput."""
    study = compared(1.2, verdict="contended")
    summary = summarize(study)
    words = Page(render(study, summary, run="my runs/a")).words
    for command in ("race", "remeasure", "report", "export"):
        assert f"backbone-nas {command} 'my runs/a'" in words
    assert "backbone-nas my" not in words
    other = synthetic.with_info(study, objectives=objectives(("score", "params"), "both"))
    assert {command for _, command in before_export(other.info, summarize(other), "RUN")} == {None}


@pytest.mark.parametrize("verdict", ["ok", "contended"])
def test_what_retraining_settles_is_no_longer_in_doubt(verdict):
    study = compared(1.2, verdict=verdict)
    remedies = ["backbone-nas remeasure RUN"] * (verdict != "ok")
    assert recommended(study.info, summarize(study)).count("†") == 2 * len(remedies), "throughput and latency"
    again = "backbone-nas retrain RUN --baselines"
    whole = {0: 0.6, 1: 0.5, 2: 0.4, 3: 0.7}
    for scores, seeds, steps, more in (
        (whole, 1, 5400, [again]),
        (whole, 1, 1620, [f"{again} --train-steps 1620"]),
        (whole, 2, 1620, []),
        ({n: whole[n] for n in (0, 1, 3)}, 2, 1620, [again]),
    ):
        retrained = after_retraining(study, scores, seeds, steps)
        doubts = before_export(study.info, summarize(retrained.study, retrained), "RUN")
        assert [command for _, command in doubts] == [*more, *remedies]


def test_the_weights_and_the_interval_of_a_model_that_retrained_scores_recommend():
    study = with_trial_4(compared(1.2), ratio=1.1, score=0.55)
    evidence = after_retraining(study, {0: 0.8, 1: 0.5, 2: 0.4, 3: 0.7, 4: 0.81})
    summary = summarize(evidence.study, evidence)
    assert headline(study.info, summary, "RUN")[0].startswith("Trial 4 ")
    assert recommended(study.info, summary).startswith("score 0.811 ")
    assert export_command(summary, "RUN").startswith("backbone-nas export RUN --trial 4 ")
    assert weights_place(summary) == f"retraining/1620-steps/seed-*/weights/{'4' * 12}.safetensors"
    best = summary.comparisons[1]
    assert best.compared == 2, "both candidates are as fast as the baseline"
    of_one, of_two = (replace(best, compared=n).half_width(summary.recommendation.scatter) for n in (1, 2))
    assert of_two == pytest.approx(best.half_width(summary.recommendation.scatter))
    assert of_two > 1.1 * of_one, "the best of two needs a wider interval"


def test_a_race_leaves_nothing_in_doubt():
    evidence = with_race(compared(1.2), {0: 0.8, 3: 0.81})
    info, summary = evidence.record.info, summarize(evidence.study, evidence)
    assert "score 0.810 against 0.800 of eradio_femto (chance 0.97 " in headline(info, summary, "RUN")[0]
    assert weights_place(summary) == f"race/5400-steps/seed-*/weights/{evidence.study.trials[3].arch_id}.safetensors"
    assert before_export(info, summary, "RUN") == ()
    lost = with_race(compared(1.2), {0: 0.8, 3: 0.79}, winner=None, chance=0.3)
    assert "no candidate passed" in headline(lost.record.info, summarize(lost.study, lost), "RUN")[0]
    hopeless = with_race(compared(1.2), {}, winner=None, best=None, chance=None)
    assert "trained none" in headline(hopeless.record.info, summarize(hopeless.study, hopeless), "RUN")[0]


def test_where_throughput_is_no_objective_the_first_sentence_is_about_the_recommended_model():
    """The fastest that scores as high as the baseline is another candidate, and another difference in score."""
    study = synthetic.study(60)
    study = synthetic.with_info(study, objectives=study.info.objectives[:1])
    summary = summarize(study)
    best = summary.recommendation.model
    assert summary.comparisons[0].candidate.number != best.number
    assert headline(study.info, summary, "RUN")[0].startswith(f"Trial {best.number} ")
    assert f"; trial {best.number} " in result_line(study.info, summary)


@pytest.mark.parametrize("names", [("score", "params"), ("macs", "score"), ("score", "throughput", "memory")])
def test_the_ends_of_the_front_are_those_of_its_objectives(names):
    by = next((name for name in names if name in ("params", "macs")), "")
    for seed in range(10):
        study = synthetic.study(4, seed=seed, only=TrialState.COMPLETE)
        study = synthetic.with_info(study, objectives=objectives(names, "both"))
        summary = summarize(study)
        if len(summary.front) == 1:
            continue
        best = max(summary.front, key=lambda s: s.score)
        end = min(summary.front, key=lambda s: getattr(s.trial, by)) if by else summary.front[0]
        sentence = headline(study.info, summary, "RUN")[-1]
        assert best.name in sentence
        assert end.name in sentence
        if by:
            assert f"{getattr(end.trial, by):,}" in sentence
