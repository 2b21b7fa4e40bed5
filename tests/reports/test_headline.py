"""The words on the recommended candidate: a difference is claimed where it is shown, a tie is called one."""

import re
from dataclasses import replace

import pytest

from nas.analysis.evidence import RETRAINED, StudyEvidence, gather_evidence
from nas.study.horizon import LAPTOP
from nas.study.objectives import objectives
from nas.study.records import RaceResult, RaceTraining, Retraining, StudyRecord, TrialState
from nas.study.seed_noise import study_noise
from reports.captions import front_caption
from reports.evidence_data import race_points, retraining_results
from reports.export_advice import SEED_DIFFERENCE, before_export, export_command, race_command, weights_place
from reports.figure_data import prepare
from reports.headline import NO_DIFFERENCE, UNKNOWN, headline, recommended, result_line
from reports.page import render
from reports.sentences import baseline_kind, baseline_words
from reports.summary import summarize
from reports.tiles import tiles
from search_space import SPACES, Space
from tests.nas.study.builders import search_config, study_info
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


def test_commands_are_offered_only_where_they_take_the_objectives_and_they_quote_the_folder():
    """`retrain` and `remeasure` refuse other objectives than score and throughput."""
    study = synthetic.timed(synthetic.study(40), lambda trial: {"verdict": "contended"})
    summary = summarize(study)
    page = Page(render(study, summary, run="my runs/a")).words
    for command in ("retrain", "remeasure", "report"):
        assert f"backbone-nas {command} 'my runs/a'" in page
        assert f"backbone-nas {command} my" not in page
    other = synthetic.with_info(study, objectives=objectives(("score", "params"), "both"))
    page = Page(render(other, summarize(other))).words
    assert "It was trained once, for 540 steps" in page
    assert "Treat the speeds as unknown" in page
    assert "backbone-nas retrain" not in page
    assert "backbone-nas remeasure" not in page


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


def test_a_disturbed_timing_is_said_first_and_once_and_gives_no_ratio():
    study = compared(1.27, verdict="contended")
    summary = summarize(study)
    first, *others = headline(study.info, summary, "runs/mine")
    assert first.startswith("Of 4 timings, 1 cannot be trusted, among them that of trial 3 (contended: other work")
    assert "backbone-nas remeasure runs/mine" in first
    shown = " ".join([*others, recommended(study.info, summary), result_line(study.info, summary)])
    assert "trusted" not in " ".join(others)
    assert "1.27" not in shown
    assert "interval" not in " ".join(others).replace("scores have no interval", "")
    every = synthetic.timed(study, lambda t: {"verdict": "contended"})
    assert headline(every.info, summarize(every), "RUN")[0].startswith("None of the 4 timings can be trusted")
    only = replace(every, trials=every.trials[3:])
    assert headline(only.info, summarize(only), "RUN")[0].startswith("The timing cannot be trusted (contended")


@pytest.mark.parametrize("verdict", ["ok", "contended"])
def test_the_recommended_model_shows_its_doubts_with_their_commands(verdict):
    study = compared(1.2, verdict=verdict)
    summary = summarize(study)
    commands = [command for _, command in before_export(study.info, summary, "RUN")]
    remedies = ["backbone-nas remeasure RUN"] * (verdict != "ok")
    assert commands == ["backbone-nas race RUN", *remedies]
    assert recommended(study.info, summary).count("†") == 2 * len(remedies)
    assert doubts_of_a_near_tie(0.6) == (
        "It was trained once, for 540 steps. Before you rely on it, train it and its rivals for longer:"
    )
    assert "scores 0.010 higher than eradio_femto. Two trainings of one model differ by up to 0.02" in (
        doubts_of_a_near_tie(0.51)
    )
    again = "backbone-nas retrain RUN --baselines"
    for seeds, steps, more in ((1, 5400, [again]), (1, 1620, [f"{again} --train-steps 1620"]), (2, 1620, [])):
        retrained = after_retraining(study, {0: 0.6, 1: 0.5, 2: 0.4, 3: 0.7}, seeds, steps)
        doubts = before_export(study.info, summarize(retrained.study, retrained), "RUN")
        assert [command for _, command in doubts] == [*more, *remedies]
    some = after_retraining(study, {0: 0.6, 1: 0.5, 3: 0.7})
    doubts = before_export(study.info, summarize(some.study, some), "RUN")
    assert [command for _, command in doubts] == ["backbone-nas retrain RUN --baselines", *remedies]
    assert "the baseline eradio_nano has none" in doubts[0][0]


def doubts_of_a_near_tie(score: float) -> str:
    """Return the first doubt about a candidate of this score, where the best baseline scores 0.5."""
    study = compared(1.2)
    study = synthetic.scored(
        study, lambda t: score if t.baseline is None else {"eradio_femto": 0.5}.get(t.baseline, 0.1)
    )
    return before_export(study.info, summarize(study), "RUN")[0][0]


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


def test_the_words_on_a_model_that_retrained_scores_recommend():
    study = with_trial_4(compared(1.2), ratio=1.1, score=0.55)
    evidence = after_retraining(study, {0: 0.8, 1: 0.5, 2: 0.4, 3: 0.7, 4: 0.81})
    summary = summarize(evidence.study, evidence)
    second, third, front = headline(study.info, summary, "RUN")
    assert second.startswith("Trial 4 is the fastest retrained candidate that scores at least as high as")
    assert "(0.811 against 0.801). Its throughput is 1.10 times that of" in second
    assert "retrained candidates" in third
    assert "These scores are means of longer trainings (2 seeds, 1,620 steps); the 95 % interval of the diff" in third
    assert "The Pareto front by the search’s scores (after 540 steps) " in front
    assert "trial 4 scores at least as high as eradio_femto: 1.10 times" in result_line(study.info, summary)
    assert recommended(study.info, summary).startswith("score 0.811 (mean of 2 longer trainings, 1,620 steps each); ")
    assert "no interval" not in tiles(study.info, summary)[1].note
    assert export_command(summary, "RUN").startswith("backbone-nas export RUN --trial 4 ")
    assert weights_place(summary) == f"retraining/1620-steps/seed-*/weights/{'4' * 12}.safetensors"
    best = summary.comparisons[1]
    assert best.compared == 2, "both candidates are as fast as the baseline"
    of_one, of_two = (replace(best, compared=n).half_width(summary.recommendation.scatter) for n in (1, 2))
    assert of_two == pytest.approx(best.half_width(summary.recommendation.scatter))
    assert of_two > 1.1 * of_one, "the best of two needs a wider interval"


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
    page = render(evidence.study, summarize(evidence.study, evidence))
    assert "Throughput against the score after 5,400 steps on 9,000 images." in page
    assert race_points(compared(1.2)) == []


def test_a_race_is_the_first_sentence_and_leaves_nothing_in_doubt():
    evidence = with_race(compared(1.2), {0: 0.8, 3: 0.81})
    info, summary = evidence.record.info, summarize(evidence.study, evidence)
    first, front = headline(info, summary, "RUN")
    words = "after 5,400 steps on 9,000 images: score 0.810 against 0.800 of eradio_femto"
    words += " (chance 0.97 that it is at least as good after 5,400 steps), 1.20 times its throughput"
    assert first == f"Trial 3 {words}."
    assert "The Pareto front by the search’s scores (after 540 steps) " in front
    assert result_line(info, summary).endswith(f"; trial 3 {words}")
    assert recommended(info, summary).startswith("score 0.810 (one longer training, 5,400 steps); ")
    assert weights_place(summary) == f"race/5400-steps/seed-*/weights/{evidence.study.trials[3].arch_id}.safetensors"
    assert tiles(info, summary)[1].note == "race: chance 0.97"
    assert before_export(info, summary, "RUN") == ()
    lost = with_race(compared(1.2), {0: 0.8, 3: 0.79}, winner=None, chance=0.3)
    first, _ = headline(info, summarize(lost.study, lost), "RUN")
    assert first.endswith("1.20 times its throughput; no candidate passed, this one came closest.")
    hopeless = with_race(compared(1.2), {}, winner=None, best=None, chance=None)
    first, second, *_ = headline(hopeless.record.info, summarize(hopeless.study, hopeless), "RUN")
    assert first.endswith("to be as good as the target after 5,400 steps: the race trained none to the end.")
    assert second.startswith("Trial 3 is the fastest candidate that scores at least as high as")


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


def test_one_sentence_compares_with_the_best_baseline_and_with_the_reference():
    for reference, times in (
        ("eradio_nano", 2),
        ("eradio_femto", 1),
    ):  # of the best baseline's own study the ratio is one
        study = compared(1.2, reference=reference)
        first, *_ = headline(study.info, summarize(study), "RUN")
        assert first.count("1.20 times that of") == times
        assert reference in first


def test_a_difference_smaller_than_that_of_two_equal_models_is_a_tie():
    study = compared(1.2, reference="eradio_pico")
    unequal = synthetic.timed(study, lambda t: {"ratio_low": 0.8} if t.baseline == "eradio_pico" else {})
    for which, shown in ((study, True), (unequal, False)):
        summary = summarize(which)
        tile, *_ = tiles(which.info, summary)
        assert (tile.value == "1.20×") is shown
        assert (tile.value == NO_DIFFERENCE) is not shown
        assert (
            "(95 % interval 1.14 to 1.26, from the noise of both timings, not of the scores), differs from 1 by no "
            "more than the noise (the reference, timed against itself: 25.0 %)."
            in headline(which.info, summary, "RUN")[0]
        ) is not shown


def test_the_reference_as_the_best_baseline_has_one_ratio_and_the_interval_of_the_candidate():
    """Its own timing is that against a copy of itself, which is noise."""
    study = compared(1.3, reference="eradio_femto")
    itself = {"ratio": 1.012, "ratio_low": 1.009, "ratio_high": 1.015, "verdict": "contended"}
    study = synthetic.timed(study, lambda t: itself if t.baseline == "eradio_femto" else {})
    summary = summarize(study)
    tile, *_ = tiles(study.info, summary)
    assert (tile.value, tile.note) == ("1.30×", "throughput: 95 % interval 1.26 to 1.35")
    first, *_ = headline(study.info, summary, "RUN")
    assert "1.30 times that of eradio_femto (95 % interval 1.26 to 1.35, from the noise of the timing, not of" in first
    slower = synthetic.timed(study, lambda t: {} if t.baseline else {"ratio": 1.01})
    assert summarize(slower).comparisons[1].speedup == 1.01


def test_one_candidate_that_is_best_on_both_axes_is_named_once():
    study = compared(1.2)
    _, second, _ = headline(study.info, summarize(study), "RUN")
    assert second.startswith("Trial 3 also has the highest score")
    assert "or faster. It is 0.100 higher than that of the baseline." in second
    throughput, score, _ = tiles(study.info, summarize(study))
    assert (throughput.value, throughput.note) == ("1.20×", "throughput: 95 % interval 1.16 to 1.24")
    assert throughput.label.endswith("relative to eradio_femto")
    assert score.label.endswith("minus that of eradio_femto")


def test_tiles_of_two_candidates_say_what_they_were_chosen_for():
    study = synthetic.study(150, seed=3)
    summary = summarize(study)
    faster, better = summary.comparisons
    assert faster.candidate != better.candidate
    throughput, score, _ = tiles(study.info, summary)
    best = faster.baseline.name
    assert throughput.label == f"throughput of {faster.candidate.name} relative to {best}, which scores no higher"
    assert score.label == f"score of {better.candidate.name} minus that of {best}, which is no faster"
    gain = round(faster.candidate.score, 3) - round(faster.baseline.score, 3)
    assert throughput.note.endswith(f"; score: {gain:+.3f} (no interval: each trained once)")


def test_retrained_scores_at_which_a_throughput_is_compared_have_their_interval():
    """The interval of the throughput does not cover the scores, which may differ by less than their own."""
    study = compared(5.0)
    slower = replace(study.trials[3], number=4, arch_id="4" * 12)
    slower = replace(slower, measurement=replace(slower.measurement, ratio=1.5, ratio_low=1.49, ratio_high=1.51))
    study, scores = replace(study, trials=(*study.trials, slower)), {0: 0.5, 1: 0.4, 2: 0.3, 3: 0.502, 4: 0.7}
    evidence = after_retraining(study, scores)
    summary = summarize(evidence.study, evidence)
    half = f"{summary.comparisons[0].half_width(summary.recommendation.scatter):.3f}"
    assert tiles(study.info, summary)[0].note.endswith(f"; score: +0.002 (retrained; 95 % interval ± {half})")
    first = headline(study.info, summary, "RUN")[0]
    assert f"(0.503 against 0.501; the 95 % interval of this difference is ± {half})" in first
    assert "from the noise of the timing, not of the scores)" in first
    data = prepare(study, summary)
    ring = "The ring marks the model that is recommended by scores after longer training (0.503, the baseline"
    assert front_caption(study.info, data, summary, retrained=True).startswith(ring)
    wide = [label.text for label in data.labels if label.number == 3 and not label.narrow]
    assert wide == ["#3 recommended (0.503 after longer training)"], "the chart has the search's score, 0.5"
    assert before_export(study.info, summary, "RUN") == ()


def test_of_timings_that_cannot_be_trusted_the_fastest_is_one_of_those_that_score_as_high():
    study = compared(1.2, verdict="contended")
    words = " ".join(headline(study.info, summarize(study), "RUN"))
    assert "Of the candidates that score at least as high as the best of the E" in words
    assert "eradio_femto, trial 3 was timed as the fastest (0.6" in words


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


def test_where_throughput_is_no_objective_the_first_sentence_is_about_the_recommended_model():
    """The fastest that scores as high as the baseline is another candidate, and another difference in score."""
    study = synthetic.study(60)
    study = synthetic.with_info(study, objectives=study.info.objectives[:1])
    summary = summarize(study)
    best, baseline = summary.recommendation.model, summary.recommendation.best_baseline
    assert summary.comparisons[0].candidate.number != best.number
    first = headline(study.info, summary, "RUN")[0]
    assert first.startswith(f"Trial {best.number} has the highest score, {best.score:.3f} against {baseline.score:.3f}")
    line = result_line(study.info, summary)
    assert f"; trial {best.number} has the highest score: {best.score:.3f} against {baseline.score:.3f} of " in line
    assert f"{summary.comparisons[0].candidate.name} scores" not in line
    doubt, _ = before_export(study.info, summary, "RUN")[0]
    gain = round(best.score, 3) - round(baseline.score, 3)
    assert (f"scores {gain:.3f} higher" in doubt) is (gain < SEED_DIFFERENCE * study_noise(study.info).deviation)
    assert f"{summary.comparisons[0].score_gain:.3f}" not in doubt


def test_a_search_whose_limits_nothing_keeps_says_where_the_reasons_are():
    for state, there in ((TrialState.INFEASIBLE, True), (TrialState.STOPPED, False)):
        study = synthetic.study(6, only=state)
        said = " ".join(headline(study.info, summarize(study), "RUN"))
        assert ("reasons under “Failed and infeasible trials”" in said) is there


SESSION = {"started": "2025-01-31T12:00:00Z", "wall_s": 60.0}


@pytest.mark.parametrize(
    ("lost", "session", "words"),
    [
        (
            3,
            {**SESSION, "ending": "out of ideas"},
            "No candidate is on a Pareto front: no architectures were evaluated (8 candidates failed; "
            "3 of 3 baselines failed).",
        ),
        (
            1,
            {**SESSION, "ending": "out of ideas"},
            "The search ended while the E‑RADIO-style baselines (small presets of this program) were being measured "
            "and trained (1 of 3 done; 1 of 3 baselines failed).",
        ),
        (0, SESSION, "No candidate is on a Pareto front yet: no architectures were evaluated (8 candidates failed)."),
        (3, {**SESSION, "wall_s": 0.0}, "No candidate is on a Pareto front yet: no architectures were evaluated"),
    ],
)
def test_a_search_without_a_result_counts_its_failures(lost, session, words):
    study = synthetic.study(8, only=TrialState.FAILED, budget=100)
    failed = [replace(t, state=TrialState.FAILED, rungs=(), measurement=None) for t in study.trials[:lost]]
    trials = (*failed, *study.trials[lost and 3 :])
    study = synthetic.with_info(replace(study, trials=trials), sessions=(session,))
    assert headline(study.info, summarize(study), "RUN")[-1].startswith(words)


def test_one_objective_has_a_ranking_and_no_front():
    study, trained = synthetic.study(60), synthetic.study(5, only=TrialState.COMPLETE)
    study = synthetic.with_info(study, objectives=study.info.objectives[:1])
    summary = summarize(study)
    best = summary.front[0].name
    *_, tile = tiles(study.info, summary)
    assert (tile.label, tile.value) == ("best by explained variance of the teachers' features", best)
    assert f"evaluated, best by explained variance of the teachers' features: {best};" in result_line(
        study.info, summary
    )
    text = render(study, summary)
    page = Page(text)
    assert "best model and the baselines" in page.words
    assert "Pareto front" not in page.words.replace("a ranking and not a Pareto front", "")
    assert ">Pareto front<" not in text, "in the legend of a chart"
    assert page.table("Ranking and baselines").body()
    assert "Ranking" in re.search(r'<nav id="contents".*?</nav>', text, re.S)[0]
    one = replace(trained, info=study.info, trials=trained.trials[3:4])
    assert "<caption>The best model." in render(one, summarize(one))
    equal = synthetic.with_info(synthetic.scored(trained, lambda t: 0.5), objectives=study.info.objectives)
    *_, tile = tiles(equal.info, summarize(equal))
    assert tile.label == "models share the best value"
    lost = synthetic.with_info(synthetic.study(6, only=TrialState.FAILED), objectives=study.info.objectives)
    assert "No candidate is in the ranking" in headline(lost.info, summarize(lost), "RUN")[-1]


@pytest.mark.parametrize("names", [("score", "params"), ("macs", "score"), ("score", "throughput", "memory")])
def test_the_ends_of_the_front_are_those_of_its_objectives(names):
    words = {"params": "parameters", "macs": "multiply-accumulates of one image"}
    shared = 0
    for seed in range(30):
        study = synthetic.study(4, seed=seed, only=TrialState.COMPLETE)
        if "memory" in names and seed % 2:
            study = synthetic.scored(study, lambda t: t.measurement.ratio / 10)
        study = synthetic.with_info(study, objectives=objectives(names, "both"))
        summary = summarize(study)
        best = max(summary.front, key=lambda s: s.score)
        by = next((name for name in names if name in words), "")
        end = min(summary.front, key=lambda s: getattr(s.trial, by)) if by else summary.front[0]
        sentence = headline(study.info, summary, "RUN")[-1]
        what = f"the best by {words[by]}" if by else "the fastest"
        if len(summary.front) == 1:
            continue
        assert f"{best.name}, has" not in sentence
        if end.trial.number == best.trial.number:
            shared += 1
            assert f"; {best.name} has the highest score (" in sentence
            assert sentence.endswith(f" and is {what}.")
        else:
            assert f" from {best.name} with the highest score (" in sentence
            assert f" to {end.name}, {what} (" in sentence
        if by:
            assert f"; {words[by]} {getattr(end.trial, by):,}" in sentence
    assert shared or names[-1] != "memory"


def test_one_retrained_model_without_baselines():
    study = compared(1.2)
    study = replace(study, info=replace(study.info, baselines=()), trials=study.trials[3:])
    trainings = [
        Retraining(3, seed, 1620, "2026-01-01", "cpu", (replace(study.trials[0].rungs[-1], steps=1620),))
        for seed in range(2)
    ]
    evidence = gather_evidence(study, trainings)
    summary = summarize(evidence.study, evidence)
    page = Page(render(evidence.study, summary, None, retraining_results(evidence)))
    words = " ".join(page.words.split())
    assert "1 model was retrained for 1620 steps with 2 seeds (" in words
    scores = "Scores are those of the search, after 540 training steps"
    assert f"{scores}; those of longer trainings are under" in words, "the caption of the chart"
    assert f"{scores}." in page.table("Pareto front and baselines").caption
    arch_id = study.trials[0].arch_id
    assert (
        "Its weights, averaged over the training (EMA), are in "
        f"RUN/retraining/1620-steps/seed-*/weights/{arch_id}.safetensors, one file per seed;"
    ) in words


def test_the_fronts_of_a_study_with_newer_timings_say_what_they_are_of():
    study = compared(1.2)
    summary = replace(summarize(study), remeasured=3)
    assert tiles(study.info, summary)[-1].note == "of 1 evaluated; by the search’s scores and the newest timings"
    found = replace(summary.recommendation, basis=RETRAINED)
    front = headline(study.info, replace(summary, recommendation=found), "RUN")[-1]
    assert "The Pareto front by the search’s scores (after 540 steps) and the newest timings is one model" in front


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


@pytest.mark.parametrize("space", [space for space in SPACES.values() if space.image_px == 64])
def test_the_baselines_of_spaces_for_64_px_are_ours_and_those_of_timm(space: Space) -> None:
    words = baseline_words(study_info(search_config(baselines=space.baselines)))
    assert re.search(r"\(small presets of this program( and networks of timm)?\)$", words)


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (("eradio_femto", "eradio_nano"), "E\u2011RADIO-style 64 px baselines (small presets of this program)"),
        (("eradio_xt", "eradio_s"), "E\u2011RADIO baselines at 64 px"),
        (("eradio_pico", "eradio_xt"), "E\u2011RADIO baselines at 64 px"),
        (("timm:resnet18",), "64 px baselines of timm"),
        (("eradio_xt", "timm:resnet18"), "64 px baselines"),
        (
            ("eradio_pico", "timm:resnet18"),
            "64 px baselines (small presets of this program and networks of timm)",
        ),
    ],
)
def test_only_our_small_presets_are_in_the_style_of_e_radio(baselines: tuple[str, ...], words: str) -> None:
    info = study_info(search_config(baselines=baselines))
    assert baseline_words(info) == words
    assert baseline_kind(info) == words.partition(" (")[0], "a legend has little room"
