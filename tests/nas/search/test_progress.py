"""The remaining time of a search, on a simulated clock."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from nas.backend.simulated import Cluster
from nas.plan.forecast import Candidate, TrialTimes, Workload, simulate_candidates
from nas.search.progress import MIN_EVALUATED, SearchProgress
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord

TIMES = (TrialTimes(1.5, (3.0, 6.0, 18.0)), TrialTimes(2.0, (5.0, 9.0, 30.0)))
BASELINE = Candidate(0.0, (80.0,) * 3, (0.0,) * 3)  # far longer than a candidate


def estimates(workers: int, deadline_s: float = math.inf) -> tuple[float, list[tuple[float, int, str]]]:
    """Return the seconds of a simulated search, and its (second, evaluated, estimate) after every record."""
    progress = SearchProgress(Console(file=io.StringIO()))
    made: list[tuple[float, int, str]] = []

    def listener(loop: StudyLoop, record: TrialRecord) -> None:
        progress(loop, record)
        made.append((loop.session_s, loop.evaluated, progress.eta(loop)))

    config, workload = SearchConfig(budget=200), Workload(TIMES, learning=0.4)
    result = simulate_candidates(
        config, workload.draw, Cluster(1, workers), [BASELINE] * 3, listener=listener, deadline_s=deadline_s
    )
    return result.wall_s, made


def seconds(eta: str) -> float:
    parts = [int(part) for part in eta.split(":")]
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_estimate_is_near_the_truth_although_baselines_take_long(workers: int) -> None:
    wall_s, made = estimates(workers)
    assert {eta == "?" for _, evaluated, eta in made if evaluated < max(MIN_EVALUATED, workers)} == {True}
    shares = {n: seconds(eta) / (wall_s - now_s) for now_s, n, eta in made if eta != "?" and n <= 180}
    assert 0.5 < min(shares.values()) <= max(shares.values()) < 2.5
    assert max(share for evaluated, share in shares.items() if evaluated >= 50) < 1.7


def test_the_estimate_ends_at_the_deadline() -> None:
    deadline_s = 1000
    wall_s, made = estimates(2, deadline_s=deadline_s)
    known = [(now_s, eta) for now_s, _, eta in made if eta != "?"]
    assert wall_s < deadline_s + 30, "a rung at most"
    assert known
    assert all(now_s + seconds(eta) <= max(deadline_s, now_s) for now_s, eta in known)
