"""Choose the rungs of a search, from models that were trained to the end and scored on the way. Pure.

A rung is of use if the scores there rank the models as those of the last rung do. How well they do is known only as
well as a few models can tell, so that a rung is judged by Kendall's tau and by the lower end of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from nas.analysis.agreement import RankCorrelation, rank_correlation

# The default first rung has a tau of 0.66 (0.43 to 0.84, 30 models) to the last one. Early stopping there missed one of
# the ten candidates that had come closest to the front (docs/explanation/early_stopping.md).
MIN_TAU = 0.6
MIN_TAU_LOW = 0.3  # of the 95 % interval; below it, a few models do not exclude that the order is nearly chance
MEASURED_RUNGS = 6


@dataclass(frozen=True)
class PilotTraining:
    """The scores of one model at each measured rung, and its seconds from rung to rung.

    Args:
        arch_id: Its architecture.
        macs: Multiply-accumulates of one image.
        scores: Score at each rung.
        seconds: Seconds of training and evaluation since the rung before.
    """

    arch_id: str
    macs: int
    scores: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class RungEvidence:
    """How well the scores at a rung predict the order at the last one.

    Args:
        ladder: Rungs of a search that begins at the rung.
        seconds: Median seconds of a model until there.
        kendall: Kendall's tau to the scores at the last rung.
    """

    ladder: tuple[int, ...]
    seconds: float
    kendall: RankCorrelation

    @property
    def steps(self) -> int:
        """Return the training steps of the rung."""
        return self.ladder[0]

    @property
    def keeps_order(self) -> bool:
        """Return whether tau and the lower end of its interval are as large as a first rung needs."""
        tau, low = self.kendall.tau, self.kendall.low
        return tau is not None and low is not None and tau >= MIN_TAU and low >= MIN_TAU_LOW


def measured_rungs(last: int, factor: int, first: int, own: Sequence[int]) -> tuple[int, ...]:
    """Return the steps at which a pilot scores its models: a geometric ladder that ends at the last rung.

    It descends by the reduction factor where `MEASURED_RUNGS` rungs of it are above `first`, else by its square root.

    Args:
        last: Steps of the last rung.
        factor: Reduction factor of the search.
        first: Steps before which no rung is of use: those of the warm-up.
        own: Further rungs below `last`: those of the settings.
    """
    ratio = factor if last / factor ** (MEASURED_RUNGS - 1) >= first else math.sqrt(factor)
    ladder = {round(last / ratio**i) for i in range(MEASURED_RUNGS)}
    rungs = sorted(steps for steps in {*ladder, *own} if 1 <= steps <= last)
    return tuple(rungs) if len(rungs) > 1 else (max(1, last // 2), last)


def rung_evidence(trainings: Sequence[PilotTraining], rungs: Sequence[int], factor: int) -> tuple[RungEvidence, ...]:
    """Return the evidence on every measured rung but the last.

    Args:
        trainings: The models.
        rungs: The measured rungs, rising.
        factor: Reduction factor of the search.
    """
    scores = np.array([training.scores for training in trainings])
    evidence = []
    for rung, steps in enumerate(rungs[:-1]):
        ladder = ladder_from(steps, rungs, factor)
        seconds = median(sum(training.seconds[: rung + 1]) for training in trainings)
        kendall = rank_correlation(scores[:, [rung, -1]].tolist())
        evidence.append(RungEvidence(ladder, seconds, kendall))
    return tuple(evidence)


def size_correlation(trainings: Sequence[PilotTraining]) -> RankCorrelation:
    """Return Kendall's tau of the models' MACs to their scores at the last rung, which costs no training."""
    return rank_correlation([(training.macs, training.scores[-1]) for training in trainings])


def first_rung(evidence: Sequence[RungEvidence]) -> RungEvidence | None:
    """Return the earliest rung from which on every measured rung keeps the order; None where there is none."""
    first = None
    for rung in reversed(evidence):
        if not rung.keeps_order:
            break
        first = rung
    return first


def ladder_from(first: int, rungs: Sequence[int], factor: int) -> tuple[int, ...]:
    """Return the rungs of a search: `first`, then measured rungs that rise by about the factor, then the last one.

    The last step may be larger than the others, by up to the factor to the power of 1.75.

    Args:
        first: A measured rung.
        rungs: The measured rungs, rising.
        factor: Reduction factor.
    """
    last, ladder = rungs[-1], [first]
    while ladder[-1] < last:
        target = ladder[-1] * factor
        if last < target * factor**0.75:
            ladder.append(last)
        else:
            higher = [steps for steps in rungs if steps > ladder[-1]]
            ladder.append(min(higher, key=lambda steps: abs(math.log(steps / target))))
    return tuple(ladder)
