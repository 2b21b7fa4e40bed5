"""The loop of trainings that are all planned beforehand, free of Ray and torch: each is kept when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from nas.study.records import TrialRecord, TrialState
from nas.study.training_loop import Job, TrainingLoop


class PlannedTrainings(TrainingLoop):
    """One session of a retraining or a pilot; its jobs are the numbers of trials and seeds.

    Args:
        trials: The candidates.
        jobs: The trainings that are missing, in their order.
        keep: Takes the record of each training that has ended.
        listener: Called after every record.
    """

    def __init__(
        self,
        trials: Collection[TrialRecord],
        jobs: Sequence[Job],
        keep: Callable[[Job, TrialRecord], None],
        listener: Callable[[PlannedTrainings], None],
    ) -> None:
        super().__init__({trial.number: trial for trial in trials}, {})
        self._planned, self._keep, self._listener = tuple(jobs), keep, listener

    @property
    def wanted(self) -> Sequence[Job]:
        """Return the trainings that have not ended."""
        return [job for job in self._planned if job not in self._jobs or self._jobs[job].state is TrialState.RUNNING]

    @property
    def steps(self) -> int:
        """Return the steps that all trainings together have behind them, up to their last rungs."""
        return sum(record.rungs[-1].steps for record in self._jobs.values() if record.rungs)

    def store(self, job: Job, record: TrialRecord) -> None:
        """Keep the record of a training that has ended; the state of another one is in its checkpoint."""
        if record.state is not TrialState.RUNNING:
            self._keep(job, record)

    def stored(self) -> None:
        """Call the listener."""
        self._listener(self)
