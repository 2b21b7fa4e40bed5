"""The random search that a study holds in itself: what its sampler drew before it had anything to learn from.

They are a control for as many trainings as they are, and not for one more. A control of the whole length is another
study, of the sampler "random".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas import pareto
from nas.records import StudyInfo, TrialRecord

# How many trials are surely drawn at random: nas.evolution's population, and what nas.samplers gives to Optuna's.
STARTS = {"evolution": 32, "nsga2": 20, "tpe": 20}
LEARNS_FROM_BASELINES = ("nsga2", "tpe")  # so its random start is by so many shorter
ORDERS = 200


@dataclass(frozen=True)
class ChanceStart:
    """Hypervolume to expect of the first 1, 2, ... of `trials` random trainings: the mean over the orders of them."""

    trials: tuple[int, ...]  # numbers
    expected: tuple[float, ...]


def chance_start(
    sampled: Sequence[TrialRecord], points: Mapping[int, Sequence[float]], info: StudyInfo
) -> ChanceStart | None:
    """Of the study's sampler; None where it drew nothing at random, or nothing else.

    Args:
        sampled: the study's trials without baselines.
        points: by trial number, of the complete ones, on the axes of `pareto.coordinate`.
    """
    sampler = str(info.config.get("sampler"))
    start = STARTS.get(sampler, 0) - len(info.baselines) * (sampler in LEARNS_FROM_BASELINES)
    drawn = sorted(sampled, key=lambda t: t.number)[: max(start, 0)]
    numbers = [t.number for t in drawn if t.counts]
    if len(numbers) < 2 or len(drawn) == len(sampled):
        return None
    rng, reference = random.Random(0), pareto.reference_point(info.objectives)
    sums = [0.0] * len(numbers)
    for _ in range(ORDERS):
        order = rng.sample(numbers, len(numbers))
        for i, volume in enumerate(_volumes([points.get(n) for n in order], reference)):
            sums[i] += volume
    return ChanceStart(tuple(numbers), tuple(s / ORDERS for s in sums))


def _volumes(points: Sequence[Sequence[float] | None], reference: Sequence[float]) -> list[float]:
    """After each of `points`; None is a trial that was stopped early and adds nothing."""
    volumes, known = [0.0], []
    for point in points:
        if point is not None:
            known.append(point)
        volumes.append(volumes[-1] if point is None else pareto.hypervolume(known, reference))
    return volumes[1:]
