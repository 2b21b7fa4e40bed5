"""What a search shows while it runs, and its remaining time, on a simulated clock."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from nas.backend.simulated import Cluster
from nas.plan.forecast import Candidate, Workload, simulate_candidates
from nas.run_folder import checkpoint_path
from nas.search.progress import MIN_EVALUATED, SearchProgress, preliminaries, recovered
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord
from tests.nas.study.builders import measurement, rung, search_config
from tests.nas.study.searches import drive, new_store, reopen, started, work

TIMES = (Candidate(1.5, (3.0, 6.0, 18.0)), Candidate(2.0, (5.0, 9.0, 30.0)))
BASELINE = Candidate(0.0, (80.0,) * 3, (0.0,) * 3)  # far longer than a candidate


def estimates(
    workers: int, deadline_s: float = math.inf, budget: int = 200, seed: int = 0
) -> tuple[float, list[tuple[float, int, str]]]:
    """Return the seconds of a simulated search, and its (second, evaluated, estimate) after every record."""
    progress = SearchProgress(Console(file=io.StringIO()))
    made: list[tuple[float, int, str]] = []

    def listener(loop: StudyLoop, record: TrialRecord) -> None:
        progress(loop, record)
        made.append((loop.session_s, loop.evaluated, progress.eta(loop)))

    config, workload = SearchConfig(budget=budget), Workload(TIMES, learning=0.4, seed=seed)
    result = simulate_candidates(
        config, workload.draw, Cluster(1, workers), [BASELINE] * 3, listener=listener, deadline_s=deadline_s
    )
    return result.wall_s, made


def known(eta: str) -> bool:
    return not eta.startswith("known")


def seconds(eta: str) -> float:
    parts = [int(part) for part in eta.removeprefix("roughly ").split(":")]
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


@pytest.mark.parametrize("workers", [1, 8])
def test_the_estimate_is_near_the_truth_although_baselines_take_long(workers: int) -> None:
    wall_s, made = estimates(workers)
    assert not any(known(eta) for _, evaluated, eta in made if evaluated < max(MIN_EVALUATED, workers))
    shares = {n: seconds(eta) / (wall_s - now_s) for now_s, n, eta in made if known(eta) and n <= 180}
    assert 0.5 < min(shares.values()) <= max(shares.values()) < 2.6, "the first are all measured"
    assert max(share for evaluated, share in shares.items() if evaluated >= 50) < 1.7


def test_without_an_estimate_the_candidates_that_it_waits_for_are_counted() -> None:
    _, made = estimates(2, budget=20)
    counted = dict.fromkeys(eta for _, _, eta in made if not known(eta))
    assert list(counted) == [f"known after {n} more candidate{'s' * (n > 1)}" for n in (5, 4, 3, 2, 1)]


def test_a_small_search_has_a_rough_estimate_after_two_candidates() -> None:
    shares = []
    for seed in range(20):
        wall_s, made = estimates(2, budget=8, seed=seed)
        assert {known(eta) for _, evaluated, eta in made if evaluated < 2} == {False}
        rough = [(now_s, eta) for now_s, evaluated, eta in made if evaluated in (2, 3, 4)]
        assert all(eta.startswith("roughly ") for _, eta in rough)
        assert not any(eta.startswith("roughly ") for _, evaluated, eta in made if evaluated >= MIN_EVALUATED)
        shares += [seconds(eta) / (wall_s - now_s) for now_s, eta in rough]
    assert 0.4 < statistics.median(shares) < 2.5
    assert 0.1 < min(shares) <= max(shares) < 10


def test_the_estimate_ends_at_the_deadline() -> None:
    deadline_s = 1000
    wall_s, made = estimates(2, deadline_s=deadline_s)
    estimated = [(now_s, eta) for now_s, _, eta in made if known(eta)]
    assert wall_s < deadline_s + 30, "a rung at most"
    assert estimated
    assert all(now_s + seconds(eta) <= max(deadline_s, now_s) for now_s, eta in estimated)


class Terminal:
    """What a user sees on a terminal, on a clock that the test sets."""

    def __init__(self, folder: Path, clock: Callable[[], float] | None = None, **settings: object) -> None:
        self.now_s = 0.0
        self.progress = SearchProgress(Console(file=io.StringIO(), force_terminal=True, width=200))
        self.panels: list[RenderableType] = []
        self.progress._show = self.panels.append
        store = new_store(folder, search_config(**{"budget": 8, **settings}))
        self.loop = StudyLoop(store, self.progress, clock=clock or (lambda: self.now_s))

    def screen(self) -> str:
        """Draw the last panel, as a terminal does four times a second."""
        console = Console(file=io.StringIO(), width=200)
        console.print(self.panels[-1])
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, baselines=("eradio_femto", "eradio_pico"), scale=("timm:resnet18",))


def test_baselines_and_comparison_networks_are_counted_until_they_are_done(terminal: Terminal) -> None:
    shown = []
    for _ in range(4):
        work(terminal.loop, started(terminal.loop))
        shown.append(preliminaries(terminal.loop))
    assert shown == [
        "baselines 0 of 2, comparison networks 1 of 1",
        "baselines 1 of 2, comparison networks 1 of 1",
        "",
        "",
    ]
    assert "1/8 candidates, front " in terminal.screen()


def test_the_time_and_the_running_trials_of_the_panel_are_those_of_the_moment(terminal: Terminal) -> None:
    drive(terminal.loop, 1)
    record = started(terminal.loop)
    assert "elapsed 0:00" in terminal.screen()
    assert "now: #0 (eradio_femto) measuring" in terminal.screen()
    drawn = len(terminal.panels)
    terminal.now_s = 75.0
    assert "elapsed 1:15" in terminal.screen()
    assert len(terminal.panels) == drawn, "no event"
    record = replace(record, measurement=measurement(1.0), params=1, macs=1)
    terminal.loop.report(record)
    assert "now: #0 (eradio_femto) training to 10 steps" in terminal.screen()
    terminal.loop.report(replace(record, rungs=(rung(0, 0.5),)))
    assert "now: #0 (eradio_femto) training to 30 steps" in terminal.screen()


def test_a_resumed_search_says_what_it_has(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    first = StudyLoop(new_store(tmp_path / "run", search_config(budget=8, baselines=("eradio_pico",))))
    drive(first, 4)
    cut_off = [started(first), started(first)]
    assert recovered(StudyLoop(reopen(tmp_path / "run")), checkpoints).endswith("finished; 2 begin at step 0")
    checkpoint_path(checkpoints, cut_off[0].arch_id).touch()
    assert recovered(StudyLoop(reopen(tmp_path / "run")), checkpoints) == (
        "resumed: 3 of 8 candidates and 1 of 1 baseline finished; 1 continues from a checkpoint; 1 begins at step 0"
    )
