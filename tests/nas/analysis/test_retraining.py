"""From records to a summary: who is on the front, how likely, and whether the order held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nas.analysis.evidence import gather_evidence
from nas.analysis.noise import assumed_scatter
from nas.analysis.plots import FELL_OFF, plot_retraining
from nas.analysis.retraining import (
    RetrainingSummary,
    metric_scatter,
    rank_correlations,
    retraining_json,
    retraining_notes,
    summarize_retraining,
)
from nas.analysis.selecting import answer
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.records import Retraining, StudyRecord, TrialState
from nas.study.timing_doubts import WRONG_OUTPUT
from tests.nas.analysis.builders import failed, new_store, remeasured_for_retraining, retrained, small_study
from tests.nas.study.builders import measurement

# After longer training 5 is clearly better than 2; 1 and 3 do not change.
SCORE_LABELS = {1: (0.30, 0.31, 0.32), 2: (0.50, 0.51, 0.52), 3: (0.70, 0.71, 0.72), 5: (0.60, 0.61, 0.62)}
RATIOS = {0: 1.0, 1: 4.0, 2: 2.0, 3: 1.0, 5: 2.1}


def retrainings() -> list[Retraining]:
    return [
        f for n, values in SCORE_LABELS.items() for f in retrained(n, dict(enumerate(values, 1)), at_30=0.2 + n / 100)
    ]


def summary(study: StudyRecord | None = None, again: list[Retraining] | None = None) -> RetrainingSummary:
    again = retrainings() if again is None else again
    result = summarize_retraining(study or small_study(), again, [remeasured_for_retraining(RATIOS)])
    assert result is not None
    return result


def test_metrics_scatter_between_seeds_as_scores_do_and_one_of_a_single_seed_is_left_out() -> None:
    again = []
    for training in retrainings():
        score = training.rungs[-1].score
        metrics = {"edge_ap": score / 2} | ({"knn": score} if training.seed == 1 else {})
        again.append(replace(training, rungs=(*training.rungs[:-1], replace(training.rungs[-1], metrics=metrics))))
    found = metric_scatter(summary(again=again))
    assert set(found) == {"edge_ap"}
    assert (found["edge_ap"].sd, found["edge_ap"].degrees) == (pytest.approx(0.005), 8)
    shown = retraining_json(small_study(), summary(again=again))["metric_scatter"]
    assert shown["edge_ap"]["sd"] == found["edge_ap"].sd


def test_candidates_leave_and_join_the_front() -> None:
    s = summary()
    assert [row.trial.number for row in s.candidates] == [1, 5, 2, 3]  # fastest first
    changes = {row.trial.number: row.change for row in s.candidates}
    assert changes == {1: "still on it", 2: "left it", 3: "still on it", 5: "joined it"}
    fronts = {row.trial.number: row.fronts for row in s.candidates}
    assert fronts == {1: "on both", 2: "left the search's front", 3: "on both", 5: "joined the retrained front"}
    chances = {row.trial.number: row.chance for row in s.candidates}
    assert chances[1] == chances[3] == chances[5] == 1
    assert chances[2] == pytest.approx(0.0, abs=0.03)
    assert (s.seeds, s.steps) == ((1, 2, 3), 90)
    assert s.scatter.sd == pytest.approx(0.01)
    assert s.scatter.degrees == 8
    assert s.scatter_at_last_rung is not None
    assert s.scatter_at_last_rung.sd == pytest.approx(0, abs=1e-12)


def test_rank_correlations_of_study_means_and_seeds() -> None:
    result = {label: c.tau for label, c in rank_correlations(summary(), 30).items()}
    # The study has 1 < 5 (0.38) < 2 (0.4) < 3, the retrainings 1 < 2 < 5 < 3: one pair of six is swapped.
    search = "search at 30 steps and "
    assert result[search + "mean of 3 seeds at 90 steps"] == pytest.approx(4 / 6)
    assert result[search + "seed 2 at 90 steps"] == pytest.approx(4 / 6)
    # With new seeds at 30 steps 1 < 2 < 3 < 5: against the study 5 is above 2 and 3, against the end above 3.
    assert result[search + "mean of the seeds at 30 steps"] == pytest.approx(2 / 6)
    assert result["mean of the seeds at 30 steps and at 90 steps"] == pytest.approx(4 / 6)
    assert result["seed 1 and seed 3, both at 90 steps"] == 1
    assert len(result) == 3 + 3 + 3


def test_a_falling_rate_makes_the_last_rung_of_longer_trainings_another_one() -> None:
    """Its scores are those of trainings that the study has none of, unless both have the same length."""
    study = small_study()
    config = SearchConfig.from_dict(study.info.config)
    config = replace(config, distill=replace(config.distill, schedule="cosine"))
    study = replace(study, info=replace(study.info, config=config.to_dict()))
    study = replace(study, trials=(*study.trials[:5], replace(study.trials[5], state=TrialState.STOPPED)))
    longer = summary(study)
    assert longer.scatter_at_last_rung is None
    assert longer.scatter.measured
    assert not any("seeds at 30" in label for label in rank_correlations(longer, 30))
    found = retraining_json(study, longer)
    assert [regret["steps"] for regret in found["early_stopping"]] == [90]
    short = [f for n in (1, 2) for f in retrained(n, {1: 0.4, 2: 0.5}, 30)]
    equal = summarize_retraining(study, [replace(f, rungs=f.rungs[-1:]) for f in short], [], 30)
    assert equal is not None
    assert equal.scatter_at_last_rung == equal.scatter
    constant = summary(small_study())
    assert constant.scatter_at_last_rung is not None


def test_only_trainings_of_one_length_are_compared() -> None:
    again = [*retrainings(), *retrained(1, {1: 0.4}, steps=900)]
    assert summary(again=again).steps == 90  # of which there are most
    longest = summarize_retraining(small_study(), again, [remeasured_for_retraining(RATIOS)], 900)
    assert longest is not None
    assert [(row.trial.number, row.mean) for row in longest.candidates] == [(1, 0.4)]
    assert longest.scatter == assumed_scatter(small_study().info)  # no candidate has two seeds
    longer = [replace(f, steps=900) for f in retrainings()]
    assert summary(again=[*retrainings(), *longer]).steps == 900  # as many, and longer
    assert summarize_retraining(small_study(), retrainings(), [remeasured_for_retraining(RATIOS)], 30) is None
    assert summarize_retraining(small_study(), [], [remeasured_for_retraining(RATIOS)]) is None


def test_longer_trainings_that_failed_do_not_hide_finished_ones() -> None:
    longer = [failed(number, 1, "out of memory", steps=900) for number in range(1, 6)]
    assert summary(again=[*retrainings(), *longer, *retrained(1, {2: 0.9}, steps=900)]).steps == 90
    assert summary(again=longer).steps == 900


def test_a_failure_leaves_the_other_seeds_and_a_candidate_without_a_measurement_has_no_chance() -> None:
    again = [f for f in retrainings() if (f.number, f.seed) != (3, 2) and f.number != 2]
    again += [failed(3, 2, "nan"), *(failed(2, seed, "out of memory") for seed in (1, 2, 3))]
    s = summarize_retraining(
        small_study(), again, [remeasured_for_retraining({n: r for n, r in RATIOS.items() if n != 1}, {1: "crash"})]
    )
    assert s is not None
    rows = {row.trial.number: row for row in s.candidates}
    assert rows[3].scores == {1: 0.70, 3: 0.72}
    assert (rows[3].chance, rows[3].reason) == (pytest.approx(1, abs=0.001), "seed 2: nan")
    assert (rows[2].mean, rows[2].chance, rows[2].fronts) == (None, None, "seed 1: out of memory")
    assert (rows[1].chance, rows[1].change) == (None, "crash")
    assert {row.trial.number for row in s.complete} == {3, 5}


def test_candidates_without_a_right_measurement_are_incomplete() -> None:
    s = summarize_retraining(small_study(), retrainings(), [])
    assert s is not None
    assert not s.complete
    wrong = replace(
        remeasured_for_retraining(RATIOS), measurements={1: replace(measurement(4.0), verdict=WRONG_OUTPUT)}
    )
    s = summarize_retraining(small_study(), retrainings(), [wrong])
    assert s is not None
    assert {row.trial.number: row.reason for row in s.candidates}[1] == WRONG_OUTPUT


def test_a_baseline_is_shown_and_takes_no_place_on_the_front() -> None:
    s = summary(again=[*retrainings(), *retrained(0, {1: 0.9, 2: 0.9})])
    rows = {row.trial.number: row for row in s.candidates}
    assert (rows[0].chance, rows[0].on_front, rows[0].change, rows[0].fronts) == (None, False, "baseline", "baseline")
    assert rows[3].chance == 1  # slower and worse than the baseline


def test_the_store_keeps_retrainings_and_reads_them_back(tmp_path: Path) -> None:
    store = new_store(tmp_path / "run", small_study())
    saved = [*retrainings(), failed(4, 1, "out of memory")]
    for final in reversed(saved):
        store.save_retraining(final)
    assert list(Store.open(tmp_path / "run").retrainings()) == sorted(saved, key=lambda f: (f.number, f.seed))
    (again,) = retrained(4, {1: 0.7})
    store.save_retraining(again)  # replaces the failure
    assert [f for f in store.retrainings() if f.number == 4] == [again]


@pytest.mark.parametrize("reason", [None, "out of memory\u2028"])
def test_a_retraining_is_json_and_back(reason: str | None) -> None:
    final = replace(retrained(7, {3: 0.5})[0], reason=reason)
    assert Retraining.from_dict(json.loads(json.dumps(final.to_dict()))) == final
    assert final.score == (0.5 if reason is None else None)


def test_the_picture_names_every_candidate(tmp_path: Path) -> None:
    again = [*retrainings(), *retrained(0, {1: 0.65, 2: 0.66})]
    plot_retraining(small_study(), summary(again=again), tmp_path / "retraining.svg")
    text = (tmp_path / "retraining.svg").read_text()
    assert all(f">{n}</text>" in text for n in SCORE_LABELS)
    assert "eradio_femto" in text
    assert FELL_OFF.label in text


def test_timings_of_a_smaller_batch_and_of_other_versions_are_left_out_and_named() -> None:
    again = remeasured_for_retraining({1: 4.0, 2: 2.1, 3: 1.0})
    small = replace(again.measurements[1], batch=12, requested_batch=16)
    again = replace(again, measurements={**again.measurements, 1: small}, environment={"torch": "2.13.0"})
    study = small_study()
    study = replace(study, info=replace(study.info, environment={"torch": "2.6.0"}))
    trainings = [r for n in (1, 2, 3) for r in retrained(n, {1: 0.5, 2: 0.6})]
    found = summarize_retraining(study, trainings, [again])
    assert found is not None
    first = next(c for c in found.candidates if c.trial.number == 1)
    assert (first.measurement, first.reason, first.on_front) == (None, "memory: only 12 of 16 images fit", False)
    assert any("torch: 2.6.0 → 2.13.0" in note for note in retraining_notes(study, found))


def test_a_baseline_has_its_own_seeds_and_interval() -> None:
    """It was retrained with more seeds than the candidates, and scatters ten times as much."""
    study = small_study()
    scores = {0: (0.30, 0.40, 0.50, 0.60), 1: (0.30, 0.31), 2: (0.50, 0.51), 3: (0.505, 0.515)}
    again = [each for n, values in scores.items() for each in retrained(n, dict(enumerate(values, 1)))]
    timings = remeasured_for_retraining({0: 1.0, 1: 4.0, 2: 2.1, 3: 2.09})
    found = summarize_retraining(study, again, [timings])
    assert found is not None
    assert found.scatter.baselines is not None
    half = found.scatter.baselines.half_width(scores[0])
    assert half == pytest.approx(3.182 * 0.1291 / 2, rel=1e-3)  # Student's t of 3 degrees of freedom
    plain = retraining_json(study, found)
    assert {c["trial"]: c["half_width"] for c in plain["candidates"]}[0] == half
    assert not any("seed 3" in correlation["between"] for correlation in plain["correlations"])

    chosen = answer(gather_evidence(study, again, [timings]), {})
    drawn = {c.trial.number: c.chance_best or 0.0 for c in (chosen.best, *chosen.runners_up) if c is not None}
    assert drawn[0] > 0.15, "its true score may be far above its mean"
