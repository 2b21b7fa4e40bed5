"""Which net is meant, and which of its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.exporting.choice import ExportError, best, chosen
from nas.exporting.kept import kept_weights
from nas.objectives import objectives
from nas.records import Study, TrialState
from reports.summary import summarize
from tests.nas.finals.builders import failed, trained
from tests.nas.reranking.builders import small_study


@pytest.mark.parametrize("baseline", [0.1, 0.3, 0.38, 0.4, 0.5, 0.6])
def test_best_is_what_the_report_headlines(baseline: float) -> None:
    points = {0: (baseline, 1.0), 1: (0.2, 4.0), 2: (0.4, 2.0), 3: (0.6, 1.0), 4: (0.35, 1.5), 5: (0.4, 1.99)}
    study = small_study(points)
    headline = summarize(study).fastest_as_good
    assert headline is not None
    assert best(study).number == headline.found.trial.number


def test_best_without_one_as_good_as_the_baseline_is_the_best() -> None:
    assert best(small_study({0: (0.9, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0), 3: (0.6, 3.0)})).number == 3
    study = small_study({0: (0.9, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0)})
    assert best(Study(study.info, study.trials[1:])).number == 2


@pytest.mark.parametrize("names", [("quality",), ("quality", "latency"), ("params", "quality")])
def test_best_where_throughput_was_no_objective_is_the_best(names: tuple[str, ...]) -> None:
    study = small_study({0: (0.1, 1.0), 1: (0.2, 4.0), 2: (0.6, 2.0), 3: (0.5, 3.0)})
    assert best(study).number == 1
    study = Study(replace(study.info, objectives=objectives(names, "both")), study.trials)
    assert best(study).number == 2


def test_a_number_comes_before_a_beginning_and_a_beginning_may_be_anyones() -> None:
    study = small_study()
    ids = ["1000aaaaaaaa", "20bbbbbbbbbb", "20cccccccccc", "12345678dddd", "eeeeeeeeeeee", "eeeeeeeeeeee"]
    trials = [replace(t, arch_id=arch_id) for t, arch_id in zip(study.trials, ids, strict=True)]
    trials[4] = replace(trials[4], state=TrialState.DUPLICATE)
    study = Study(study.info, tuple(trials))
    assert chosen(study, "1").number == 1
    assert chosen(study, "1000a").number == 0
    assert chosen(study, "12345678").number == 3
    assert chosen(study, "20c").number == 2
    assert chosen(study, "e").number == 5
    # Digits alone are a number, also of a trial that is not there, or that is another's duplicate.
    for which in ("20", "1000", "1234567", "4"):
        with pytest.raises(ExportError, match=f"no trial '{which}'"):
            chosen(study, which)
    trials[1] = replace(trials[1], arch_id="20cbbbbbbbbb")
    study = Study(study.info, tuple(trials))
    for which, words in (("20c", "20cbbbbbbbbb, 20cccccccccc"), ("f", "no trial 'f'"), ("", "no trial ''")):
        with pytest.raises(ExportError, match=words):
            chosen(study, which)


def test_the_longest_trained_weights_that_are_there_are_taken(tmp_path: Path) -> None:
    study = small_study()
    trial = study.trials[2]

    def put(folder: str) -> Path:
        path = tmp_path / folder / "weights" / f"{trial.arch_id}.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    assert kept_weights(tmp_path, study, trial, ()) is None
    own = put(".")
    finals = [*trained(2, {1: 0.5, 2: 0.7, 3: 0.9}), failed(2, 4, "nan"), *trained(1, {5: 1.0})]
    kept = kept_weights(tmp_path, study, trial, finals)
    assert kept is not None
    assert (kept.weights, kept.result, kept.seed) == (own, trial.rungs[-1], 0)
    first, second = put("finals/seed-1"), put("finals/seed-2")
    put("finals/seed-4")
    kept = kept_weights(tmp_path, study, trial, finals)
    assert kept is not None
    assert (kept.weights, kept.result.quality, kept.seed) == (second, 0.7, 2)
    assert kept.heads == second.with_name(f"{trial.arch_id}.heads.safetensors")
    # Trained again, shorter: its file has taken the place of the longer training's.
    again = [*finals, *(replace(f, created="2026-11-26") for f in trained(2, {2: 0.8}, steps=60))]
    kept = kept_weights(tmp_path, study, trial, again)
    assert kept is not None
    assert kept.weights == first
    stopped = replace(trial, state=TrialState.STOPPED)
    assert kept_weights(tmp_path, study, stopped, ()) is None
