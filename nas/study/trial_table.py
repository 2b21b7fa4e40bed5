"""A study's trials with running totals, so that no step of the loop passes over all of them. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from nas.study.pareto import Point, coordinates, front, hypervolume, reference_point
from nas.study.records import Objective, TrialRecord, TrialState


class TrialTable(dict[int, TrialRecord]):
    """Map of trial number to record; a newer record of a trial replaces the older one in all totals.

    Args:
        objectives: The study's objectives.

    Attributes:
        running: Numbers of the running trials.
        architectures: Ids of all architectures.
        baselines: Names of the reference backbones that have a trial.
        counts: Number of trials in each state, without baselines.
        evaluated: Number of trials that count against the budget.
        pending: Number of running trials that may come to count.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self._objectives = objectives
        self.running: set[int] = set()
        self.architectures: set[str] = set()
        self.baselines: set[str] = set()
        self.counts: Counter[TrialState] = Counter()
        self.evaluated = 0
        self.pending = 0
        self._rungs: defaultdict[int, dict[int, Point]] = defaultdict(dict)  # rung -> number -> point, no baselines
        self._finished: dict[int, Point] = {}
        self._front: tuple[int, float] | None = None

    def __setitem__(self, number: int, record: TrialRecord) -> None:
        if number in self:
            self._count(self[number], -1)
            for points in self._rungs.values():
                points.pop(number, None)
        super().__setitem__(number, record)
        self._count(record, 1)
        self.architectures.add(record.arch_id)
        if record.baseline:
            self.baselines.add(record.baseline)
        (self.running.add if record.state is TrialState.RUNNING else self.running.discard)(number)
        if not record.baseline:
            self._add_points(number, record)

    def points(self, rung: int, exclude: int) -> list[Point]:
        """Return the objective values at `rung` of the trials that reached it, without baselines and one trial."""
        return [point for number, point in self._rungs[rung].items() if number != exclude]

    def front_summary(self) -> tuple[int, float]:
        """Return the size of the complete trials' Pareto front, and its hypervolume."""
        if self._front is None:
            points = list(self._finished.values())
            self._front = len(front(points)), hypervolume(points, reference_point(self._objectives))
        return self._front

    def _add_points(self, number: int, record: TrialRecord) -> None:
        for rung in range(len(record.rungs)):
            point = coordinates(record, self._objectives, rung)
            if point is not None:
                self._rungs[rung][number] = point
                if record.state is TrialState.COMPLETE and rung + 1 == len(record.rungs):
                    self._finished[number] = point
                    self._front = None

    def _count(self, record: TrialRecord, by: int) -> None:
        if not record.baseline:
            self.counts[record.state] += by
            self.evaluated += by * record.counts
            self.pending += by * (record.state is TrialState.RUNNING)
