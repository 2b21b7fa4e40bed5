"""Replay searches on the table to the horizon: which rungs and which objective find what lasts, for equal steps?

    python -m experiments.horizon_replays
    python -m experiments.horizon_replays --time

A search on the simulated clock proposes networks of `experiments.horizon_table` in random order, with the rungs, the
early stopping and the promotion of a real one. By "score" it compares scores at a rung; by "size" it adds what a
doubling of the parameters counts (`PER_DOUBLING`); by "predicted" it compares what a linear model of
score and parameters, fitted to the other networks at that rung, predicts for the horizon. When it has trained `STEPS`
steps, three things are judged by the scores after 2,700 steps on 30,000 images, and by what those trainings let expect
after 20,000 (`nas.study.horizon.TO_THE_END`):

- the share of the hypervolume of all networks that its complete candidates have,
- the same of those on its own front,
- the end of a race among its complete candidates (`nas.study.race`): how often a candidate won, how often rightly, its
  throughput as a share of that of the fastest network that scores as high as the target, and the steps of the race.

Networks are timed with `--time`, those that the table of hybrids has not (`nas.replay.hybrid_rows`).

Hardware:  any, a quarter of an hour; with --time this machine, otherwise idle, five minutes
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.distillation.parallel import load_rows
from experiments.horizon_findings import TARGET, first_seeds
from experiments.horizon_table import MANY, ROWS, RUNGS, table
from experiments.hybrid_timings import time_all
from nas.backend.simulated import Cluster
from nas.plan.forecast import Candidate, simulate_candidates
from nas.replay.hybrid_rows import read_rows
from nas.study.config import SearchConfig
from nas.study.horizon import TO_THE_END, HorizonModel
from nas.study.objectives import objectives
from nas.study.pareto import front, hypervolume, reference_point
from nas.study.race import Entrant, Race
from nas.study.records import TrialRecord

TIMINGS = Path(__file__).parent / "results" / "horizon_timings.json.gz"
LADDERS = (
    (270,), (90, 270), (30, 90, 270), (30, 270), (810,), (30, 90, 270, 810), (90, 270, 810), (30, 90, 270, 810, 2700)
)  # fmt: skip
DEFAULT = (30, 90, 270)
HEAD = (
    "| rungs | by | steps | candidates | all complete | its front | less the default's | won | rightly | speed |"
    " race steps |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)
SEEDS, STEPS = 200, 3_000
WITH_MORE = (((30, 90, 270, 810), 4_900), ((30, 90, 270, 810, 2700), 8_900))  # than the default, races included
SEED_SD, PER_DOUBLING = 0.003, 0.02


@dataclass(frozen=True)
class Network:
    """A network of the table, with its throughput in multiples of the reference's."""

    scores: tuple[float, ...]
    predicted: tuple[float, ...]
    long: float
    params: int
    speed: float

    def seen(self, by: str) -> tuple[float, ...]:
        """Return what a search compares at each rung of the table."""
        bonus = PER_DOUBLING * (by == "size") * math.log2(self.params)
        return self.predicted if by == "predicted" else tuple(score + bonus for score in self.scores)


def later_score(row: Mapping[str, Any]) -> float:
    """Return the score that a training's end lets expect after 20,000 steps."""
    slope = (row["scores"][-1] - row["scores"][-2]) / math.log10(RUNGS[-1] / RUNGS[-2])
    return TO_THE_END.predict(row["scores"][-1], row["params"], slope)


def networks(long: Callable[[Mapping[str, Any]], float]) -> tuple[list[Network], float]:
    """Return the networks that were timed, without the baselines, and the score of the target at the horizon.

    Args:
        long: Returns the score at the horizon of a row of the table.
    """
    rows = first_seeds([row for row in load_rows(ROWS) if row["images"] == MANY and "reason" not in row])
    speeds = {row["arch_id"]: row["ratio"][0] for row in (*read_rows(), *load_rows(TIMINGS)) if "ratio" in row}
    timed = [row for row in rows if row["arch_id"] in speeds and not row["source"].startswith("eradio")]
    predicted = np.array([left_out(timed, rung, [long(row) for row in timed]) for rung in range(len(RUNGS))]).T
    found = [
        Network(tuple(row["scores"]), tuple(p), long(row), row["params"], speeds[row["arch_id"]])
        for row, p in zip(timed, predicted.tolist(), strict=True)
    ]
    return found, next(long(row) for row in rows if row["source"] == TARGET)


def left_out(rows: Sequence[Mapping[str, Any]], rung: int, long: Sequence[float]) -> NDArray[np.float64]:
    """Return each network's score at the horizon, predicted from that of a rung by a model of the other networks."""
    x = np.array([[1.0, row["scores"][rung], math.log2(row["params"])] for row in rows])
    y = np.array(long)
    hat = x @ np.linalg.pinv(x)
    fitted = hat @ y
    return y - (y - fitted) / (1 - np.diag(hat))  # the leave-one-out residuals of least squares


@dataclass(frozen=True)
class End:
    """What a search had found; shares, the winner of the race, whether it is as good as the target, and steps."""

    complete: float
    on_front: float
    won: bool
    right: bool
    speed: float
    race_steps: int
    candidates: int


def search(found: Sequence[Network], target: float, rungs: Sequence[int], by: str, steps: int, seed: int) -> End:
    """Replay a search of `steps` steps and its race."""
    order = random.Random(seed).sample(range(len(found)), len(found))
    places = [RUNGS.index(rung) for rung in rungs]
    seen = [tuple(n.seen(by)[place] for place in places) for n in found]
    default = SearchConfig()
    config = replace(
        default, budget=len(found), scale=(), baselines=(), sampler="random", seed=seed,
        distill=replace(default.distill, rung_steps=tuple(rungs)),
    )  # fmt: skip
    records: dict[int, TrialRecord] = {}

    def draw(number: int, finished: int) -> Candidate:
        i = order[number]
        return Candidate(0.0, tuple(map(float, np.diff((0, *rungs)))), seen[i], found[i].speed)

    def keep(loop: object, record: TrialRecord) -> None:
        if trained(records) < steps:
            records[record.number] = record

    simulate_candidates(config, draw, Cluster(1), listener=keep)
    done = [order[n] for n, record in records.items() if len(record.rungs) == len(rungs)]
    return judged(found, target, rungs, [(i, seen[i][-1]) for i in done], len(records), seed)


def trained(records: Mapping[int, TrialRecord]) -> int:
    """Return the steps of all trainings."""
    return sum(record.rungs[-1].steps for record in records.values() if record.rungs)


def judged(
    found: Sequence[Network], target: float, rungs: Sequence[int], done: Sequence[tuple[int, float]], candidates: int,
    seed: int,
) -> End:  # fmt: skip
    """Judge the complete candidates, given with the score that the search has of each."""
    config = SearchConfig()
    reference = reference_point(objectives(config.objectives, config.distill.score))
    point = {i: (n.long, math.log2(n.speed)) for i, n in enumerate(found)}
    total = hypervolume(list(point.values()), reference)
    own = [done[k][0] for k in front([(score, point[i][1]) for i, score in done])]
    oracle = max(n.speed for n in found if n.long >= target)
    place, rng = RUNGS.index(rungs[-1]), random.Random(f"long/{seed}")
    errors = [n.predicted[place] - n.long for n in found]
    model = HorizonModel(0.0, 0.0, 0.0, float(np.std(errors)), 0.15, SEED_SD)
    race = Race(
        tuple(Entrant(i, found[i].speed, found[i].predicted[place]) for i, _ in done), model, target_score=target
    )
    long: dict[int, list[float]] = {}
    while (outcome := race.outcome(long)).wanted:
        number, _ = outcome.wanted[0]
        long.setdefault(number, []).append(found[number].long + rng.gauss(0, SEED_SD))
    winner = None if outcome.winner is None else found[outcome.winner.entrant.number]
    return End(
        complete=hypervolume([point[i] for i, _ in done], reference) / total,
        on_front=hypervolume([point[i] for i in own], reference) / total,
        won=winner is not None,
        right=winner is not None and winner.long >= target,
        speed=0.0 if winner is None or winner.long < target else winner.speed / oracle,
        race_steps=2700 * sum(map(len, long.values())),
        candidates=candidates,
    )


def lines() -> list[str]:
    """Return the lines to print."""
    ladders = (*((rungs, STEPS) for rungs in LADDERS), *WITH_MORE)
    out = table_of(lambda row: row["scores"][-1], "2,700", ladders, ("score", "predicted"))
    return out + table_of(later_score, "20,000", ladders[2:3], ("score", "size", "predicted"))


def table_of(
    long: Callable[[Mapping[str, Any]], float], when: str, ladders: Sequence[tuple[Sequence[int], int]],
    rules: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return the lines of the searches of some ladders, judged by the scores at one horizon."""
    found, target = networks(long)
    out = [f"{len(found)} networks, after {when} steps, target {target:.3f}, mean of {SEEDS} orders\n", *HEAD]
    today = [search(found, target, DEFAULT, "score", STEPS, seed) for seed in range(SEEDS)]
    for rungs, steps in ladders:
        for by in rules:
            ends = [search(found, target, rungs, by, steps, seed) for seed in range(SEEDS)]
            less = np.array([a.on_front - b.on_front for a, b in zip(ends, today, strict=True)])
            error = less.std(ddof=1) / math.sqrt(len(less))
            cells = (
                ",".join(map(str, rungs)), by, f"{steps:,}",
                f"{fmean(e.candidates for e in ends):.0f}", f"{fmean(e.complete for e in ends):.3f}",
                f"{fmean(e.on_front for e in ends):.3f}", f"{less.mean():+.3f} ± {error:.3f}",
                f"{fmean(e.won for e in ends):.2f}", f"{fmean(e.right for e in ends):.2f}",
                f"{fmean(e.speed for e in ends):.2f}", f"{fmean(e.race_steps for e in ends):,.0f}",
            )  # fmt: skip
            out.append(f"| {' | '.join(cells)} |")
    return [*out, ""]


def main() -> None:
    """Time what has no timing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="time the networks that have no timing (default: no)")
    if parser.parse_args().time:
        known = {row["arch_id"] for row in read_rows() if "ratio" in row}
        time_all(TIMINGS, "cpu", "eager", [e.spec for e in table() if e.spec.arch_id not in known])
    else:
        print("\n".join(lines()))


if __name__ == "__main__":
    main()
