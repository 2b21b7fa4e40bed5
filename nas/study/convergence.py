"""When a search has converged: what it expects to gain cannot be told from noise. Pure.

The sampler records two hypervolumes with every proposal (`nas.study.records.Expectation`): the largest expected
improvement that it found, and the largest that a second training and timing of a member of the front would show by
chance. The search has converged when the first is below the second. One proposal says little, because its pool of
candidates is random, so the median of the latest decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from nas.study.records import TrialRecord

LATEST = 10  # proposals that decide
SEED_DEVIATION = (
    0.0075  # of a score between seeds: 30 architectures of "micro", 2 seeds, 270 steps (LOG.md, 2026-11-25)
)
TIMING_DEVIATION = 0.013  # of log2 of a ratio between timings, 0.9 %: median over the 203 models of a default search


def gain_over_noise(trials: Iterable[TrialRecord]) -> float | None:
    """Return the expected gain of the latest proposals in units of the noise, their median; None for fewer than LATEST.

    Args:
        trials: Of a study, in any order. Trials without an expectation are ignored.
    """
    expected = [t.expected for t in sorted(trials, key=lambda t: t.number) if t.expected is not None]
    shares = [e.gain / e.repeat_gain for e in expected[-LATEST:] if e.repeat_gain > 0]
    return median(shares) if len(shares) == LATEST else None
