"""Simulate how often the intervals of all leads of a retrained search hold at once.

Command:   python -m experiments.lead_coverage [--repetitions 1500]
Hardware:  none; a minute or two
Expected:  experiments/LOG.md, 2026-12-01

All networks have the same true score. Candidates' standard deviations between seeds differ, as on retrained fronts;
those of the baselines are equal. A repetition counts where the intervals of all candidates' leads over the first
baseline hold zero: with one deviation for all and the choice among the candidates allowed for on both sides, as until
2026-12-01, and with a deviation for each kind and each side's own choice (`nas.analysis.noise.lead_half_widths`).
"""

from __future__ import annotations

import argparse
from math import hypot

import numpy as np
from numpy.typing import NDArray

from nas.analysis.noise import lead_half_widths, measured_scatter, scatter_by_kind

CANDIDATES, BASELINES = 25, 3
DEVIATION, ALIKE = 0.0018, 8.0  # of candidates: the typical one, and the degrees of freedom of their variances
OF_BASELINES = (0.0018, 0.004, 0.006)
SEEDS = ((2, 2), (3, 3), (3, 9))  # of a candidate, of a baseline
Array = NDArray[np.float64]


def held(candidates: Array, baselines: Array) -> tuple[bool, bool]:
    """Return whether all intervals hold zero by the former rule and by today's.

    Args:
        candidates: Scores (candidates, seeds).
        baselines: Scores (baselines, seeds); the first is compared with.
    """
    ours, theirs = candidates.tolist(), baselines.tolist()
    leads = np.abs(candidates.mean(axis=1) - baselines[0].mean())
    one = measured_scatter([*ours, *theirs])
    apart = scatter_by_kind([*((scores, False) for scores in ours), *((scores, True) for scores in theirs)])
    assert one is not None
    assert apart is not None
    count = len(ours)
    former = [hypot(one.half_width(scores, count) or 0, one.half_width(theirs[0], count) or 0) for scores in ours]
    today = [hypot(*(lead_half_widths(apart, scores, theirs[0], count, len(theirs)) or (0,))) for scores in ours]
    return bool((leads <= former).all()), bool((leads <= today).all())


def coverage(seeds: tuple[int, int], of_baselines: float, repetitions: int) -> tuple[float, float]:
    """Return the shares of repetitions in which all intervals hold, by the former rule and by today's."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(repetitions):
        deviations = DEVIATION * np.sqrt(ALIKE / rng.chisquare(ALIKE, (CANDIDATES, 1)))
        candidates = 0.5 + deviations * rng.standard_normal((CANDIDATES, seeds[0]))
        baselines = 0.5 + of_baselines * rng.standard_normal((BASELINES, seeds[1]))
        found.append(held(candidates, baselines))
    former, today = np.mean(found, axis=0).tolist()
    return former, today


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1500, metavar="N", help="simulated searches (default: 1500)")
    repetitions = parser.parse_args().repetitions
    print("| seeds of candidates, of baselines | deviation of baselines | before | now |\n|---|--:|--:|--:|")
    for seeds in SEEDS:
        for of_baselines in OF_BASELINES:
            former, today = coverage(seeds, of_baselines, repetitions)
            print(f"| {seeds[0]}, {seeds[1]} | {of_baselines:g} | {former:.3f} | {today:.3f} |", flush=True)


if __name__ == "__main__":
    main()
