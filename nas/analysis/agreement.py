"""Measure the agreement of two rankings of the same candidates: Kendall's tau-b, its interval, swapped pairs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    columns = np.asarray(pairs)
    return RankCorrelation(len(pairs), _tau(columns), *_bootstrap_interval(columns))


def _tau(columns: Array) -> float | None:
    """Return tau-b alone: a bootstrap has no time for exact p values."""
    tau = float(kendalltau(columns[:, 0], columns[:, 1], method="asymptotic").statistic)
    return tau if math.isfinite(tau) else None


def _bootstrap_interval(columns: Array) -> tuple[float | None, float | None]:
    if len(columns) < MIN_FOR_INTERVAL:
        return None, None
    rng = np.random.default_rng(0)
    resamples = (columns[rng.integers(0, len(columns), len(columns))] for _ in range(RESAMPLES))
    taus = [tau for tau in map(_tau, resamples) if tau is not None]  # None: the resample is one candidate repeated
    if not taus:
        return None, None
    low, high = np.quantile(taus, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
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
