"""Positions on the plane of score and speed allow for what another process changes in a timing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.analysis.agreement import speed_agreement
from nas.analysis.front import FrontStatus, ScoreSpeedPlane
from tests.nas.study.builders import measurement, record


def exact(ratio: float):
    return replace(measurement(ratio), ratio_low=ratio, ratio_high=ratio)


@pytest.mark.parametrize(("faster", "status"), [(1.04, FrontStatus.TIED), (1.07, FrontStatus.BEHIND)])
def test_a_candidate_is_behind_a_better_one_only_beyond_the_deviation_between_processes(
    faster: float, status: FrontStatus
) -> None:
    trials = [record(0, (0.4,), 1.0), record(1, (0.5,), faster)]
    plane = ScoreSpeedPlane(trials, {0: exact(1.0), 1: exact(faster)})
    assert plane.position(0).status is status
    assert plane.position(1).status is FrontStatus.FRONT


@pytest.mark.parametrize(("apart", "clearly"), [(1.04, 0), (1.07, 1)])
def test_a_pair_has_clearly_swapped_only_beyond_the_deviation_between_processes(apart: float, clearly: int) -> None:
    trials = [record(0, (0.4,), 1.0), record(1, (0.5,), 1.0)]
    before = ScoreSpeedPlane(trials, {0: exact(1.0), 1: exact(apart)})
    now = ScoreSpeedPlane(trials, {0: exact(apart), 1: exact(1.0)})
    found = speed_agreement(*([plane.points[n] for n in (0, 1)] for plane in (before, now)))
    assert (found.swapped, found.clearly_swapped) == (1, clearly)
