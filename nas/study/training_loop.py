"""The loop of longer trainings of a study's models, free of Ray and torch: workers are driven by its calls.

It has the calls of `StudyLoop`. Every call stores its outcome before it returns. A failed training is run again by the
rules of a trial.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from nas.study.failing_nodes import FailingNodes
from nas.study.failures import MET_BY_ALL, Failure, RetryDecision, decide_retry
from nas.study.records import TrialRecord, TrialState

Job = tuple[int, int]  # the number of a trial, and what tells its trainings apart: a seed, or the number of one


class TrainingLoop(ABC):
    """One session of trainings.

    Args:
        trials: The study's trials that may be trained, by number, with their measurements.
        jobs: Records of the trainings that have begun.
        next_number: Number of the next training's record.
        clock: Returns seconds.
        deadline_s: Time of `clock` from which on no training is begun or passes a rung.

    Attributes:
        gave_up: Why the trainings cannot go on; None while they can.
    """

    def __init__(
        self,
        trials: Mapping[int, TrialRecord],
        jobs: Mapping[Job, TrialRecord],
        next_number: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = math.inf,
    ) -> None:
        self._trials, self._jobs, self._next_number = trials, dict(jobs), next_number
        self._clock, self._deadline_s = clock, deadline_s
        self._by_number = {record.number: job for job, record in self._jobs.items()}
        self._running: set[int] = set()
        self._failing_nodes = FailingNodes()
        self.gave_up: str | None = None

    @property
    @abstractmethod
    def wanted(self) -> Sequence[Job]:
        """Return the trainings that are to be begun or continued, the next one first, running ones included."""

    @abstractmethod
    def store(self, job: Job, record: TrialRecord) -> None:
        """Write the record of a training into the study."""

    @abstractmethod
    def stored(self) -> None:
        """Take note of a record that was stored."""

    def made_elsewhere(self, job: Job, record: TrialRecord) -> TrialRecord | None:
        """Return the finished record of a training that need not be made; None for any other."""
        return None

    def is_required(self, trial: int) -> bool:
        """Return whether nothing can go on without the trainings of a trial; False."""
        return False

    @property
    def trainings(self) -> Mapping[Job, TrialRecord]:
        """Return the records of the trainings that have begun."""
        return self._jobs

    @property
    def out_of_time(self) -> bool:
        """Return whether the deadline has passed before all was done."""
        return self._clock() >= self._deadline_s and bool(self.wanted)

    @property
    def running(self) -> int:
        """Return the number of trainings that run."""
        return len(self._running)

    @property
    def finished(self) -> bool:
        """Return whether no training runs or is to be started."""
        return not self._running and (self.gave_up is not None or self.out_of_time or not self.wanted)

    @property
    def left_out(self) -> dict[str, str]:
        """Return the nodes that get no training now, and why."""
        return self._failing_nodes.left_out(self._clock())

    @property
    def running_on_left_out(self) -> Counter[str]:
        """Return how many trainings still run on each node that is left out."""
        return self._failing_nodes.still_running(self._running, self._clock())

    def propose_ahead(self) -> None:  # noqa: B027
        """Do nothing: the next training is known at once."""

    def next_trial(self) -> TrialRecord | None:
        """Return the next training to run, already stored; None while there is none to start."""
        while self.gave_up is None and self._clock() < self._deadline_s:
            wanted = [job for job in self.wanted if self._number(job) not in self._running]
            if not wanted:
                return None
            record = self._start(wanted[0])
            if record.state is TrialState.RUNNING:
                self._running.add(record.number)
                return replace(record, rungs=())  # the worker reports them again
        return None

    def is_wanted(self, number: int) -> bool:
        """Return whether a running training may still matter; its result would otherwise change nothing."""
        return self._by_number[number] in self.wanted

    def job(self, number: int) -> Job:
        """Return the job of a training."""
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
        begun = {record.arch_id for record in self._jobs.values() if record.state is TrialState.RUNNING}
        delete_all_but(begun | {self._trials[trial].arch_id for trial, _ in self.wanted})

    def _number(self, job: Job) -> int | None:
        return self._jobs[job].number if job in self._jobs else None

    def _start(self, job: Job) -> TrialRecord:
        """Return the stored record of a training that begins or continues, or that was made elsewhere."""
        if job in self._jobs:
            return self._jobs[job]
        record = replace(
            self._trials[job[0]], number=self._next_number, state=TrialState.RUNNING, reason=None, rungs=(), tries=1,
            failure=None, started_s=None, finished_s=None, worker=None, expected=None,
        )  # fmt: skip
        self._next_number += 1
        record = self.made_elsewhere(job, record) or record
        self._by_number[record.number] = job
        self._save(record)
        return record

    def _save(self, record: TrialRecord) -> None:
        job = self._by_number[record.number]
        if job in self._jobs:  # rungs that an earlier run has reached stay
            record = replace(record, rungs=(*record.rungs, *self._jobs[job].rungs[len(record.rungs) :]))
        self.store(job, record)
        self._jobs[job] = record
        if record.state is not TrialState.RUNNING:
            self._running.discard(record.number)
        self.stored()

    def _decide_retry(self, record: TrialRecord) -> RetryDecision:
        stored = self.record(record.number)
        confirmed = stored.failure is record.failure or self._failing_nodes.met_elsewhere(record)
        rungs = max(len(record.rungs), len(stored.rungs))
        required = self.is_required(self._by_number[record.number][0])
        decision = decide_retry(record.failure, record.tries, required, confirmed, rungs)
        if required and decision is RetryDecision.FAILED and record.failure not in MET_BY_ALL:
            return RetryDecision.END  # without its score nothing can be decided
        return decision
