"""Which nets of a study are trained again: its front, and those that noise alone may have kept from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas import pareto
from nas.finals.chances import Estimate, front_chances
from nas.finals.scatter import TYPICAL, Scatter
from nas.records import Measurement, Study, TrialRecord
from nas.reranking.selection import SelectionError, complete

NEGLIGIBLE = 0.05  # chance: who has less is no near miss


@dataclass(frozen=True)
class Candidate:
    """A found net at the study's last rung, with its chance to be on the front for all that is known there."""

    trial: TrialRecord
    on_front: bool
    chance: float


def candidates(study: Study, scatter: Scatter = TYPICAL) -> tuple[Candidate, ...]:
    """The found nets that trained to the last rung, the likeliest first. SelectionError where there is none."""
    found = [t for t in complete(study) if not t.baseline]
    if not found:
        raise SelectionError("the study has no trial that was measured and trained to its last rung")
    nets = [estimate(t.final_score, 1, t.measurement) for t in found if t.measurement]
    front = set(pareto.front([(n.quality, n.ratio) for n in nets]))
    chances = front_chances(nets, scatter)
    told = [Candidate(t, i in front, chances[i]) for i, t in enumerate(found)]
    return tuple(sorted(told, key=lambda c: (-c.chance, c.trial.number)))


def finalists(known: Sequence[Candidate], near: int) -> tuple[Candidate, ...]:
    """The whole front, and at most `near` others whose chance is not negligible, the likeliest first."""
    misses = [c for c in known if not c.on_front and c.chance >= NEGLIGIBLE]
    return tuple(c for c in known if c.on_front or c in misses[:near])


def estimate(mean: float, seeds: int, m: Measurement) -> Estimate:
    """What is known of a net with this quality and measurement."""
    return Estimate(mean, seeds, m.ratio, m.ratio_low, m.ratio_high)
