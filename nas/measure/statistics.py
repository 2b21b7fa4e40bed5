"""Medians and their confidence intervals from samples that are not independent. Plain arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Array = NDArray[np.float64]

RESAMPLES = 600
LEVEL = 0.95
FEW = 6
ALONE = 2.0  # the factor either way that a single sample is trusted to


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval relative to the value: 0.01 is plus or minus one percent."""
        return (self.high - self.low) / (2 * self.value)


def median_interval(samples: Array, rng: np.random.Generator) -> Interval:
    """Median of a time series (n,) of positive samples with a circular block bootstrap.

    Neighbouring samples share the machine's mood, so blocks of about n^(1/3) neighbours are drawn instead of single
    samples (Künsch 1989; Politis and Romano 1992). Few blocks make the interval too narrow, so it is widened
    by the bootstrap variance's missing length/n and like Student's t against the normal. No bootstrap of under 6
    samples covers 95 %: theirs is Student's of the logarithms, and reaches the extremes at least.
    """
    n = len(samples)
    if n == 0:
        raise ValueError("samples: none; a median needs at least one")
    value = float(np.median(samples))
    if n < FEW:
        return _of_few(samples)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, size=(RESAMPLES, -(-n // length), 1))
    drawn = ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    medians = np.median(samples[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    widened = stdtrit(n / length - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2) / (1 - length / n) ** 0.5
    # Widened as a factor: what is positive stays positive.
    return Interval(value, value * (float(low) / value) ** widened, value * (float(high) / value) ** widened)


def _of_few(samples: Array) -> Interval:
    value, n = float(np.median(samples)), len(samples)
    if n == 1:
        return Interval(value, value / ALONE, value * ALONE)
    reach = float(np.exp(stdtrit(n - 1, (1 + LEVEL) / 2) * np.log(samples).std(ddof=1) / n**0.5))
    return Interval(value, min(float(samples.min()), value / reach), max(float(samples.max()), value * reach))


def ratio_interval(candidate_s: Array, reference_s: Array, rng: np.random.Generator) -> Interval:
    """Median of the paired ratios of (n, k) times; under 6 blocks its interval is that of single samples' ratios."""
    ratios = paired_ratios(candidate_s, reference_s)
    if len(candidate_s) >= FEW:
        return median_interval(ratios, rng)
    single = _of_few((reference_s / candidate_s).ravel())
    low, high = reference_s.min() / candidate_s.max(), reference_s.max() / candidate_s.min()
    return Interval(float(np.median(ratios)), min(single.low, float(low)), max(single.high, float(high)))


def paired_ratios(candidate_s: Array, reference_s: Array) -> Array:
    """How much faster the candidate is, per block: times (n, k) of n blocks of k samples each to ratios (n,).

    Within an A B B A block both arms have the same mean time, so linear drift cancels in the geometric means.
    """
    ratios: Array = np.exp(np.log(reference_s).mean(axis=1) - np.log(candidate_s).mean(axis=1))
    return ratios


def percentile(samples: Array, q: float) -> float | None:
    """The q-th percentile of independent samples (n,); None where there are too few to know it.

    Enough are those of which, at 95 %, the largest lies above it: 59 for the 95th, 299 for the 99th (Wilks 1941).
    """
    if (q / 100) ** len(samples) > 1 - LEVEL:
        return None
    return float(np.percentile(samples, q))
