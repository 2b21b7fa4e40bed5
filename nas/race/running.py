"""Run a planned race on the workers of Ray; every training is in the study before the next one begins."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.backend.worker_spec import WorkerSpec, training_spec
from nas.cli import OperationFailed
from nas.command_log import Announce
from nas.measure.environment import code_digest, device_key
from nas.race import target_cache
from nas.race.plan import RacePlan
from nas.run_folder import CHECKPOINTS
from nas.storage.store import Store
from nas.study.race import SEEDS, Entrant, Outcome
from nas.study.race_loop import RaceLoop
from nas.study.records import RaceResult, TrialRecord, TrialState
from nas.study.training_loop import Job

if TYPE_CHECKING:
    from nas.backend.ray_tune import RayCluster
    from nas.cache import Targets

_LOG = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


class RaceFailed(RuntimeError, OperationFailed):
    """A race that cannot go on; the message is one line with the reason."""


def with_images(plan: RacePlan, targets: Targets) -> RacePlan:
    """Return a plan with as many images as the source has."""
    return replace(plan, length=replace(plan.length, images=len(targets.train) // plan.config.views))


def worker_spec(plan: RacePlan, targets: Path, seed: int, workers_per_machine: int) -> WorkerSpec:
    """Return what a worker needs for the trainings with a seed, whose folders are made."""
    return training_spec(replace(plan.config, seed=seed), plan.folder(seed), targets, workers_per_machine)


@dataclass(frozen=True)
class RaceContext:
    """What a race works with.

    Attributes:
        store: The study.
        plan: Of the race, with the images of `targets`.
        targets: Images and teachers' outputs.
        cache: Folder of the cache, which keeps the target's trainings.
        workers_per_machine: Trainings at a time on this machine, which share its CPUs.
        show: Takes a line about each finished training.
        progress: Called with the steps that are trained, of those of the trainings that have begun.
    """

    store: Store
    plan: RacePlan
    targets: Targets
    cache: Path
    workers_per_machine: int
    show: Announce
    progress: Progress = lambda stage, done, total: None
    told: set[tuple[Job, TrialState]] = field(default_factory=set)

    def finished(self, record: TrialRecord, seed: int) -> TrialRecord | None:
        """Return the record of a baseline that another study has trained; None without one."""
        return target_cache.read(self._file(record.arch_id, seed), record) if record.baseline else None

    def listen(self, loop: RaceLoop) -> None:
        """Show what has ended, keep the trainings of baselines, and show the progress."""
        records, length, wanted = loop.trainings, self.plan.length, set(loop.outcome.wanted)
        for job, record in records.items():
            told = job, record.state
            if told in self.told or (record.state is TrialState.RUNNING and (job in wanted or not record.rungs)):
                continue
            self.told.add(told)
            self.show(training_words(self.plan, loop, job))
            if record.baseline and record.state is TrialState.COMPLETE:
                target_cache.write(self._file(record.arch_id, length.seed(job[1])), record)
        done = {job: record.rungs[-1].steps if record.rungs else 0 for job, record in records.items()}
        total = sum(length.steps if job in wanted else steps for job, steps in done.items())
        self.progress("race: steps of the trainings that have begun", sum(done.values()), total)

    def _file(self, arch_id: str, seed: int) -> Path:
        config = replace(self.plan.config, seed=seed)
        origin = f"{device_key(config.device)} {code_digest()}"
        return target_cache.training_file(self.cache, config, arch_id, self.targets.fingerprint, origin)


def race_loop(context: RaceContext, deadline_s: float = math.inf) -> RaceLoop:
    """Return the loop of a race with the trainings that the study has.

    Args:
        context: The race.
        deadline_s: Time of `time.monotonic` from which on no training is begun or passes a rung.
    """
    plan, length = context.plan, context.plan.length
    stored = context.store.race_trainings()
    return RaceLoop(
        plan.race,
        length,
        plan.trials,
        [t for t in stored if (t.steps, t.images) == (length.steps, length.images)],
        context.store,
        finished=context.finished,
        listener=context.listen,
        deadline_s=deadline_s,
    )


def run_race(context: RaceContext, loop: RaceLoop, cluster: RayCluster) -> None:
    """Race until it is decided, or until the loop's deadline.

    Args:
        context: The race.
        loop: Of the race.
        cluster: Runs the trainings.

    Raises:
        RaceFailed: The target cannot be trained.
        RayError: Ray is gone.
        StoreError: The study cannot be written.
    """
    from nas.backend.ray_tune import run_study

    plan, length = context.plan, context.plan.length
    workers, folder = context.workers_per_machine, context.targets.path
    specs = {
        seed: replace(worker_spec(plan, folder, seed, workers), scratch=cluster.spec.scratch)
        for seed in map(length.seed, range(SEEDS))
    }
    record_result(context.store, plan, loop.outcome)
    run_study(
        loop,
        replace(cluster, spec=specs[length.seed(0)]),
        spec_of=lambda record: specs[length.seed(loop.job(record.number)[1])],
        advice="the same command continues",
    )
    if loop.gave_up:
        raise RaceFailed(f"the race cannot continue: {loop.gave_up}")
    if not loop.outcome.wanted:
        for seed in specs:
            shutil.rmtree(plan.folder(seed) / CHECKPOINTS, ignore_errors=True)


def record_result(store: Store, plan: RacePlan, outcome: Outcome) -> RaceResult:
    """Return how a race stands, after writing it into the study."""
    best, length, race = outcome.best, plan.length, plan.race
    result = RaceResult(
        steps=length.steps,
        images=length.images,
        seed=length.first_seed,
        target=None if outcome.target is None else outcome.target.number,
        target_score=race.target_score,
        winner=None if outcome.winner is None else outcome.winner.entrant.number,
        best=None if best is None else best.entrant.number,
        chance=None if best is None else best.chance,
        later_steps=plan.later_steps,
        decided=not outcome.wanted,
        metric=length.metric,
        out_of_reach=plan.out_of_reach,
    )
    store.update_info(lambda info: replace(info, race=result))
    return result


def training_words(plan: RacePlan, loop: RaceLoop, job: Job) -> str:
    """Return a line about a training that has ended, or that the race has left."""
    record, name = loop.trainings[job], plan.name(job[0])
    words = f"race: {name}, seed {plan.length.seed(job[1])}: "
    if record.state not in (TrialState.COMPLETE, TrialState.RUNNING):
        return f"{words}failed: {record.reason}"
    words += f"{record.rungs[-1].score:.4f} after {record.rungs[-1].steps:,} steps"
    outcome = loop.outcome
    standing = next((s for s in outcome.standings if s.entrant.number == job[0]), None)
    if record.state is TrialState.RUNNING:
        return f"{words}, which waits" + (f" (chance {standing.chance:.2f} that it passes)" if standing else "")
    if standing is None or not standing.decided or not standing.trained:
        return words
    return f"{words} ({chance_words(standing.chance, plan, outcome.target)})"


def chance_words(chance: float, plan: RacePlan, target: Entrant | None) -> str:
    """Say what a chance is of."""
    what = "the best" if target is None else f"at least as good as {plan.name(target.number)}"
    if plan.race.target_score is not None:
        what = f"at {plan.race.target_score:g} or above"
    return f"chance {chance:.2f} that it is {what} after {plan.later_steps or plan.length.steps:,} steps"
