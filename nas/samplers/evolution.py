"""Propose architectures by evolution; the trials that trained longest are the parents.

The first `population` trials are random. Later trials are mutations, or crossovers and mutations, of parents from the
best `parents` trials. The highest rung comes first; within a rung, trials are ranked by non-domination and crowding.
Trials of different rungs are never compared by value, so that a short training cannot pose as a long one.
Sources: regularized evolution (Real et al. 2019); selection by NSGA-II (Deb et al. 2002).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nas.study.pareto import best_first, coordinates
from nas.study.records import Objective, TrialRecord, TrialState
from nas.study.space_protocol import CROSSOVER_RATE, Architecture, SearchSpace

MAX_TRIES = 200


@dataclass(frozen=True)
class Evolution:
    """Proposes the next architecture from the trials of a study."""

    space: SearchSpace
    objectives: Sequence[Objective]
    population: int
    parents: int = 24

    def propose(self, trials: Sequence[TrialRecord], rng: random.Random) -> Architecture:
        """Return a spec that the study does not have yet, or the last of 200 tries."""
        seen = {t.arch_id for t in trials}
        pool = self.select_parents(trials)
        for _ in range(MAX_TRIES):
            spec = self._child(pool, rng) if pool else self.space.sample(rng)
            if spec.arch_id not in seen:
                break
        return spec

    def _child(self, pool: Sequence[Architecture], rng: random.Random) -> Architecture:
        # Binary tournament: the better placed of two random parents.
        first, second = (pool[min(rng.randrange(len(pool)), rng.randrange(len(pool)))] for _ in range(2))
        crossed = self.space.crossover(first, second, rng) if rng.random() < CROSSOVER_RATE else first
        child: Architecture = self.space.mutate(crossed, rng)
        return child

    def select_parents(self, trials: Sequence[TrialRecord]) -> list[Architecture]:
        """Return the specs of the parents, best first; none while the random population is incomplete."""
        # Baselines are no parents, because random search, the control, does not benefit from them either.
        scored = [t for t in trials if t.rungs and t.measurement and not t.baseline]
        scored = [t for t in scored if t.state is not TrialState.FAILED]  # children of these are likely to fail too
        if len(scored) < self.population:
            return []
        ordered: list[TrialRecord] = []
        for rung in sorted({len(t.rungs) - 1 for t in scored}, reverse=True):
            placed = [(t, coordinates(t, self.objectives, rung)) for t in scored if len(t.rungs) - 1 == rung]
            members = [(t, point) for t, point in placed if point is not None]
            ordered += [members[i][0] for i in best_first([point for _, point in members])]
        specs = [self.space.parse(t.spec) for t in ordered]
        return [s for s in specs if self.space.contains(s)][: self.parents]
