"""The loop of a race, free of Ray and torch: it has the calls of `StudyLoop` that workers are driven by.

Every call stores its outcome before it returns. A killed race continues the trainings that ran from their
checkpoints. A failed training is run again by the rules of a trial; the target is needed as a baseline is. One that
fails for good has lost.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from nas.study.failing_nodes import FailingNodes
from nas.study.failures import MET_BY_ALL, Failure, RetryDecision, decide_retry
from nas.study.horizon import LATER, MIDWAY, HorizonModel
from nas.study.race import Outcome, Race
from nas.study.records import RaceTraining, TrialRecord, TrialState

Job = tuple[int, int]  # the numbers of a trial and of a seed, from 0


class RaceStore(Protocol):
    """The study that keeps the trainings."""

    def save_race_training(self, training: RaceTraining) -> None:
        """Write a training in place of the earlier record of the same training."""


@dataclass(frozen=True)
class RaceLength:
    """What the trainings of a race have in common.

    Attributes:
        steps: Of each training.
        images: To train on.
        first_seed: Seed of the first training of each model; the others follow.
        metric: That decides beside the score; None: the score alone.
    """

    steps: int
    images: int
    first_seed: int
    metric: str | None = None

    @property
    def midway(self) -> int:
        """Return the steps after which a training is predicted again."""
        return round(MIDWAY * self.steps)

    @property
    def later(self) -> int:
        """Return the steps for which the winner is chosen where the race looks beyond its own, rounded."""
        return int(float(f"{LATER * self.steps:.2g}"))

    def seed(self, index: int) -> int:
        """Return the seed of a model's training by its number, from 0."""
        return (self.first_seed + index) % 2**32  # NumPy's seeds


def predicted(model: HorizonModel, record: TrialRecord, steps: int) -> float | None:
    """Return what a model expects of a training from the rung after `steps`; None without it, or an earlier rung.

    The slope is that from the last rung of at most half of the steps.
    """
    score = {rung.steps: rung.score for rung in record.rungs}
    if steps not in score or (first := min(score)) == steps:
        return None
    before = max((other for other in score if other <= steps / 2), default=first)
    slope = (score[steps] - score[before]) / math.log10(steps / before)
    return model.predict(score[steps], record.params or 1, slope)


class RaceLoop:
    """One session of a race.

    Args:
        race: The rules.
        length: Of the trainings.
        trials: The study's trials that may take part, by number, with their measurements.
        stored: Trainings of this race that the study has.
        store: Takes every training.
        finished: Returns the record of a training that another study has made, see `nas.race.target_cache`; None for
            one that is to be trained.
        listener: Called after every record that was stored.
        clock: Returns seconds.
        deadline_s: Time of `clock` from which on no training is begun or passes a rung.

    Attributes:
        gave_up: Why the race cannot go on; None while it can.
    """

    def __init__(
        self,
        race: Race,
        length: RaceLength,
        trials: Mapping[int, TrialRecord],
        stored: Collection[RaceTraining],
        store: RaceStore,
        *,
        finished: Callable[[TrialRecord, int], TrialRecord | None] = lambda record, seed: None,
        listener: Callable[[RaceLoop], None] = lambda loop: None,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = math.inf,
    ) -> None:
        self.race, self.length, self._trials, self._store = race, length, trials, store
        self._finished, self._listener = finished, listener
        self._clock, self._deadline_s = clock, deadline_s
        self._jobs: dict[Job, TrialRecord] = {}
        index_of = {length.seed(index): index for index in range(100)}
        for training in stored:
            if training.seed in index_of and training.number in trials:
                self._jobs[training.number, index_of[training.seed]] = training.record
        self._by_number = {record.number: job for job, record in self._jobs.items()}
        self._next_number = 1 + max(
            (training.record.number for training in stored), default=-1
        )  # of other targets, too
        self._running: set[int] = set()
        self._failing_nodes = FailingNodes()
        self.gave_up: str | None = None

    @property
    def trainings(self) -> Mapping[Job, TrialRecord]:
        """Return the records by trial and number of seed."""
        return self._jobs

    @property
    def outcome(self) -> Outcome:
        """Return where the race stands."""
        model = self.race.model
        scores: dict[int, list[float]] = {}
        metrics: dict[int, list[float]] = {}
        midway: dict[int, float] = {}
        for (number, index), record in sorted(self._jobs.items()):
            if index == 0 and model.midway is not None:
                expected = predicted(model.midway, record, self.length.midway)
                midway |= {} if expected is None else {number: expected}
            if record.state is not TrialState.RUNNING:
                failed = math.isnan(record.final_score)
                score: float | None = None if failed else record.final_score
                if model.later is not None and not failed:
                    score = predicted(model.later, record, self.length.steps)
                scores.setdefault(number, []).append(-math.inf if score is None else score)
                values = {} if failed else record.rungs[-1].metrics
                metrics.setdefault(number, []).append(values.get(self.length.metric or "", -math.inf))
        return self.race.outcome(scores, metrics, midway)

    @property
    def out_of_time(self) -> bool:
        """Return whether the deadline has passed before the race was decided."""
        return self._clock() >= self._deadline_s and bool(self.outcome.wanted)

    @property
    def running(self) -> int:
        """Return the number of trainings that run."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Return whether no training runs or is to be started."""
        return not self._running and (self.gave_up is not None or self.out_of_time or not self.outcome.wanted)

    @property
    def left_out(self) -> dict[str, str]:
        """Return the nodes that get no training now, and why."""
        return self._failing_nodes.left_out(self._clock())

    @property
    def running_on_left_out(self) -> Counter[str]:
        """Return how many trainings still run on each node that is left out."""
        return self._failing_nodes.still_running(self._running, self._clock())

    def propose_ahead(self) -> None:
        """Do nothing: a race knows its next training at once."""

    def next_trial(self) -> TrialRecord | None:
        """Return the next training to run, already stored; None while there is none to start."""
        while self.gave_up is None and self._clock() < self._deadline_s:
            wanted = [job for job in self.outcome.wanted if self._number(job) not in self._running]
            if not wanted:
                return None
            record = self._start(wanted[0])
            if record.state is TrialState.RUNNING:
                self._running.add(record.number)
                return replace(record, rungs=())  # the worker reports them again
        return None

    def is_wanted(self, number: int) -> bool:
        """Return whether a running training may still matter; its result would otherwise change nothing."""
        return self._by_number[number] in self.outcome.wanted

    def job(self, number: int) -> Job:
        """Return the trial and the number of the seed of a training."""
        return self._by_number[number]

    def record(self, number: int) -> TrialRecord:
        """Return the record of a training."""
        return self._jobs[self._by_number[number]]

    def report(self, record: TrialRecord) -> bool:
        """Store the record that a worker sent; return False if the training has to end."""
        self._failing_nodes.note(record, self._clock())
        if record.state is TrialState.FAILED and (decision := self._decide_retry(record)) is not RetryDecision.FAILED:
            if decision is RetryDecision.END:
                self.gave_up = record.reason
            record = replace(record, state=TrialState.RUNNING, tries=record.tries + (decision is RetryDecision.AGAIN))
            self._running.discard(record.number)
            self._save(record)
            return False
        self._save(record)
        goes_on = record.state is TrialState.RUNNING and self.is_wanted(record.number)
        if not goes_on or self._clock() >= self._deadline_s:
            self._running.discard(record.number)
            return False
        return True

    def report_lost(self, number: int, failure: Failure, reason: str) -> None:
        """Report a running training as failed after its worker was lost; one that nobody wants keeps its checkpoint."""
        if number in self._running and not self.is_wanted(number):
            self._running.discard(number)
        if number in self._running:
            self.report(replace(self.record(number), state=TrialState.FAILED, failure=failure, reason=reason))

    def release(self, number: int) -> None:
        """Return a training that no worker could begin, or that nobody wants any more."""
        self._running.discard(number)

    def clean_up(self, delete_all_but: Callable[[Collection[str]], None]) -> None:
        """Call `delete_all_but` with the ids of the architectures whose trainings are not finished."""
        unfinished = (record for record in self._jobs.values() if record.state is TrialState.RUNNING)
        delete_all_but({record.arch_id for record in unfinished})

    def _number(self, job: Job) -> int | None:
        return self._jobs[job].number if job in self._jobs else None

    def _start(self, job: Job) -> TrialRecord:
        """Return the stored record of a training that begins or continues, or that another study has finished."""
        if job in self._jobs:
            return self._jobs[job]
        trial = self._trials[job[0]]
        record = replace(
            trial, number=self._next_number, state=TrialState.RUNNING, reason=None, rungs=(), tries=1, failure=None,
            started_s=None, finished_s=None, worker=None, expected=None,
        )  # fmt: skip
        self._next_number += 1
        record = self._finished(record, self.length.seed(job[1])) or record
        self._by_number[record.number] = job
        self._save(record)
        return record

    def _save(self, record: TrialRecord) -> None:
        number, index = job = self._by_number[record.number]
        if job in self._jobs:  # rungs that an earlier run has reached stay
            record = replace(record, rungs=(*record.rungs, *self._jobs[job].rungs[len(record.rungs) :]))
        length = self.length
        self._store.save_race_training(RaceTraining(number, length.seed(index), length.steps, length.images, record))
        self._jobs[job] = record
        if record.state is not TrialState.RUNNING:
            self._running.discard(record.number)
        self._listener(self)

    def _decide_retry(self, record: TrialRecord) -> RetryDecision:
        number = self._by_number[record.number][0]
        stored = self.record(record.number)
        confirmed = stored.failure is record.failure or self._failing_nodes.met_elsewhere(record)
        rungs = max(len(record.rungs), len(stored.rungs))
        required = any(baseline.number == number for baseline in self.race.baselines)
        decision = decide_retry(record.failure, record.tries, required, confirmed, rungs)
        if required and decision is RetryDecision.FAILED and record.failure not in MET_BY_ALL:
            return RetryDecision.END  # without its score nothing can be decided
        return decision
