"""Measure how often a 95 % interval around two seeds' mean score covers the score of a third seed.

Command:   python -m experiments.seed_intervals
Hardware:  none; reads saved rows
Expected:  docs/results/index.md, "How sure is a mean over seeds?"

Of each retrained network with three seeds, each seed is left out in turn, and the deviation between seeds is estimated
from the other two of all networks: as one number for all, as `nas.analysis.noise` does it, or from each network alone.
A score of a third seed scatters around the mean of the two by the square root of 1 + 1/2 deviations. Networks "whose
seeds disagree" are the fifth of each search with the largest differences between their two seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, median
from typing import NamedTuple

from scipy.stats import t as student

from experiments.score_lead import retrained_searches
from nas.analysis.noise import SeedScatter, measured_scatter

LEVELS = (0.95, 0.998)  # the second is that of the best of 25 (Bonferroni)
METHODS = ("one deviation for all", "weighted (ours)", "each network alone")
LENGTHS = {"at_last_rung": "270 steps", "scores": "2,700 steps"}


class Left(NamedTuple):
    """A seed that was left out: its distance from the mean of the others, and their difference."""

    distance: float
    half_widths: tuple[float, ...]  # by level
    disagree: bool


def left_out(scores: list[list[float]], method: str) -> Iterator[Left]:
    """Leave out each seed of each network once.

    Args:
        scores: Of each network, one of each seed.
        method: Of METHODS.
    """
    for seed in range(len(scores[0])):
        others = [[*values[:seed], *values[seed + 1 :]] for values in scores]
        scatter = measured_scatter(others)
        assert scatter is not None
        gaps = sorted(max(pair) - min(pair) for pair in others)
        for values, pair in zip(scores, others, strict=True):
            sd, degrees = _deviation(pair, scatter, method)
            halves = tuple(float(student.ppf((1 + level) / 2, degrees)) * sd * math.sqrt(1.5) for level in LEVELS)
            disagree = max(pair) - min(pair) >= gaps[math.ceil(0.8 * len(gaps))]
            yield Left(abs(values[seed] - fmean(pair)), halves, disagree)


def _deviation(pair: list[float], scatter: SeedScatter, method: str) -> tuple[float, float]:
    if method == METHODS[2]:
        own = measured_scatter([pair])
        assert own is not None
        return own.of(pair)
    return (scatter if method == METHODS[1] else replace(scatter, prior=None)).of(pair)


def main() -> None:
    """Print the coverage of each method, a row each, and the deviations of each search."""
    searches = {
        name: rows
        for name, rows in retrained_searches().items()
        if rows["steps"] == 2700
        and sum(len(c["scores"]) == 3 for c in rows["candidates"]) > len(rows["candidates"]) / 2
    }
    print("training | estimate | covered (95 %) | whose seeds disagree | covered (99.8 %) | median half width (95 %)")
    for key, length in LENGTHS.items():
        by_search = {
            name: [[*c[key].values()] for c in rows["candidates"] if len(c[key]) == 3]
            for name, rows in searches.items()
        }
        for method in METHODS:
            left = [each for scores in by_search.values() for each in left_out(scores, method)]
            covered = [fmean(each.distance <= each.half_widths[i] for each in left) for i in range(len(LEVELS))]
            apart = fmean(each.distance <= each.half_widths[0] for each in left if each.disagree)
            width = median(each.half_widths[0] for each in left)
            print(f"{length} | {method} | {covered[0]:.1%} | {apart:.1%} | {covered[1]:.1%} | {width:.4f}")
        for name, scores in by_search.items():
            found = measured_scatter(scores)
            assert found is not None
            assert found.prior is not None
            print(
                f"  {name}: {len(scores)} networks, pooled {found.sd:.4f}, typical {found.prior.sd:.4f}, "
                f"as alike as {found.prior.degrees:.1f} degrees of freedom"
            )


if __name__ == "__main__":
    main()
