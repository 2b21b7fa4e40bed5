"""Decide from a study and a user's settings what is retrained and how: configuration, seeds, jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.analysis.run_files import retraining_folder
from nas.backend.pool import TrainingJob, visible_gpus
from nas.cli import cpu_count
from nas.measure.environment import torch_device
from nas.retrain.arguments import RetrainSettings
from nas.study.config import ConfigError, SearchConfig
from nas.study.records import Retraining, Study, TrialRecord

LENGTHENING = 3  # times the study's last rung


@dataclass(frozen=True)
class RetrainingPlan:
    """All candidates with all seeds, and how they are trained."""

    config: SearchConfig  # the study's, but for device, rungs and ranks
    run_dir: Path
    trials: tuple[TrialRecord, ...]
    seeds: tuple[int, ...]
    workers: int
    gpus: tuple[str, ...]  # what CUDA_VISIBLE_DEVICES calls them; empty on a CPU

    @property
    def steps(self) -> int:
        """Return the steps of each training."""
        return self.config.distill.rung_steps[-1]

    def remaining(self, retrainings: Iterable[Retraining]) -> list[TrainingJob]:
        """Return what has not trained to its end, failures included, seed by seed, so that all have one seed soon."""
        done = {(r.number, r.seed) for r in retrainings if r.steps == self.steps and r.score is not None}
        return [
            TrainingJob(trial, replace(self.config, seed=seed), retraining_folder(self.run_dir, seed))
            for seed in self.seeds
            for trial in self.trials
            if (trial.number, seed) not in done
        ]


def plan_retraining(study: Study, trials: Sequence[TrialRecord], settings: RetrainSettings) -> RetrainingPlan:
    """Return the plan; ConfigError where the trainings would be shorter than the study's."""
    own = SearchConfig.from_dict(study.info.config)
    last = study.info.rung_steps[-1]
    steps = settings.steps or LENGTHENING * last
    if steps < last:
        raise ConfigError(f"--steps: {steps}: must be {last} or more, where the study's last rung is")
    rungs = (*(s for s in study.info.rung_steps if s < steps), steps)
    # One process a training: the ranks of a study share batches and their statistics, so one is worth as much.
    distill = replace(own.distill, rung_steps=rungs, ranks=1)
    config = replace(own, distill=distill, device=torch_device(settings.device or own.device).type)
    gpus = visible_gpus() if config.device == "cuda" else ()
    seeds = tuple(own.seed + 1 + i for i in range(settings.seeds))  # the study's own is not among them
    workers = settings.workers or len(gpus) or cpu_count() or 1
    return RetrainingPlan(config, settings.run, tuple(trials), seeds, workers, gpus)
