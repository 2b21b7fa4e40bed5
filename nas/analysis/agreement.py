"""Measure the agreement of two rankings of the same candidates: tau-b, its interval, swapped pairs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nas.analysis.front import FrontPoint
from nas.analysis.noise import CONFIDENCE_LEVEL

RESAMPLES = 1000
MIN_CANDIDATES = 3  # tau of two candidates is always 1 or -1
MIN_FOR_INTERVAL = 6  # candidates; resamples of fewer are nearly all the same

Array = NDArray[np.float64]
Pairs = Sequence[tuple[float, float]]  # each candidate's value in both rankings


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b of two rankings with its 95 % interval."""

    candidates: int
    tau: float | None  # None where it is undefined: too few candidates, or a constant ranking
    low: float | None  # by a bootstrap over the candidates; None with fewer than MIN_FOR_INTERVAL
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the ends of the interval; None where it says nothing: all resamples of a perfect order are perfect."""
        return None if self.low is None or self.high is None or self.low == self.high else (self.low, self.high)


def kendall(pairs: Pairs) -> tuple[float | None, float | None]:
    """Return Kendall's tau-b and its p value; None where `RankCorrelation.tau` is None."""
    if len(pairs) < MIN_CANDIDATES:
        return None, None
    first, second = zip(*pairs, strict=True)
    result = kendalltau(first, second)
    tau, p_value = float(result.statistic), float(result.pvalue)
    return (tau, p_value) if math.isfinite(tau) else (None, None)


def rank_correlation(pairs: Pairs) -> RankCorrelation:
    """Return Kendall's tau-b with a reproducible interval (fixed seed)."""
    if len(pairs) < MIN_CANDIDATES:
        return RankCorrelation(len(pairs), None, None, None)
    columns = np.asarray(pairs, dtype=np.float64)
    return RankCorrelation(len(pairs), tau_b(columns), *_bootstrap_interval(columns))


def tau_b(columns: Array) -> float | None:
    """Return the tau-b of two columns (candidates, 2) alone: a bootstrap of SciPy's, with a p value, takes seconds."""
    first, second = _pairs(len(columns))
    one, other = np.sign(columns[first] - columns[second]).T
    untied = np.count_nonzero(one) * np.count_nonzero(other)
    return float(one @ other) / math.sqrt(untied) if untied else None


@lru_cache(4)
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(count, 1)


def _bootstrap_interval(columns: Array) -> tuple[float | None, float | None]:
    """Return the ends of the interval of tau-b."""
    if len(columns) < MIN_FOR_INTERVAL:
        return None, None
    rng = np.random.default_rng(0)
    resamples = (columns[rng.integers(0, len(columns), len(columns))] for _ in range(RESAMPLES))
    values = [value for value in map(tau_b, resamples) if value is not None]  # None: one candidate repeated
    if not values:
        return None, None
    low, high = np.quantile(values, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class SpeedAgreement:
    """Agreement of two measurements about the candidates' order by speed, and the pairs of candidates behind it."""

    correlation: RankCorrelation
    pairs: int
    swapped: int  # pairs whose order is reversed
    clearly_swapped: int  # swapped pairs whose intervals are disjoint both times
    tied: int  # pairs with equal ratios in either measurement
    overlapping: int  # pairs whose intervals overlap in either measurement


def speed_agreement(before: Sequence[FrontPoint], now: Sequence[FrontPoint]) -> SpeedAgreement:
    """Compare two measurements of the same candidates, given in the same order."""
    order = _pair_order(before) * _pair_order(now)
    overlapping = _overlapping(before) | _overlapping(now)
    return SpeedAgreement(
        correlation=rank_correlation([(b.ratio, n.ratio) for b, n in zip(before, now, strict=True)]),
        pairs=len(order),
        swapped=int((order < 0).sum()),
        clearly_swapped=int(((order < 0) & ~overlapping).sum()),
        tied=int((order == 0).sum()),
        overlapping=int(overlapping.sum()),
    )


def _pair_order(points: Sequence[FrontPoint]) -> Array:
    """Return 1 for each pair whose first candidate is faster, -1 where the second is, 0 where they are equal."""
    ratios = np.asarray([p.ratio for p in points])
    first, second = np.triu_indices(len(points), 1)
    signs: Array = np.sign(ratios[first] - ratios[second])
    return signs


def _overlapping(points: Sequence[FrontPoint]) -> NDArray[np.bool_]:
    low, high = np.asarray([p.low for p in points]), np.asarray([p.high for p in points])
    first, second = np.triu_indices(len(points), 1)
    return (low[first] <= high[second]) & (low[second] <= high[first])
