"""The trials of a study, counted as they come: what a loop asks at every step costs no pass over all of them. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from nas.study.pareto import Point, coordinates, front, hypervolume, reference_point
from nas.study.records import Objective, TrialRecord, TrialState


class TrialTable(dict[int, TrialRecord]):
    """Number -> record; assign a newer record of a trial to count it in the place of the older."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self._objectives = objectives
        self.running: set[int] = set()  # numbers, whoever runs them
        self.architectures: set[str] = set()  # ids
        self.baselines: set[str] = set()  # arch names
        self.counts: Counter[TrialState] = Counter()  # baselines aside
        self.evaluated = 0  # what the budget counts
        self.under_way = 0  # running trials that may come to count
        self._rungs: defaultdict[int, dict[int, Point]] = defaultdict(dict)  # rung -> number -> point, baselines aside
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
            self._place(number, record)

    def points(self, rung: int, but: int) -> list[Point]:
        """Where the sampled trials that reached `rung` stand there, without trial `but`."""
        return [point for number, point in self._rungs[rung].items() if number != but]

    def front_summary(self) -> tuple[int, float]:
        """Size of the front of the complete trials, and its hypervolume."""
        if self._front is None:
            points = list(self._finished.values())
            self._front = len(front(points)), hypervolume(points, reference_point(self._objectives))
        return self._front

    def _place(self, number: int, record: TrialRecord) -> None:
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
            self.under_way += by * (record.state is TrialState.RUNNING)
