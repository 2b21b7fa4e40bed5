"""How far two measurements of the same nets agree about their order. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nas.reranking.plane import Spot

RESAMPLES = 1000
LEVEL = 0.95
FEW = 6  # nets: of fewer, every resample is nearly the same

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of the ratios before and now, and what happened to the pairs of nets."""

    nets: int
    tau: float | None  # None where fewer than three nets, or a constant, leave it undefined
    low: float | None  # 95 % interval, by a bootstrap over the nets; None where they are few
    high: float | None
    pairs: int
    turned: int  # pairs in the other order now
    surely_turned: int  # and apart by their intervals both times
    tied: int  # pairs with equal ratios, before or now
    close: int  # pairs whose intervals overlap, before or now


def agreement(before: Sequence[Spot], now: Sequence[Spot], seed: int = 0) -> Agreement:
    """Compare two measurements of the same nets, in the same order. `seed` is the bootstrap's."""
    ratios = np.asarray([(b.ratio, n.ratio) for b, n in zip(before, now, strict=True)]).reshape(-1, 2)
    low, high = interval(ratios, np.random.default_rng(seed))
    order = _order(before) * _order(now)
    close = _overlapping(before) | _overlapping(now)
    return Agreement(
        nets=len(before),
        tau=tau_b(ratios) if len(before) >= 3 else None,
        low=low,
        high=high,
        pairs=len(order),
        turned=int((order < 0).sum()),
        surely_turned=int(((order < 0) & ~close).sum()),
        tied=int((order == 0).sum()),
        close=int(close.sum()),
    )


def _order(spots: Sequence[Spot]) -> Array:
    """Of each pair of nets: 1 where the first is faster, -1 where the second is, 0 for equals."""
    ratios = np.asarray([s.ratio for s in spots])
    first, second = np.triu_indices(len(spots), 1)
    signs: Array = np.sign(ratios[first] - ratios[second])
    return signs


def _overlapping(spots: Sequence[Spot]) -> NDArray[np.bool_]:
    low, high = np.asarray([s.low for s in spots]), np.asarray([s.high for s in spots])
    first, second = np.triu_indices(len(spots), 1)
    return (low[first] <= high[second]) & (low[second] <= high[first])


def tau_b(ratios: Array) -> float | None:
    """Kendall's tau-b of the two columns; None where a constant leaves it undefined."""
    tau = float(kendalltau(ratios[:, 0], ratios[:, 1], method="asymptotic").statistic)
    return tau if math.isfinite(tau) else None


def interval(ratios: Array, rng: np.random.Generator) -> tuple[float | None, float | None]:
    """95 % interval of `tau_b` by a bootstrap over the rows; None where they are few."""
    if len(ratios) < FEW:
        return None, None
    drawn = (ratios[rng.integers(0, len(ratios), len(ratios))] for _ in range(RESAMPLES))
    taus = [tau for tau in map(tau_b, drawn) if tau is not None]  # None: one net drawn again and again
    low, high = np.quantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if taus else (None, None)
    return low if low is None else float(low), high if high is None else float(high)
