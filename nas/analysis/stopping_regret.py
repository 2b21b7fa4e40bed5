"""Measure what early stopping missed: the early-stopped candidates that were retrained. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.analysis.front import plane_hypervolume
from nas.numbers import plural, trials_words
from nas.study import pareto
from nas.study.records import Objective

Point = tuple[float, float]


@dataclass(frozen=True)
class StoppingRegret:
    """What the early-stopped candidates of one rung, or of all, would have added to the front.

    All scores are of the same seeds and steps. Candidates that were not retrained could add to the gain; the noise of
    the scores raises it on average, for no candidate can take from a hypervolume.

    Attributes:
        stopped_after: Steps of the rung at which the candidates were stopped; None for those of all rungs.
        steps: Steps of the trainings that are compared.
        candidates: Early-stopped candidates that were retrained.
        joined: Numbers of those on the front of all retrained candidates, by mean score.
        gain: Hypervolume that they add, as a share of that without them, by mean score.
        by_seed: The same by the scores of each seed alone, in the order of the seeds.
    """

    stopped_after: int | None
    steps: int
    candidates: int
    joined: tuple[int, ...]
    gain: float
    by_seed: tuple[float, ...]

    @property
    def words(self) -> str:
        """Say the regret in one sentence."""
        joined = f"{len(self.joined) or 'none'} of the {plural(self.candidates, 'candidate')}"
        named = f" ({trials_words(self.joined)})" if self.joined else ""
        rung = "at any rung" if self.stopped_after is None else f"after {self.stopped_after} steps"
        seeds = (
            f" ({min(self.by_seed):.1%} to {max(self.by_seed):.1%} by single seeds)" if len(self.by_seed) > 1 else ""
        )
        return (
            f"early stopping: {joined} stopped {rung} would be on the front after {self.steps} steps{named};"
            f" they would add {self.gain:.1%} to the hypervolume of the others{seeds}"
        )


@dataclass(frozen=True)
class ScoredCandidate:
    """A retrained candidate after one number of steps."""

    number: int
    ratio: float  # throughput relative to the reference, measured
    scores: tuple[float, ...]  # of each seed
    stopped_after: int | None  # steps after which the search stopped it; None where it trained it to the last rung

    @property
    def point(self) -> Point:
        """Return mean score and ratio."""
        return sum(self.scores) / len(self.scores), self.ratio

    def of_seed(self, place: int) -> Point:
        """Return the score of the seed at a place of `scores`, and the ratio."""
        return self.scores[place], self.ratio


def stopping_regrets(
    candidates: Sequence[ScoredCandidate], steps: int, objectives: Sequence[Objective]
) -> tuple[StoppingRegret, ...]:
    """Return the regret of each rung at which candidates had been stopped, and of all rungs if there are several.

    Args:
        candidates: Retrained ones with scores of the same seeds after `steps`; no baselines.
        steps: Training steps of the scores.
        objectives: Of the study, with its reference point.
    """
    rungs = sorted({c.stopped_after for c in candidates if c.stopped_after is not None})
    went_on = [c for c in candidates if c.stopped_after is None]
    if not went_on or not rungs:
        return ()
    front = {candidates[i].number for i in pareto.front([c.point for c in candidates])}
    every = [c for c in candidates if c.stopped_after is not None]
    groups = [(rung, [c for c in every if c.stopped_after == rung]) for rung in rungs]
    return tuple(
        StoppingRegret(
            stopped_after=rung,
            steps=steps,
            candidates=len(stopped),
            joined=tuple(sorted(c.number for c in stopped if c.number in front)),
            gain=_gain([c.point for c in went_on], [c.point for c in stopped], objectives),
            by_seed=tuple(
                _gain([c.of_seed(i) for c in went_on], [c.of_seed(i) for c in stopped], objectives)
                for i in range(len(went_on[0].scores))
            ),
        )
        for rung, stopped in [*groups, *([(None, every)] if len(rungs) > 1 else [])]
    )


def _gain(points: Sequence[Point], more: Sequence[Point], objectives: Sequence[Objective]) -> float:
    """Return the hypervolume that `more` points (score, ratio) add, as a share of that of `points`."""
    before = plane_hypervolume(points, objectives)
    return plane_hypervolume([*points, *more], objectives) / before - 1 if before else 0.0
