"""From what a person asked for and what a study holds to what is trained: settings, teachers, tasks."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.config import ConfigError, SearchConfig
from nas.finals.crew import Task
from nas.finals.worker import Places
from nas.places import cache_root, checkpoint_interval_s, lock_dir
from nas.progress import StageProgress
from nas.records import Finalist, Study, TrialRecord
from nas.store import StoreError

LONGER = 3  # times the study's last rung
FOLDER = "finals"  # in the run's folder


@dataclass(frozen=True)
class Plan:
    """All finalists with all seeds, and how they are trained."""

    config: SearchConfig  # the study's, but for device, rungs and ranks
    trials: tuple[TrialRecord, ...]
    seeds: tuple[int, ...]
    workers: int
    cards: tuple[str, ...]  # on CUDA, what CUDA_VISIBLE_DEVICES says of each

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.config.distill.rung_steps[-1]

    def left(self, finals: Iterable[Finalist]) -> list[Task]:
        """What was not trained to its end yet, failures included; seed by seed, so that all nets have one soon."""
        done = {(f.number, f.seed) for f in finals if f.steps == self.steps and f.quality is not None}
        tasks = [Task(trial, seed) for seed in self.seeds for trial in self.trials]
        return [task for task in tasks if (task.trial.number, task.seed) not in done]


def planned(study: Study, trials: Sequence[TrialRecord], given: Namespace) -> Plan:
    """The plan; what was not given is as in the study. ConfigError where it cannot be."""
    own = SearchConfig.from_dict(study.info.config)
    last = study.info.rung_steps[-1]
    steps = given.steps or LONGER * last
    if steps < last:
        raise ConfigError(f"--steps: {steps}: must be {last} or more, where the study's last rung is")
    rungs = (*(s for s in study.info.rung_steps if s < steps), steps)
    # One process a training: the ranks of a study share batches and their statistics, so one is worth as much.
    distill = replace(own.distill, rung_steps=rungs, ranks=1)
    config = replace(own, distill=distill, device=_device(given.device or own.device))
    cards = _cards() if config.device == "cuda" else ()
    seeds = tuple(own.seed + 1 + i for i in range(given.seeds))  # the study's own is not among them
    return Plan(config, tuple(trials), seeds, given.workers or len(cards) or _cpus(), cards)


def places(plan: Plan, run_dir: Path, targets: Path) -> Places:
    """What the processes need to know."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    return Places(
        config=json.dumps(plan.config.to_dict()),
        targets=str(targets.resolve()),
        lock_dir=str(lock_dir()),
        folder=str(folder.resolve()),
        threads=max(1, _cpus() // plan.workers),
        checkpoint_s=checkpoint_interval_s(),
    )


def opened_targets(study: Study, given: Namespace, progress: StageProgress) -> Path:
    """The study's teachers and images in the cache, built where they are missing; the path of their set.

    StoreError where they are not those of the study.
    """
    from nas.cache import open_targets

    config = SearchConfig.from_dict(study.info.config)
    targets = open_targets(
        config.data,
        config.teachers,
        root=cache_root(given.cache),
        train_images=config.train_images,
        val_images=config.val_images,
        image_px=config.distill.image_px,
        grid=config.grid,
        seed=0,  # of the generated images, as in every search
        views=config.views,
        storage=config.storage,
        weights=given.teacher,
        progress=progress,
        announce=lambda line: print(line, file=sys.stderr),
    )
    now = {name: teacher.fingerprint for name, teacher in targets.teachers.items()}
    if now != study.info.teachers:
        raise StoreError(f"the study was trained with teachers {study.info.teachers}, now they are {now}")
    if targets.data_fingerprint != study.info.data["fingerprint"]:
        raise StoreError(f"the images of {study.info.data['name']!r} are not those of the study")
    return targets.path


def _device(name: str) -> str:
    """ "cpu" or "cuda"."""
    from nas.measure.environment import torch_device

    return torch_device(name).type


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cards() -> tuple[str, ...]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(visible.split(",")) if visible else tuple(str(i) for i in range(torch.cuda.device_count()))
