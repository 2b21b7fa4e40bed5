"""What a longer training adds to a score: the models that choose the candidates of a race, and its winner. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

MIDWAY = 0.3  # share of a race's training after which its score is predicted again
LATER = 7.4  # steps for which a race's winner is chosen, in those of its trainings: 20,000 in 2,700
# Deviation after LATER times the steps in that after 1 / MIDWAY times: as a random walk in the logarithm of the steps.
STRETCH = math.sqrt(math.log(LATER) / math.log(1 / MIDWAY))


@dataclass(frozen=True)
class HorizonModel:
    """A linear model of what a longer training adds to a score.

    Attributes:
        gain: Of a network of one parameter and score 0.
        per_score: Change of the gain with the score.
        per_doubling: With each doubling of the parameters.
        network_sd: Standard deviation of a network about the model.
        study_sd: Standard deviation of a study's common offset: other images, teachers, recipes.
        seed_sd: Standard deviation of a long score between seeds.
        per_slope: Change of the gain with the rise of the score per tenfold steps before.
        midway: The same from the score after `MIDWAY` of a race's training; None: it is not predicted again.
        later: From the end of a race's training to `LATER` times its steps; None: the race decides by its own scores.
    """

    gain: float
    per_score: float
    per_doubling: float
    network_sd: float
    study_sd: float = 0.15
    seed_sd: float = 0.002
    per_slope: float = 0.0
    midway: HorizonModel | None = None
    later: HorizonModel | None = None

    def predict(self, score: float, params: int, slope: float = 0.0) -> float:
        """Return the expected score after a longer training, given that of a short one, its slope, and parameters."""
        gain = self.gain + self.per_score * score + self.per_doubling * math.log2(params) + self.per_slope * slope
        return score + gain

    def offset(self, differences: Sequence[float]) -> tuple[float, float]:
        """Return a study's common offset from the predictions, and its variance, by long scores less predicted ones."""
        weight = 1 / (self.network_sd**2 + self.seed_sd**2)
        precision = 1 / self.study_sd**2 + len(differences) * weight
        return weight * sum(differences) / precision, 1 / precision


# Of 118 networks of a table that score 0.5 or more after 270 steps, and of 35 candidates of two searches
# (experiments.horizon_findings), on 30,000 images. The table's alone expect 0.001 too little of these from 810 steps,
# and 0.004 too much from 270. Two seeds differ by 0.0015 there and on CIFAR-10, by 50 degrees of freedom.
TO_THE_END = HorizonModel(gain=0.052, per_score=-0.0961, per_doubling=0.0025, network_sd=0.0045, per_slope=0.1661)
# From 270 and 810 to 2,700 steps.
LAPTOP = HorizonModel(gain=0.2592, per_score=-0.4066, per_doubling=0.0067, network_sd=0.0098, midway=TO_THE_END)
# Errors of TO_THE_END from 810 to 2,700 steps: of the table's networks, each by the others, and of candidates on
# CIFAR-10, by the table (experiments.horizon_findings). Other data are taken to differ as CIFAR-10 does.
BUILTIN_SD, OTHER_SD = 0.0044, 0.0068
# To 20,000: the difference of two networks there is what the model of 810 to 2,700 steps expects from 2,700 on
# (experiments.long_trainings).
LAPTOP_LATER = HorizonModel(
    gain=0.3156, per_score=-0.5134, per_doubling=0.0096, network_sd=0.0101,
    later=replace(TO_THE_END, network_sd=BUILTIN_SD * STRETCH),
    midway=HorizonModel(gain=0.1156, per_score=-0.2135, per_doubling=0.0055, network_sd=0.0055, per_slope=0.2029),
)  # fmt: skip


def later_model(data: str) -> HorizonModel:
    """Return the model by which a race on some data expects scores after `LATER` times its steps.

    Args:
        data: URI of the images, as in `SearchConfig.data`.
    """
    if data == "builtin":
        return LAPTOP_LATER
    return replace(LAPTOP_LATER, later=replace(TO_THE_END, network_sd=OTHER_SD * STRETCH))
