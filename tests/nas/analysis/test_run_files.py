"""Which of a trial's weights are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.analysis.run_files import all_weight_files, trained_weights
from nas.study.records import RaceTraining, TrialState
from tests.nas.analysis.builders import failed, retrained, small_study


def test_the_longest_trained_weights_that_are_there_are_taken(tmp_path: Path) -> None:
    study = small_study()
    trial = study.trials[2]

    def put(folder: str) -> Path:
        path = tmp_path / folder / "weights" / f"{trial.arch_id}.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    assert trained_weights(tmp_path, study, trial, ()) is None
    own = put(".")
    retrainings = [*retrained(2, {1: 0.5, 2: 0.7, 3: 0.9}), failed(2, 4, "nan"), *retrained(1, {5: 1.0})]
    kept = trained_weights(tmp_path, study, trial, retrainings)
    assert kept is not None
    assert (kept.weights, kept.result, kept.seed) == (own, trial.rungs[-1], 0)
    put("retraining/90-steps/seed-1"), put("retraining/90-steps/seed-4")
    second = put("retraining/90-steps/seed-2")
    kept = trained_weights(tmp_path, study, trial, retrainings)
    assert kept is not None
    assert (kept.weights, kept.result.score, kept.seed) == (second, 0.7, 2)
    assert kept.heads == second.with_name(f"{trial.arch_id}.heads.safetensors")
    # Trained again, shorter and then longer: each length has its own files.
    again = [*retrainings, *(replace(f, created="2026-11-26") for f in retrained(2, {2: 0.8}, steps=60))]
    put("retraining/60-steps/seed-2")
    kept = trained_weights(tmp_path, study, trial, again)
    assert kept is not None
    assert kept.weights == second
    longest = put("retraining/900-steps/seed-2")
    kept = trained_weights(tmp_path, study, trial, [*again, *retrained(2, {2: 0.6}, steps=900)])
    assert kept is not None
    assert kept.weights == longest
    longer = [*retrainings, replace(failed(2, 2, "out of memory", steps=900), created="2026-11-26")]
    kept = trained_weights(tmp_path, study, trial, longer)
    assert kept is not None
    assert kept.weights == second, "a training that failed has written no weights"
    found = all_weight_files(tmp_path, trial.arch_id, 90, (1, 2, 3))
    assert found == [own, second.parents[2] / "seed-1/weights" / own.name, second]
    in_race = replace(trial, rungs=(replace(trial.rungs[-1], steps=900, score=0.5),))
    lost = replace(in_race, state=TrialState.FAILED)
    races = tuple(RaceTraining(2, seed, 900, 64, each) for seed, each in ((1, in_race), (2, lost)))
    of_race, _ = put("race/900-steps/seed-1"), put("race/900-steps/seed-2")
    kept = trained_weights(tmp_path, replace(study, races=races), trial, retrainings)
    assert kept is not None
    assert (kept.weights, kept.result.steps, kept.origin) == (of_race, 900, "race, seed 1")
    stopped = replace(trial, state=TrialState.STOPPED)
    assert trained_weights(tmp_path, study, stopped, ()) is None
