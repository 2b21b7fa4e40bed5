"""Simulate how much early stopping trains when many workers begin at once, and what it misses.

Command:   python -m experiments.first_wave
Hardware:  none; some minutes of one core
Expected:  docs/explanation/early_stopping.md, "Many workers"

A search of random candidates runs on the simulated clock, with the rungs and rules of a real one. Candidates are drawn:
large ones score higher and run slower, scores of early rungs are noisy. The share is that of the hypervolume of all
candidates, if each were trained to the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from nas.backend.simulated import Cluster
from nas.plan.forecast import Candidate, simulate_candidates
from nas.study.config import SearchConfig
from nas.study.objectives import objectives
from nas.study.pareto import coordinates, hypervolume, reference_point
from nas.study.records import TrialRecord, TrialState

SEEDS = 8
SEARCHES = ((200, 2), (256, 8), (256, 64), (1000, 64), (1000, 256))  # budget, workers


def drawer(seed: int) -> Callable[[int, int], Candidate]:
    """Return the function that draws the n-th candidate, whatever has finished before."""

    def draw(number: int, finished: int) -> Candidate:
        rng = random.Random(f"{seed}/{number}")
        slow, size = math.exp(rng.gauss(0, 0.4)), rng.random()
        final = 0.25 + 0.35 * size + rng.gauss(0, 0.05)
        ratio = 2 ** (4 - 4.5 * size + rng.gauss(0, 0.5))
        early = (0.6 * max(0.01, 0.8 * final + rng.gauss(0, 0.03)), 0.85 * max(0.01, 0.8 * final + rng.gauss(0, 0.015)))
        return Candidate(0.0, (slow, 2 * slow, 6 * slow), (*early, final), ratio)

    return draw


def simulated(budget: int, workers: int, seed: int) -> tuple[int, float]:
    """Return the training steps of a search, and the share of the hypervolume that its complete candidates have."""
    config = replace(SearchConfig(), budget=budget, scale=(), baselines=(), sampler="random", seed=seed)
    draw, records = drawer(seed), dict[int, TrialRecord]()
    search = simulate_candidates(
        config, draw, Cluster(workers), listener=lambda loop, record: records.update({record.number: record})
    )
    steps = config.distill.rung_steps
    added = [b - a for a, b in zip((0, *steps), steps, strict=False)]
    axes = objectives(config.objectives, config.distill.score)
    done = [t for t in records.values() if t.state is TrialState.COMPLETE and t.baseline is None]
    front = [point for t in done if (point := coordinates(t, axes, len(steps) - 1)) is not None]
    everyone = [(c.scores[-1], math.log2(c.speed)) for c in (draw(n, 0) for n in range(budget))]
    reference = reference_point(axes)
    trained = sum(n * each for n, each in zip(search.reached, added, strict=True))
    return trained, hypervolume(front, reference) / hypervolume(everyone, reference)


def table() -> list[str]:
    """Return the table: means over the seeds, and the lowest share."""
    lines = ["| candidates | workers | training steps | share of the hypervolume | lowest |", "|--:|--:|--:|--:|--:|"]
    for budget, workers in SEARCHES:
        found = [simulated(budget, workers, seed) for seed in range(SEEDS)]
        shares = [share for _, share in found]
        mean = fmean(steps for steps, _ in found)
        cells = (f"{mean:,.0f}", f"{100 * fmean(shares):.1f} %", f"{100 * min(shares):.1f} %")
        lines.append(f"| {budget:,} | {workers} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
