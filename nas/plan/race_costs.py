"""What the race at the end of a search costs: teachers on more images, and a few long trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from nas.plan.forecast import Basis, PlanFigure, spread, weaker

FEWEST, USUAL, MOST = 3, 5, 8  # trainings of a race, its target's among them


@dataclass(frozen=True)
class RaceCosts:
    """The costs of a race.

    Attributes:
        steps: Of each training.
        images: To train on.
        teachers_s: Seconds of the teachers on one device; None: unknown.
        teachers_basis: Source of `teachers_s`.
        training_s: Seconds of a training of each probed architecture.
        basis: Source of these.
    """

    steps: int
    images: int
    teachers_s: float | None
    teachers_basis: Basis
    training_s: tuple[float, ...]
    basis: Basis

    def wall_s(self, devices: int, workers: int, trainings: int = USUAL) -> float:
        """Return the seconds of teachers that share all devices, and of trainings side by side."""
        return (self.teachers_s or 0.0) / devices + math.ceil(trainings / workers) * median(self.training_s)

    def figures(self, devices: int, workers: int) -> list[PlanFigure]:
        """Return what the plan shows."""
        low, usual, high = (self.wall_s(devices, workers, number) for number in (FEWEST, USUAL, MOST))
        basis = weaker(self.basis, self.teachers_basis, Basis.ASSUMED)
        images, steps = f"{self.images:,} images", f"race: a training of {self.steps:,} steps"
        teachers, source = "race: running the teachers", self.teachers_basis
        whole = f"{FEWEST} to {MOST} trainings, {USUAL} assumed, side by side; --no-race leaves it out"
        return [
            PlanFigure("race_teachers_s", teachers, self.teachers_s, "s", source, images),
            spread("race_training_s", steps, self.training_s, self.basis),
            PlanFigure("race_s", "race", usual, "s", basis, whole, low, high),
        ]
