"""When each worker measured and trained which trial, as far as the records tell.

A record has the beginning and the end of a trial's last run, and the seconds of its measurement and of its rungs. The
rungs end with the trial, and the measurement ends where they begin, or follows a rung of a trial that is
measured late; what is left before them is start-up and waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas.study.records import TrialRecord

MEASURING, TRAINING, WAITING = "measuring", "training", "starting and waiting"
MAX_LANES = 64  # more could not be read
MAX_SPANS = 1200  # the longest are drawn; shorter ones would hardly be a pixel wide


@dataclass(frozen=True)
class WorkerSpan:
    """Seconds of the study that a worker spent on one trial in one way.

    Attributes:
        lane: Row of the worker. A worker that starts after another has ended takes over its row.
        worker: Node and process.
        begin_s: Seconds since the study's start.
        end_s: Seconds since the study's start.
        doing: MEASURING, TRAINING or WAITING.
        number: Number of the trial.
        name: Name of the trial.
    """

    lane: int
    worker: str
    begin_s: float
    end_s: float
    doing: str
    number: int
    name: str


def worker_spans(trials: Iterable[TrialRecord]) -> tuple[WorkerSpan, ...]:
    """Return the spans of all finished trials whose records name a worker, by lane and time.

    They are the `MAX_SPANS` longest in the first `MAX_LANES` lanes.
    """
    runs = _runs(trials)
    lanes = _lanes(runs)
    spans = [span for t in runs for span in _spans(t, lanes[t.worker or ""]) if span.lane < MAX_LANES]
    longest = sorted(spans, key=lambda span: span.begin_s - span.end_s)[:MAX_SPANS]
    return tuple(sorted(longest, key=lambda span: (span.lane, span.begin_s)))


def workers_left_out(trials: Iterable[TrialRecord]) -> int:
    """Return the number of workers that `worker_spans` leaves out, because `MAX_LANES` others ran at the same time."""
    return sum(lane >= MAX_LANES for lane in _lanes(_runs(trials)).values())


def _runs(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the finished trials whose records name a worker."""
    return [t for t in trials if t.worker is not None and t.started_s is not None and t.finished_s is not None]


def _lanes(runs: Iterable[TrialRecord]) -> dict[str, int]:
    """Return each worker's lane: the first one that is free while the worker lives."""
    lives: dict[str, tuple[float, float]] = {}
    for t in runs:
        begin, end = lives.get(t.worker or "", (t.started_s or 0.0, 0.0))
        lives[t.worker or ""] = min(begin, t.started_s or 0.0), max(end, t.finished_s or 0.0)
    free_s: list[float] = []
    lanes = {}
    for worker, (begin, end) in sorted(lives.items(), key=lambda item: item[1]):
        lane = next((i for i, free in enumerate(free_s) if free <= begin), len(free_s))
        free_s[lane : lane + 1] = [end]
        lanes[worker] = lane
    return lanes


def _spans(trial: TrialRecord, lane: int) -> list[WorkerSpan]:
    start, end = trial.started_s or 0.0, trial.finished_s or 0.0
    phases = [(TRAINING, rung.seconds) for rung in trial.rungs]
    if trial.measurement is not None:
        phases.insert(min(len(phases), trial.measured_before_rung), (MEASURING, trial.measurement.seconds))
    parts: list[tuple[str, float, float]] = []
    for doing, seconds in reversed(phases):
        begin = max(start, end - seconds)
        if parts and parts[0][0] == doing:
            parts[0] = doing, begin, parts[0][2]
        else:
            parts.insert(0, (doing, begin, end))
        end = begin
    parts.insert(0, (WAITING, start, end))
    return [
        WorkerSpan(lane, trial.worker or "", begin, until, doing, trial.number, trial.name)
        for doing, begin, until in parts
        if until > begin
    ]
