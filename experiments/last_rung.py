"""Compare rules for who trains to the last rung, on recorded searches, drawn ones, and NAS-Bench-Macro.

Command:   python -m experiments.last_rung                    two recorded searches of 200, decided again
           python -m experiments.last_rung --drawn            searches whose lower rungs predict the last one exactly
           python -m experiments.last_rung --macro macro.csv  replays of known-cost, budget 60, emulated rungs
Hardware:  any; it trains nothing

Rules at the last rung but one:
    halving          the search's default
    halving:E        the best 1/E continue
    front:G          at every rung: halving, or a gain of the share G of the front's hypervolume: --front-gain G
    chance:P         halving, and a chance of P or more to be on the front: --last-rung-chance P
    near:P           the same, where less than a seed's deviation below the front is on it too
    near:P:count     in place of halving: that chance, and at most 1/3 of those that reached the rung
    near:P:alone     that chance alone
    RULE+P           early-stopped candidates of that rung are taken up when the budget is spent, the best chance first,
                     while one has a chance of P or more; they continue from their checkpoints

A recorded search keeps its candidates, their order, seconds and scores. Where a rule promotes a candidate that was
early-stopped, its unknown score is drawn: the line through the candidates that have both scores, and one of their
residuals. Hypervolumes of rules that promote fewer candidates than halving are therefore exact.

"at equal steps" compares with halving after as many steps, of fewer candidates: a rule that saves steps is worth
something if it beats that.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from nas.backend.simulated import Cluster, SimulatedClock, simulate
from nas.backend.simulated_study import MemoryStore, NumberedSpace
from nas.fidelity import at_last_rung
from nas.plan.forecast import Candidate, candidate_phases, study_info
from nas.replay import published_study
from nas.replay.arguments import DEFAULT_SOURCES
from nas.replay.nasbenchmacro import load_macro
from nas.replay.published_table import PublishedTable
from nas.study.config import SearchConfig
from nas.study.halving import should_continue
from nas.study.loop import StudyLoop
from nas.study.pareto import coordinates, front, hypervolume
from nas.study.records import Objective, TrialRecord, TrialState

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
KNOWN_COST, RECORDED = RESULTS / "known_cost_search.json", RESULTS / "recorded_search.json"
STEPS, ETA, DRAWS = np.array([30, 90, 270]), 3, 256
SEED_DEVIATION = {"recorded": 0.0075, "macro": 0.2}  # of score; of accuracy in %, median over the table's networks
REFERENCE = (0.0, -3.0)  # of score and log2 of relative throughput
AXES = (Objective("score", "", "", reference=0.0), Objective("throughput", "", "", reference=-3.0))
MACRO_RULES = ("halving", "chance:0.5", "halving:6")
RULES = ("halving", "chance:0.3", "chance:0.5", "chance:0.7", "chance:0.5+0.5", "halving:4", "halving:6")
RULES = (*RULES, "near:0.15", "near:0.15:count", "near:0.15:count+0.15", "near:0.15:alone")


class Rival(NamedTuple):
    """A candidate with its scores so far, its cost (more is better) and the cost's deviation."""

    scores: Sequence[float]
    cost: float
    deviation: float
    alive: bool  # complete, or on its way to the last rung


def chances(
    rivals: Sequence[Rival], asked: Sequence[int], rungs: int, tolerance: float, seed: Sequence[int]
) -> list[float]:
    """Return the chance of each asked rival to be on the front of those alive, or less than `tolerance` below it."""
    mean, variance = at_last_rung([rival.scores for rival in rivals], rungs)
    drawn = np.random.default_rng(list(seed)).standard_normal((2, DRAWS, len(rivals)))
    score = mean + np.sqrt(variance) * drawn[0]
    cost = np.array([r.cost for r in rivals]) + np.array([r.deviation for r in rivals]) * drawn[1]
    counted = np.where([r.alive for r in rivals], score, -np.inf)
    shares = []
    for i in asked:
        others = (cost >= cost[:, i : i + 1]) & (np.arange(len(rivals)) != i)
        best = np.where(others, counted, -np.inf).max(axis=1)  # of those alive that cost no more
        shares.append(float((score[:, i] > best - tolerance).mean()))
    return shares


class RuledLoop(StudyLoop):
    """The study's loop with another rule at the last rung but one.

    Args:
        rule: The rule, without a take-up.
        tolerance: A seed's deviation of the score.
        deviations: Deviation of each trial's cost; empty for exact costs.
    """

    def __init__(self, *args: Any, rule: str, tolerance: float, deviations: Sequence[float] = (), **keys: Any) -> None:
        self._rule, self._tolerance, self._deviations = rule.split(":"), tolerance, deviations
        super().__init__(*args, **keys)

    def _reason_to_stop(self, record: TrialRecord) -> str | None:
        kind, *words = self._rule
        rung = len(self.info.rung_steps) - 2
        if kind == "front":
            self.config = replace(self.config, front_gain=float(words[0]))
            return super()._reason_to_stop(record)
        self.config = replace(self.config, front_gain=0.0)
        if kind == "chance":
            self.config = replace(self.config, last_rung_chance=float(words[0]))
        new = len(record.rungs) > len(self.trials[record.number].rungs)
        if not words or kind == "chance" or record.baseline or len(record.rungs) != rung + 1 or not new:
            return super()._reason_to_stop(record)
        point = coordinates(record, self.info.objectives, rung)
        others = self.trials.points(rung, exclude=record.number)
        assert point is not None
        eta = int(words[0]) if kind == "halving" else ETA
        if len(words) == 1 and not should_continue(point, others, eta):
            return "halving"
        return "chance" if kind == "near" and not self._near(record, len(others) + 1) else None

    def _near(self, record: TrialRecord, reached: int) -> bool:
        _, least, *count = self._rule
        rungs = len(self.info.rung_steps)
        trials = [*(t for t in self.trials.values() if t.rungs and t.number != record.number), record]
        rivals = [self._rival(t, rungs) for t in trials]
        if count == ["count"] and sum(rival.alive for rival in rivals[:-1]) >= math.ceil(reached / ETA):
            return False
        seed = (self.config.seed, record.number)
        (share,) = chances(rivals, [len(rivals) - 1], rungs, self._tolerance, seed)
        return share >= float(least)

    def _rival(self, trial: TrialRecord, rungs: int) -> Rival:
        point = coordinates(trial, self.info.objectives, len(trial.rungs) - 1)
        assert point is not None
        alive = trial.state is TrialState.COMPLETE or (
            trial.state is TrialState.RUNNING and len(trial.rungs) >= rungs - 1
        )
        deviation = self._deviations[trial.number] if self._deviations else 0.0
        return Rival([r.score for r in trial.rungs], point[1], deviation, alive)


class Recorded(NamedTuple):
    """A finished search: scores of each candidate at the rungs it reached, cost, its deviation, seconds."""

    name: str
    scores: list[list[float]]
    costs: list[float]
    deviations: list[float]
    seconds: list[list[float]]


def recorded_searches() -> list[Recorded]:
    """Return the stored searches of known-cost and of evolution, in the order of asking."""
    trials = json.loads(KNOWN_COST.read_text())
    speeds = [[math.log2(ratio) for ratio in t["ratio"]] for t in trials]
    known_cost = Recorded(
        "known-cost",
        [[score for score, _ in t["rungs"]] for t in trials],
        [speed for speed, _, _ in speeds],
        [(high - low) / (2 * 1.96) for _, low, high in speeds],
        [[seconds for _, seconds in t["rungs"]] for t in trials],
    )
    rows = [t for t in json.loads(RECORDED.read_text())["trials"] if not t["baseline"]]
    scores = [[score for score, _ in t["points"]] for t in rows]
    costs = [t["points"][0][1] for t in rows]
    return [known_cost, Recorded("evolution", scores, costs, [0.0] * len(rows), [t["rung_s"] for t in rows])]


def drawn_search(seed: int, size: int = 200) -> Recorded:
    """Return a search of random candidates whose score is, at each rung, the same share of the last one's."""
    rng = random.Random(seed)
    costs = [rng.gauss(0.0, 1.0) for _ in range(size)]
    last = [0.5 - 0.05 * cost + rng.gauss(0.0, 0.05) for cost in costs]
    scores = [[score * share for share in (0.4, 0.75, 1.0)] for score in last]
    return Recorded("drawn", scores, costs, [0.0] * size, [[2.0, 4.0, 12.0]] * size)


def filled(curves: Sequence[Sequence[float]], rng: np.random.Generator) -> Array:
    """Return all scores, (n, rungs): unknown ones are a line through known pairs, and a residual drawn from theirs."""
    full = [list(curve) for curve in curves]
    for rung in range(min(map(len, curves)) - 1, len(STEPS) - 1):
        lower, upper = np.array([curve[rung : rung + 2] for curve in curves if len(curve) > rung + 1]).T
        line = np.polyfit(lower, upper, 1)
        residuals = upper - np.polyval(line, lower)
        for curve in full:
            if len(curve) == rung + 1:
                curve.append(float(np.polyval(line, curve[rung]) + rng.choice(residuals)))
    return np.array(full)


def decide_again(search: Recorded, scores: Array, rule: str) -> list[TrialRecord]:
    """Run a recorded search under a rule, two trials at a time, and return its trials in the order of asking."""
    growth = np.array([2.0, 6.0])  # of the seconds from rung to rung, where a candidate did not get so far
    config = SearchConfig(budget=len(scores), baselines=(), scale=())
    store = MemoryStore(study_info(config, AXES), lambda number: {"number": number})
    clock, tolerance = SimulatedClock(), SEED_DEVIATION["recorded"]
    loop = RuledLoop(
        store, space=NumberedSpace(), clock=clock, rule=rule, tolerance=tolerance, deviations=search.deviations
    )

    def stages(loop: StudyLoop, record: TrialRecord) -> Any:
        i = record.number
        seconds = [*search.seconds[i], *(search.seconds[i][-1] * growth[len(search.seconds[i]) - 1 :])]
        candidate = Candidate(1.6, tuple(seconds[: len(STEPS)]), tuple(scores[i]), search.costs[i])
        return candidate_phases(record, candidate, config.distill.rung_steps)

    simulate(loop, clock, Cluster(1, 2), stages)
    return [loop.trials[i] for i in range(len(scores))]


def take_up(search: Recorded, scores: Array, depth: NDArray[np.int64], least: float) -> NDArray[np.bool_]:
    """Return which candidates are complete after the best chances of the last rung but one were taken up."""
    depth = depth.copy()
    while True:
        rivals = [
            Rival(scores[i, : depth[i]].tolist(), search.costs[i], search.deviations[i], depth[i] == len(STEPS))
            for i in range(len(scores))
        ]
        stopped = np.flatnonzero(depth == len(STEPS) - 1).tolist()
        shares = chances(rivals, stopped, len(STEPS), SEED_DEVIATION["recorded"], (0, int(depth.sum())))
        if max(shares, default=0.0) < least:
            return depth == len(STEPS)
        depth[stopped[int(np.argmax(shares))]] += 1


class Outcome(NamedTuple):
    """A search under a rule.

    Attributes:
        steps: Training steps of all candidates.
        complete: Candidates trained to the last rung.
        taken_up: How many of them were early-stopped at first.
        front: Candidates on the front.
        volume: Hypervolume.
        regrets: What the early-stopped candidates of the first and of the second rung would add to it, as shares of it.
        curve: Steps and hypervolume after each candidate, in the order in which they end; without a take-up.
    """

    steps: float
    complete: int
    taken_up: int
    front: int
    volume: float
    regrets: tuple[float, float]
    curve: list[tuple[float, float]]

    @property
    def last_share(self) -> float:
        """Return the share of the steps from the last rung but one to the last."""
        return self.complete * float(STEPS[2] - STEPS[1]) / self.steps

    def after(self, steps: float) -> float:
        """Return the hypervolume after a number of steps."""
        return max([volume for spent, volume in self.curve if spent <= steps], default=math.nan)


def recorded_outcome(search: Recorded, rule: str, seed: int) -> Outcome:
    """Return the outcome of a recorded search that is decided again."""
    scores = filled(search.scores, np.random.default_rng(seed))
    rule, _, least = rule.partition("+")
    trials = decide_again(search, scores, rule)
    depth = np.array([len(t.rungs) for t in trials])
    complete = depth == len(STEPS)
    points = np.column_stack([scores[:, 2], search.costs])
    curve, steps, ended = [], 0.0, np.zeros(len(trials), dtype=bool)
    for i in sorted(range(len(trials)), key=lambda i: (trials[i].finished_s or 0.0, i)):
        steps += float(STEPS[depth[i] - 1])
        ended[i] = True
        curve.append((steps, hypervolume(points[complete & ended], REFERENCE)))
    first = int(complete.sum())
    if least:
        complete = take_up(search, scores, depth, float(least))
        steps += float((complete.sum() - first) * (STEPS[2] - STEPS[1]))
    volume = hypervolume(points[complete], REFERENCE)
    low, high = (hypervolume(points[complete | (depth == d)], REFERENCE) / volume - 1 for d in (1, 2))
    many = int(complete.sum())
    return Outcome(steps, many, many - first, len(front(points[complete])), volume, (low, high), curve)


def macro_outcome(table: PublishedTable, rule: str, seed: int, budget: int) -> Outcome:
    """Return the outcome of a replay of known-cost on NAS-Bench-Macro; volumes are shares, by mean accuracies."""
    sampler = published_study.replay_sampler("known-cost", table, seed, DEFAULT_SOURCES["macro"], len(STEPS))
    loop = partial(RuledLoop, rule=rule, tolerance=SEED_DEVIATION["macro"])
    with tempfile.TemporaryDirectory() as folder, patch.object(published_study, "StudyLoop", loop):
        config = published_study.replay_config(table, "known-cost", seed, budget, len(STEPS))
        trials = published_study.replay_study(table, config, sampler, Path(folder) / "run")
    depth = np.array([len(t.rungs) for t in trials])
    at = np.array([table.positions[t.arch_id] for t in trials])
    drawn = np.array([_training(table, t, seed) for t in trials])
    total = published_study.total_hypervolume(table.accuracy, table.costs, table.reference)

    def shares(counted: NDArray[np.bool_]) -> Array:
        seen, known = (np.where(counted, values, -np.inf) for values in (drawn, table.accuracy[at]))
        return published_study.hypervolume_shares(known, table.costs[at], table.reference, total, seen)

    complete, spent = depth == len(STEPS), np.cumsum(STEPS[depth - 1]).astype(float)
    curve = shares(complete)
    low, high = (float(shares(complete | (depth == d))[-1] / curve[-1] - 1) for d in (1, 2))
    members = len(front(np.column_stack([drawn, -table.costs[at]])[complete]))
    course = list(zip(spent.tolist(), curve.tolist(), strict=True))
    return Outcome(float(spent[-1]), int(complete.sum()), 0, members, float(curve[-1]), (low, high), course)


def _training(table: PublishedTable, trial: TrialRecord, seed: int) -> float:
    """Return the accuracy that the replay draws for an architecture at the last rung."""
    trainings = table.trainings[table.positions[trial.arch_id]]
    return float(trainings[random.Random(f"{seed}/{trial.arch_id}").randrange(len(trainings))])


def show(title: str, rule: str, outcomes: Sequence[Outcome], base: Sequence[Outcome]) -> None:
    """Print one line: means over seeds, and the change against the first rule, seed by seed."""

    def of(read: Callable[[Outcome], float]) -> float:
        return float(np.mean([read(outcome) for outcome in outcomes]))

    pairs = list(zip(outcomes, base, strict=True))
    saved = np.mean([100 * (o.steps / b.steps - 1) for o, b in pairs])
    change = [100 * (o.volume / b.volume - 1) for o, b in pairs]
    equal = np.mean([100 * (o.volume / b.after(o.steps) - 1) for o, b in pairs])
    parts = (
        f"steps {of(lambda o: o.steps):6.0f} ({saved:+5.1f} %), last rung {of(lambda o: o.last_share):.2f}",
        f"complete {of(lambda o: o.complete):4.1f}, taken up {of(lambda o: o.taken_up):4.1f}",
        f"front {of(lambda o: o.front):4.1f}, hypervolume {of(lambda o: o.volume):.4f} ({np.mean(change):+.2f} %,",
        f"{np.min(change):+.2f} to {np.max(change):+.2f}, at equal steps {equal:+.2f})",
        f"regret {100 * of(lambda o: o.regrets[0]):.2f} %, {100 * of(lambda o: o.regrets[1]):.2f} %",
    )
    print(f"{title:10} {rule:22}", "; ".join(parts).replace(",; ", ", "), flush=True)


def main() -> None:
    """Print a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macro", metavar="FILE.csv")
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rules", nargs="+", help="the first one is the base")
    args = parser.parse_args()
    runs: list[tuple[str, Callable[[str, int], Outcome]]]
    if args.macro:
        table = load_macro(args.macro)
        runs = [("macro", lambda rule, seed: macro_outcome(table, rule, seed, args.budget))]
    elif args.drawn:
        runs = [("drawn", lambda rule, seed: recorded_outcome(drawn_search(seed), rule, seed))]
    else:
        runs = [(search.name, partial(recorded_outcome, search)) for search in recorded_searches()]
    rules = args.rules or (MACRO_RULES if args.macro else RULES)
    for title, run in runs:
        base: list[Outcome] = []
        for rule in rules:
            outcomes = [run(rule, seed) for seed in range(args.seeds)]
            base = base or outcomes
            show(title, rule, outcomes, base)


if __name__ == "__main__":
    main()
