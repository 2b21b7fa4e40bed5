"""Measure what early stopping missed: the early-stopped candidates that were retrained. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.analysis.front import plane_hypervolume
from nas.study import pareto
from nas.study.records import Objective


@dataclass(frozen=True)
class StoppingRegret:
    """What the early-stopped candidates of one rung would have added to the front.

    All scores are of the same seeds and steps. Luck raises the gain, never lowers it: no candidate can take from a
    hypervolume.

    Attributes:
        stopped_after: Steps of the rung at which the candidates were stopped.
        steps: Steps of the trainings that are compared.
        candidates: Early-stopped candidates that were trained with all seeds.
        joined: Numbers of those that are on the front, by mean score.
        gain: Hypervolume that they add, as a share of that without them, by mean score.
        by_seed: The same by the scores of each seed alone, in the order of the seeds.
    """

    stopped_after: int
    steps: int
    candidates: int
    joined: tuple[int, ...]
    gain: float
    by_seed: tuple[float, ...]

    @property
    def words(self) -> str:
        """Say the regret in one sentence."""
        joined = f"{len(self.joined) or 'none'} of the {self.candidates}"
        named = f" (trial{'s' * (len(self.joined) > 1)} {', '.join(map(str, self.joined))})" if self.joined else ""
        seeds = (
            f" ({min(self.by_seed):.1%} to {max(self.by_seed):.1%} by single seeds)" if len(self.by_seed) > 1 else ""
        )
        return (
            f"early stopping: {joined} candidates stopped after {self.stopped_after} steps would be on the front "
            f"after {self.steps}{named}; they would add {self.gain:.1%} of its hypervolume{seeds}"
        )


@dataclass(frozen=True)
class ScoredCandidate:
    """A retrained candidate after one number of steps."""

    number: int
    ratio: float  # throughput relative to the reference, measured
    scores: tuple[float, ...]  # of each seed
    stopped_after: int | None  # steps after which the search stopped it; None where it trained it to the last rung

    @property
    def point(self) -> tuple[float, float]:
        """Return mean score and ratio."""
        return sum(self.scores) / len(self.scores), self.ratio


def stopping_regrets(
    candidates: Sequence[ScoredCandidate], steps: int, objectives: Sequence[Objective]
) -> tuple[StoppingRegret, ...]:
    """Return the regret of each rung at which candidates had been stopped.

    Args:
        candidates: Retrained ones with scores of the same seeds after `steps`; no baselines.
        steps: Training steps of the scores.
        objectives: Of the study, with its reference point.
    """
    rungs = sorted({c.stopped_after for c in candidates if c.stopped_after is not None})
    went_on = [c for c in candidates if c.stopped_after is None]
    if not went_on:
        return ()
    stopped = ([c for c in candidates if c.stopped_after == rung] for rung in rungs)
    return tuple(_regret(went_on, each, rung, steps, objectives) for rung, each in zip(rungs, stopped, strict=True))


def _regret(
    went_on: Sequence[ScoredCandidate],
    stopped: Sequence[ScoredCandidate],
    stopped_after: int,
    steps: int,
    objectives: Sequence[Objective],
) -> StoppingRegret:
    def gain(point: Callable[[ScoredCandidate], tuple[float, float]]) -> float:
        before = plane_hypervolume(map(point, went_on), objectives)
        return plane_hypervolume(map(point, (*went_on, *stopped)), objectives) / before - 1 if before else 0.0

    seeds = range(len(went_on[0].scores))
    compared = (*went_on, *stopped)
    front = [compared[i] for i in pareto.front([c.point for c in compared])]
    return StoppingRegret(
        stopped_after=stopped_after,
        steps=steps,
        candidates=len(stopped),
        joined=tuple(sorted(c.number for c in front if c.stopped_after is not None)),
        gain=gain(lambda c: c.point),
        by_seed=tuple(gain(lambda c, i=i: (c.scores[i], c.ratio)) for i in seeds),  # type: ignore[misc]
    )
