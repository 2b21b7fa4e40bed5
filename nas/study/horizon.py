"""What a long training adds to a score: the models that choose the candidates of a race. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIDWAY = 0.3  # share of a long training's steps after which its score is predicted again


@dataclass(frozen=True)
class HorizonModel:
    """A linear model of what a long training adds to the score at the search's last rung.

    Attributes:
        gain: Of a network of one parameter and score 0.
        per_score: Change of the gain with the score at the last rung.
        per_doubling: With each doubling of the parameters.
        network_sd: Standard deviation of a network about the model.
        study_sd: Standard deviation of a study's common offset: other images, teachers, recipes.
        seed_sd: Standard deviation of a long score between seeds.
        midway: The same from the score after `MIDWAY` of the long training; None: it is not predicted again.
    """

    gain: float
    per_score: float
    per_doubling: float
    network_sd: float
    study_sd: float
    seed_sd: float
    midway: HorizonModel | None = None

    def predict(self, score: float, params: int) -> float:
        """Return the expected score after a long training, given that at the last rung and the parameters."""
        return score + self.gain + self.per_score * score + self.per_doubling * math.log2(params)

    def offset(self, differences: Sequence[float]) -> tuple[float, float]:
        """Return a study's common offset from the predictions, and its variance, by long scores less predicted ones."""
        weight = 1 / (self.network_sd**2 + self.seed_sd**2)
        precision = 1 / self.study_sd**2 + len(differences) * weight
        return weight * sum(differences) / precision, 1 / precision


# From 270 and 810 to 2,700 steps on 30,000 images, of 28 networks of a table that score 0.5 or more at 270 and of 35
# candidates of two searches (experiments.horizon_findings). The table's alone expect 0.008 too much of these, which a
# search has chosen by their scores. Two seeds differ by 0.0015 there and on CIFAR-10, by 43 degrees of freedom.
LAPTOP = HorizonModel(
    gain=0.2959, per_score=-0.4596, per_doubling=0.0064, network_sd=0.0091, study_sd=0.15, seed_sd=0.002,
    midway=HorizonModel(
        gain=0.1473, per_score=-0.2313, per_doubling=0.0038, network_sd=0.0056, study_sd=0.15, seed_sd=0.002
    ),
)  # fmt: skip
