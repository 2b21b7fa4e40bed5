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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import NamedTuple

from scipy.stats import t as student

from experiments.score_lead import retrained_searches
from nas.analysis.noise import SeedScatter, measured_scatter

LEVELS = (0.95, 0.998)  # the second is that of the best of 25 (Bonferroni)
METHODS = ("one for all", "weighted (ours)", "its own alone")
LENGTHS = {"at_last_rung": "as in the search", "scores": "longer"}
SEEDS = 3


class Left(NamedTuple):
    """A seed of one network that was left out."""

    distance: float  # of its score from the mean of the others
    half_widths: tuple[float, ...]  # of the interval that should cover it, by level
    disagree: bool  # whether the others differ more than those of four fifths of the networks


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


def scores_by_search(key: str) -> dict[str, list[list[float]]]:
    """Return the scores of every retrained network with three seeds, by search.

    Args:
        key: Of LENGTHS.
    """
    found = {
        name: [[*c[key].values()] for c in rows["candidates"] if len(c.get(key, ())) == SEEDS]
        for name, rows in retrained_searches().items()
    }
    return {name: scores for name, scores in found.items() if scores}


def coverage(searches: Mapping[str, list[list[float]]], method: str) -> list[str]:
    """Return the cells of a method: coverage, that of networks whose seeds disagree, at the higher level; the width."""
    left = [each for scores in searches.values() for each in left_out(scores, method)]
    covered, sure = (fmean(each.distance <= each.half_widths[i] for each in left) for i in range(len(LEVELS)))
    apart = fmean(each.distance <= each.half_widths[0] for each in left if each.disagree)
    return [
        *(f"{100 * share:.1f} %" for share in (covered, apart, sure)),
        f"{median(e.half_widths[0] for e in left):.4f}",
    ]


def deviations(scores: list[list[float]]) -> list[str]:
    """Return the cells of a search: networks, pooled and typical deviation, how alike they are, the extremes."""
    found = measured_scatter(scores)
    assert found is not None
    assert found.prior is not None
    own = sorted(stdev(values) for values in scores)
    cells = [f"{sd:.4f}" for sd in (found.sd, found.prior.sd, own[0], own[-1])]
    return [str(len(scores)), *cells, f"{found.prior.degrees:.0f}"]


def kinds() -> dict[str, tuple[float, int]]:
    """Return the pooled deviation after the longer training, with its degrees of freedom, by kind of network."""
    scores: dict[str, list[list[float]]] = {"candidates": [], "baselines": []}
    for rows in retrained_searches().values():
        for c in rows["candidates"]:
            scores["baselines" if c["baseline"] else "candidates"].append([*c["scores"].values()])
    pooled = {kind: measured_scatter(each) for kind, each in scores.items()}
    return {kind: (found.sd, found.degrees) for kind, found in pooled.items() if found}


def tables() -> list[str]:
    """Return the lines of both tables, in Markdown."""
    lines = [
        "| training | deviation of a network | covered | whose seeds disagree | covered (99.8 %) | half width |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for key, length in LENGTHS.items():
        searches = scores_by_search(key)
        lines += [f"| {length} | {method} | {' | '.join(coverage(searches, method))} |" for method in METHODS]
    lines += [
        "",
        "| retrained search, longer training | networks | pooled | typical | smallest | largest | prior's degrees |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {name} | {' | '.join(deviations(scores))} |" for name, scores in scores_by_search("scores").items()]
    return lines


def main() -> None:
    """Print the tables."""
    print("\n".join(tables()))
    for kind, (sd, degrees) in kinds().items():
        print(f"\n{kind}: {sd:.4f} ({degrees} degrees of freedom)")


if __name__ == "__main__":
    main()
