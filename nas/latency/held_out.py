"""How far predictions lie from measurements that they had not seen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr


@dataclass(frozen=True)
class HeldOut:
    """Errors are relative to the measured time: 0.05 is 5 %."""

    nets: int
    median_error: float
    p90_error: float
    kendall_tau: float
    spearman_rho: float
    coverage: float  # share of measured times within their 95 % interval

    def __str__(self) -> str:
        return (
            f"median error {self.median_error:.1%}, nine in ten within {self.p90_error:.1%}, Kendall tau"
            f" {self.kendall_tau:.2f}, Spearman rho {self.spearman_rho:.2f}, {self.coverage:.0%} in their 95 % interval"
            f" ({self.nets} held-out measurements)"
        )


def held_out(measured_s: Sequence[float], predicted_s: Sequence[float], inside: Sequence[bool]) -> HeldOut:
    """Of measurements with the predictions for them, and whether each lay within its interval."""
    measured, predicted = np.asarray(measured_s), np.asarray(predicted_s)
    errors = np.abs(predicted / measured - 1)
    return HeldOut(
        nets=len(errors),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        kendall_tau=float(kendalltau(predicted, measured).statistic),
        spearman_rho=float(spearmanr(predicted, measured).statistic),
        coverage=float(np.mean(inside)),
    )


def folds(groups: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Places of `groups` in `count` parts, or as many as there are groups; a group is never divided."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    fold_of = {name: i % count for i, name in enumerate(names)}
    found = [[i for i, name in enumerate(groups) if fold_of[name] == fold] for fold in range(count)]
    return [fold for fold in found if fold]
