"""Plan a retraining from a study and a user's settings: configuration, seeds, trainings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.analysis import RETRAINED_TIMES_LONGER
from nas.backend.worker_spec import recipe_here
from nas.local_workers import default_workers, visible_gpus
from nas.measure.environment import torch_device
from nas.retrain.arguments import RetrainSettings
from nas.run_folder import retraining_folder
from nas.search.settings import absolute_data
from nas.study.config import SearchConfig
from nas.study.records import Retraining, StudyRecord, TrialRecord
from nas.study.training_loop import Job
from nas.validation import ConfigError

NUMPY_SEEDS = 2**32  # seeds are those of NumPy


@dataclass(frozen=True)
class RetrainingPlan:
    """Candidates and seeds of a retraining, and the configuration of its trainings."""

    config: SearchConfig  # the study's without limits, with other device and rungs, ranks for where it runs
    run_dir: Path
    trials: tuple[TrialRecord, ...]
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    workers: int  # trainings at a time on this machine

    @property
    def steps(self) -> int:
        """Return the steps of each training."""
        return self.config.distill.rung_steps[-1]

    @property
    def numbers(self) -> frozenset[int]:
        """Return the numbers of the candidates."""
        return frozenset(trial.number for trial in self.trials)

    def folder(self, seed: int) -> Path:
        """Return the folder of the trainings with a seed."""
        return retraining_folder(self.run_dir, self.steps, seed)

    def remaining(self, retrainings: Iterable[Retraining]) -> list[Job]:
        """Return trial and seed of the unfinished and failed trainings, so that all candidates have one seed early."""
        done = {(r.number, r.seed) for r in retrainings if r.steps == self.steps and r.score is not None}
        return [
            (trial.number, seed)
            for seed in max(self.seeds, self.baseline_seeds, key=len)
            for trial in self.trials
            if seed in self.seeds_of(trial) and (trial.number, seed) not in done
        ]

    def seeds_of(self, trial: TrialRecord) -> tuple[int, ...]:
        """Return the seeds of a trial's trainings."""
        return self.baseline_seeds if trial.baseline else self.seeds

    @property
    def total(self) -> int:
        """Return the number of trainings, finished ones included."""
        return sum(len(self.seeds_of(trial)) for trial in self.trials)


def plan_retraining(study: StudyRecord, trials: Sequence[TrialRecord], settings: RetrainSettings) -> RetrainingPlan:
    """Return the plan; ConfigError where the trainings would be shorter than the study's."""
    searched = SearchConfig.from_dict(study.info.config)
    last = study.info.rung_steps[-1]
    steps = settings.train_steps or RETRAINED_TIMES_LONGER * last
    if steps < last:
        raise ConfigError(f"--train-steps: {steps}: must be {last} or more, the steps of the study's last rung")
    rungs = (*(s for s in study.info.rung_steps if s < steps), steps)
    device = torch_device(settings.device or "auto").type
    gpus = visible_gpus() if device == "cuda" else ()
    distill = replace(searched.distill, rung_steps=rungs)
    if settings.address is None:
        distill = recipe_here(distill, gpus)
    data = searched.data if settings.data is None else absolute_data(settings.data)
    config = replace(searched, distill=distill, device=device, data=data, limits={})
    number = max(settings.seeds, settings.baseline_seeds or 0)
    seeds = tuple((searched.seed + 1 + i) % NUMPY_SEEDS for i in range(number))  # other ones than the study's
    of_baselines = seeds[: settings.baseline_seeds or settings.seeds]
    workers = settings.workers or len(gpus) // distill.ranks or default_workers(device, ranks=1)
    of_candidates = seeds[: settings.seeds]
    return RetrainingPlan(config, settings.run, tuple(trials), of_candidates, of_baselines, workers)
