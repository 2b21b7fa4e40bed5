"""When a search has converged: what it expects to gain cannot be told from noise. Pure.

The sampler records two hypervolumes with every proposal (`nas.study.records.Expectation`): the largest expected
improvement that it found, and the one that a second training and timing of a member of the front, a neighbor of the
proposal, would show by chance. The search has converged when the first is below the second. One proposal says little,
because its pool of candidates is random, so the median of the latest decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from nas.study.records import TrialRecord

LATEST = 10  # proposals that decide


class GainRatio(NamedTuple):
    """The expected gain in units of the noise: the median of `LATEST` proposals.

    Attributes:
        proposal: Number of the trial of the latest of them.
        ratio: The median.
    """

    proposal: int
    ratio: float


def gain_ratios(trials: Mapping[int, TrialRecord]) -> list[GainRatio]:
    """Return the expected gain in units of the noise after each proposal, from the `LATEST`-th one that has both.

    Args:
        trials: Of a study, by number.
    """
    return _medians(trials, sorted(trials))


def gain_over_noise(trials: Mapping[int, TrialRecord]) -> float | None:
    """Return the latest of `gain_ratios`; None where there is none."""
    ratios = _medians(trials, heapq.nlargest(3 * LATEST, trials)[::-1]) or gain_ratios(trials)
    return ratios[-1].ratio if ratios else None


def is_below_noise(ratio: float | None) -> bool:
    """Return whether an expected gain in units of the noise cannot be told from it; False while it is unknown."""
    return ratio is not None and ratio < 1.0


class Convergence(NamedTuple):
    """When a search converged, and where it is.

    Attributes:
        evaluated: Candidates evaluated until the expected gain was first below the noise; None: it never was.
        ratio: Latest expected gain in units of the noise.
    """

    evaluated: int | None
    ratio: float


def convergence(trials: Iterable[TrialRecord]) -> Convergence | None:
    """Return a study's convergence; None for a sampler without expectations and for a short search."""
    by_number = {trial.number: trial for trial in trials}
    ratios = gain_ratios(by_number)
    if not ratios:
        return None
    first = next((r.proposal for r in ratios if is_below_noise(r.ratio)), None)
    before = None if first is None else sum(t.counts for number, t in by_number.items() if number <= first)
    return Convergence(before, ratios[-1].ratio)


def _medians(trials: Mapping[int, TrialRecord], numbers: Iterable[int]) -> list[GainRatio]:
    expected = [(number, e) for number in numbers if (e := trials[number].expected) is not None and e.repeat_gain > 0]
    gains = [e.gain / e.repeat_gain for _, e in expected]
    return [GainRatio(expected[i - 1][0], median(gains[i - LATEST : i])) for i in range(LATEST, len(gains) + 1)]
