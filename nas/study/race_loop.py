"""The loop of a race.

A killed race continues the trainings that ran from their checkpoints. The target is needed as a baseline is; a
candidate whose training fails for good has lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nas.study.horizon import LATER, MIDWAY, HorizonModel
from nas.study.race import Outcome, Race
from nas.study.records import RaceTraining, TrialRecord, TrialState
from nas.study.training_loop import Job, TrainingLoop


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


class RaceLoop(TrainingLoop):
    """One session of a race; its jobs are the numbers of a trial and of a seed, from 0.

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
        self.race, self.length, self._store = race, length, store
        self._finished, self._listener = finished, listener
        index_of = {length.seed(index): index for index in range(100)}
        jobs = {
            (training.number, index_of[training.seed]): training.record
            for training in stored
            if training.seed in index_of and training.number in trials
        }
        next_number = 1 + max((training.record.number for training in stored), default=-1)  # of other targets, too
        super().__init__(trials, jobs, next_number, clock=clock, deadline_s=deadline_s)

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
    def wanted(self) -> Sequence[Job]:
        """Return the trainings that may decide the race."""
        return self.outcome.wanted

    def store(self, job: Job, record: TrialRecord) -> None:
        """Write the record of a training into the study."""
        length = self.length
        self._store.save_race_training(RaceTraining(job[0], length.seed(job[1]), length.steps, length.images, record))

    def stored(self) -> None:
        """Call the listener."""
        self._listener(self)

    def made_elsewhere(self, job: Job, record: TrialRecord) -> TrialRecord | None:
        """Return the record of a training that another study has made."""
        return self._finished(record, self.length.seed(job[1]))

    def is_required(self, trial: int) -> bool:
        """Return whether a trial is the target."""
        return any(baseline.number == trial for baseline in self.race.baselines)
