"""Medians and their confidence intervals from samples that are not independent. Plain arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 600
LEVEL = 0.95
FEW = 6


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
    by the bootstrap variance's missing length/n and like Student's t against the normal. Under 6 samples the extremes
    are the interval: no bootstrap of so few covers 95 %.
    """
    n = len(samples)
    if n == 0:
        raise ValueError("samples: none; a median needs at least one")
    value = float(np.median(samples))
    if n < FEW:
        return Interval(value, float(samples.min()), float(samples.max()))
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, size=(RESAMPLES, -(-n // length), 1))
    drawn = ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    medians = np.median(samples[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    widened = _student_over_normal(n / length - 1) / (1 - length / n) ** 0.5
    # Widened as a factor: what is positive stays positive.
    return Interval(value, value * (float(low) / value) ** widened, value * (float(high) / value) ** widened)


def _student_over_normal(freedom: float) -> float:
    """Student's 97.5 % quantile over the normal's, by Fisher's expansion."""
    return 1 + (2.372 / freedom + 2.823 / freedom**2) / 1.960


def ratio_interval(candidate_s: Array, reference_s: Array, rng: np.random.Generator) -> Interval:
    """Median of the paired ratios of (n, k) times; under 6 blocks its interval is spanned by single samples."""
    if len(candidate_s) >= FEW:
        return median_interval(paired_ratios(candidate_s, reference_s), rng)
    value = float(np.median(paired_ratios(candidate_s, reference_s)))
    low, high = reference_s.min() / candidate_s.max(), reference_s.max() / candidate_s.min()
    return Interval(value, float(low), float(high))


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
