"""The points of a search that count for its hypervolume."""

from __future__ import annotations

from collections.abc import Sequence

from nas.study.pareto import Point, coordinates
from nas.study.records import Objective, TrialRecord, TrialState


def finished_points(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective]
) -> tuple[list[TrialRecord], list[Point]]:
    """Return the complete trials that count against the budget, with their points at the last rung."""
    done = [t for t in trials if t.counts and t.state is TrialState.COMPLETE]
    points = [coordinates(t, objectives, len(t.rungs) - 1) for t in done]
    return done, [p for p in points if p is not None]
