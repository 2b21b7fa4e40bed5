"""Find the weights of a trial and the raw samples of its timing in a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.analysis.selecting import Latencies
from nas.files import parse_json
from nas.run_folder import heads_file, race_folder, retraining_folder, samples_folder, weights_file
from nas.study.records import Retraining, RungResult, StudyRecord, TrialRecord, TrialState
from nas.study.training_files import is_training


def latencies_s(folder: Path, arch_id: str) -> list[float]:
    """Read the seconds of the single-image calls whose median is the latency; empty where the file is missing."""
    try:
        samples = parse_json((folder / f"{arch_id}.json").read_bytes())["latencies_s"]
        return [float(sample) for sample in samples if sample > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def recorded_latencies(run_dir: Path) -> Latencies:
    """Return a function that reads a candidate's single-image calls, of the search or of a remeasurement."""

    def latencies(remeasurement: str | None, arch_id: str) -> list[float]:
        return latencies_s(samples_folder(run_dir, remeasurement), arch_id)

    return latencies


@dataclass(frozen=True)
class TrainedWeights:
    """One training's averaged weights (EMA) on disk. `origin` names the training in words."""

    weights: Path
    result: RungResult  # of the same training, at its end
    seed: int
    origin: str

    @property
    def heads(self) -> Path:
        """Return the file of the teachers' adaptor heads of the same training."""
        return heads_file(self.weights)


def trained_weights(
    run_dir: Path, study: StudyRecord, trial: TrialRecord, retrainings: Sequence[Retraining]
) -> TrainedWeights | None:
    """Return a trial's existing weights with most training steps, the best score of equals; None where there are none.

    A retraining that ends overwrites the file of an earlier one of the same length and seed, so only the last one of
    them counts; one that fails overwrites nothing.
    """
    candidates = []
    searched = weights_file(run_dir, trial.arch_id)
    if trial.state is TrialState.COMPLETE and trial.rungs and searched.is_file():
        seed = int(study.info.config.get("seed", 0))
        origin = "the training's last step" if is_training(run_dir) else "the search's last rung"
        candidates.append(TrainedWeights(searched, trial.rungs[-1], seed, origin))
    ended = [r for r in retrainings if r.number == trial.number and r.score is not None]
    last = {(r.steps, r.seed): r for r in sorted(ended, key=lambda r: r.created)}
    for (steps, seed), retraining in last.items():
        file = weights_file(retraining_folder(run_dir, steps, seed), trial.arch_id)
        if file.is_file():
            candidates.append(TrainedWeights(file, retraining.rungs[-1], seed, f"retraining, seed {seed}"))
    for race in (race for race in study.races if race.number == trial.number):
        file = weights_file(race_folder(run_dir, race.steps, race.seed), trial.arch_id)
        if race.record.state is TrialState.COMPLETE and file.is_file():
            candidates.append(TrainedWeights(file, race.record.rungs[-1], race.seed, f"race, seed {race.seed}"))
    return max(candidates, key=lambda w: (w.result.steps, w.result.score), default=None)


def all_weight_files(run_dir: Path, arch_id: str, steps: int, seeds: Iterable[int]) -> list[Path]:
    """Return an architecture's existing weight files: the search's, then those of retrainings of one length by seed."""
    folders = [run_dir, *(retraining_folder(run_dir, steps, seed) for seed in seeds)]
    return [file for folder in folders if (file := weights_file(folder, arch_id)).is_file()]
