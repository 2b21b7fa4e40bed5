"""What noise leaves of a ranking: the chance of each net to be on the front, or the best. Pure, the same every time.

Assumed: quality is normal over seeds with one scatter for all nets, itself known only as well as its degrees of freedom
say (so means are Student's t); the logarithm of a speed is normal with its 95 % interval, each side by itself; nets are
independent of each other. Not in it: that a process may start faster or slower than the last (nas.rerank's A/A floor),
and other images than those held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.finals.scatter import Scatter

Array = NDArray[np.float64]

DRAWS = 10_000  # a chance is off by 0.01 at most (95 %)
Z_OF_INTERVAL = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """What is known of one net: its mean quality over so many seeds; its speed with the 95 % interval."""

    quality: float
    seeds: int
    ratio: float
    low: float
    high: float


def front_chances(nets: Sequence[Estimate], scatter: Scatter, draws: int = DRAWS, seed: int = 0) -> list[float]:
    """Chance of each net that none of the others is at least as good in both, quality and speed, and better in one."""
    if not nets:
        return []
    rng = np.random.default_rng(seed)
    quality = drawn_qualities([n.quality for n in nets], [n.seeds for n in nets], scatter, draws, rng)
    return [float(share) for share in _non_dominated(quality, _drawn_speeds(nets, draws, rng)).mean(axis=0)]


def drawn_qualities(
    means: Sequence[float], seeds: Sequence[int], scatter: Scatter, draws: int, rng: np.random.Generator
) -> Array:
    """(draws, nets): what the nets' true mean qualities may be, given their means over so many seeds."""
    sd = scatter.sd * np.sqrt(scatter.degrees / rng.chisquare(scatter.degrees, (draws, 1)))
    noise = rng.standard_normal((draws, len(means)))
    drawn: Array = np.asarray(means) + sd / np.sqrt(np.asarray(seeds)) * noise
    return drawn


def _drawn_speeds(nets: Sequence[Estimate], draws: int, rng: np.random.Generator) -> Array:
    """(draws, nets), as logarithms."""
    value, low, high = (np.log([getattr(n, name) for n in nets]) for name in ("ratio", "low", "high"))
    z = rng.standard_normal((draws, len(nets))) / Z_OF_INTERVAL
    drawn: Array = value + z * np.where(z > 0, np.maximum(high - value, 0), np.maximum(value - low, 0))
    return drawn


def _non_dominated(quality: Array, speed: Array) -> NDArray[np.bool_]:
    """(draws, nets): in each draw by itself; equal nets don't dominate each other."""
    order = np.lexsort((-quality, -speed), axis=-1)  # fastest first, of equally fast ones the best
    q, s = np.take_along_axis(quality, order, axis=1), np.take_along_axis(speed, order, axis=1)
    kept = np.empty(q.shape, dtype=bool)
    best, its_speed = np.full(len(q), -np.inf), np.full(len(q), np.inf)
    for i in range(q.shape[1]):
        better = q[:, i] > best
        kept[:, i] = better | ((q[:, i] == best) & (s[:, i] == its_speed))
        best, its_speed = np.where(better, q[:, i], best), np.where(better, s[:, i], its_speed)
    unsorted = np.empty_like(kept)
    np.put_along_axis(unsorted, order, kept, axis=1)
    return unsorted
