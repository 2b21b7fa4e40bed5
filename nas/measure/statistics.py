"""Compute medians and their confidence intervals from samples that are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from nas.study.timing_doubts import MAX_INTERVAL_FACTOR, MIN_INTERVAL_SAMPLES, usable

Array = NDArray[np.float64]

RESAMPLES = 600
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width relative to the value: 0.01 is plus or minus one percent."""
        return (self.high - self.low) / (2 * self.value)

    @property
    def usable(self) -> bool:
        """Whether the interval says more than that of a single sample."""
        return usable(self.value, self.low, self.high)


def median_interval(samples: Array, rng: np.random.Generator) -> Interval:
    """Return the median of a time series (n,) of positive samples with the interval of a circular block bootstrap.

    Neighboring samples are correlated, so runs of about n^(1/3) neighbors are drawn instead of single samples
    (Künsch 1989; Politis and Romano 1992). Few runs make the interval too narrow. It is therefore widened by the
    bootstrap variance's missing share length/n and by the ratio of Student's t to the normal quantile. No bootstrap of
    fewer than 6 samples covers 95 %: their interval is Student's on the logarithms, extended to the extremes.

    Raises:
        ValueError: There is no sample.
    """
    n = len(samples)
    if n == 0:
        raise ValueError("samples: none; a median needs at least one")
    value = float(np.median(samples))
    if n < MIN_INTERVAL_SAMPLES:
        return _small_sample_interval(samples)
    length = max(1, round(n ** (1 / 3)))
    starts = rng.integers(0, n, size=(RESAMPLES, -(-n // length), 1))
    indices = ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    medians = np.median(samples[indices], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    widening = stdtrit(n / length - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2) / (1 - length / n) ** 0.5
    # The interval is widened by a power of its ends' ratio to the value, so that it stays positive.
    return Interval(value, value * (float(low) / value) ** widening, value * (float(high) / value) ** widening)


def _small_sample_interval(samples: Array) -> Interval:
    value, n = float(np.median(samples)), len(samples)
    if n == 1:
        return Interval(value, value / MAX_INTERVAL_FACTOR, value * MAX_INTERVAL_FACTOR)
    reach = float(np.exp(stdtrit(n - 1, (1 + LEVEL) / 2) * np.log(samples).std(ddof=1) / n**0.5))
    return Interval(value, min(float(samples.min()), value / reach), max(float(samples.max()), value * reach))


def ratio_interval(candidate_s: Array, reference_s: Array, rng: np.random.Generator) -> Interval:
    """Return the median of the paired ratios of n A B B A blocks, from times (n, k) of k samples a block.

    Below 6 blocks the interval is that of unpaired samples.
    """
    ratios = paired_ratios(candidate_s, reference_s)
    if len(candidate_s) >= MIN_INTERVAL_SAMPLES:
        return median_interval(ratios, rng)
    single = _small_sample_interval((reference_s / candidate_s).ravel())
    low, high = reference_s.min() / candidate_s.max(), reference_s.max() / candidate_s.min()
    return Interval(float(np.median(ratios)), min(single.low, float(low)), max(single.high, float(high)))


def paired_ratios(candidate_s: Array, reference_s: Array) -> Array:
    """Return reference time over candidate time (n,) of n A B B A blocks, from times (n, k) of k samples a block.

    Within a block both networks have the same mean time, so linear drift cancels in the geometric means.
    """
    ratios: Array = np.exp(np.log(reference_s).mean(axis=1) - np.log(candidate_s).mean(axis=1))
    return ratios


def percentile(samples: Array, q: float) -> float | None:
    """Return the q-th percentile of independent samples (n,); None where they are too few.

    They are enough if the largest lies above the percentile with 95 % probability: 59 samples for the 95th percentile,
    299 for the 99th (Wilks 1941).
    """
    if (q / 100) ** len(samples) > 1 - LEVEL:
        return None
    return float(np.percentile(samples, q))
