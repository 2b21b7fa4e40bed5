"""Measure how often a 95 % interval around two seeds' mean score covers the score of a third seed.

Command:   python -m experiments.seed_intervals
Hardware:  none; reads saved rows
Expected:  docs/results/index.md, "How sure is a mean over seeds?"

Of each retrained network with three seeds, each seed is left out in turn, and the deviation between seeds is estimated
from the other two of all networks: as one number for all, weighted with each network's own, the same for candidates and
baselines apart, as `nas.analysis.noise` does it, or from each network alone. A score of a third seed scatters around
the mean of the two by the square root of 1 + 1/2 deviations. Networks "whose seeds disagree" are the fifth of each
search with the largest differences between their two seeds.

Searches share trainings: the same baseline with the same seed. Each counts once, in the first search that has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import NamedTuple

from scipy.stats import chi2
from scipy.stats import t as student

from experiments.score_lead import retrained_searches
from nas.analysis.noise import SeedScatter, lead_half_widths, measured_scatter, scatter_by_kind

LEVELS = (0.95, 0.998)  # the second is that of the best of 25 (Bonferroni)
METHODS = ("one for all", "weighted", "weighted, baselines apart (ours)", "its own alone")
LENGTHS = {"at_last_rung": "as in the search", "scores": "longer"}
SEEDS = 3
LONGEST = 2700  # steps


class Network(NamedTuple):
    """A retrained network: its scores, one of each seed, whether it is a baseline, and the seeds that count here."""

    scores: list[float]
    baseline: bool
    counts: list[bool]


class Left(NamedTuple):
    """A seed of one network that was left out."""

    distance: float  # of its score from the mean of the others
    half_widths: tuple[float, ...]  # of the interval that should cover it, by level
    disagree: bool  # whether the others differ more than those of four fifths of the networks
    baseline: bool


def left_out(networks: list[Network], method: str) -> Iterator[Left]:
    """Leave out each seed of each network once.

    Args:
        networks: Those of one search.
        method: Of METHODS.
    """
    for seed in range(SEEDS):
        others = [[*net.scores[:seed], *net.scores[seed + 1 :]] for net in networks]
        gaps = sorted(max(pair) - min(pair) for pair in others)
        scatter = _scatter(others, [net.baseline for net in networks], method)
        for net, pair in zip(networks, others, strict=True):
            if not net.counts[seed]:
                continue
            sd, degrees = _deviation(pair, scatter.of_kind(net.baseline), method)
            halves = tuple(float(student.ppf((1 + level) / 2, degrees)) * sd * math.sqrt(1.5) for level in LEVELS)
            disagree = max(pair) - min(pair) >= gaps[math.ceil(0.8 * len(gaps))]
            yield Left(abs(net.scores[seed] - fmean(pair)), halves, disagree, net.baseline)


def _scatter(scores: list[list[float]], baselines: list[bool], method: str) -> SeedScatter:
    apart = method == METHODS[2]
    found = scatter_by_kind(zip(scores, baselines, strict=True)) if apart else measured_scatter(scores)
    assert found is not None
    return replace(found, prior=None) if method == METHODS[0] else found


def _deviation(pair: list[float], scatter: SeedScatter, method: str) -> tuple[float, float]:
    if method == METHODS[3]:
        own = measured_scatter([pair])
        assert own is not None
        return own.of(pair)
    return scatter.of(pair)


def networks_by_search(key: str) -> dict[str, list[Network]]:
    """Return every retrained network with three seeds, by search.

    Args:
        key: Of LENGTHS.
    """
    found: dict[str, list[Network]] = {}
    seen: set[tuple[str, float]] = set()
    for name, rows in retrained_searches().items():
        for c in rows["candidates"]:
            if len(c.get(key, ())) != SEEDS:
                continue
            scores = [*c[key].values()]
            trainings = [(c["arch_id"], round(score, 9)) for score in scores]
            found.setdefault(name, []).append(Network(scores, bool(c["baseline"]), [t not in seen for t in trainings]))
            seen |= set(trainings)
    return found


def coverage(searches: Mapping[str, list[Network]], method: str) -> list[str]:
    """Return the cells of a method: coverage by group of networks and at the higher level, and the half width."""
    left = [each for networks in searches.values() for each in left_out(networks, method)]
    groups = (left, [e for e in left if e.disagree], [e for e in left if e.baseline])
    covered = [fmean(e.distance <= e.half_widths[0] for e in group) for group in groups]
    sure = fmean(e.distance <= e.half_widths[1] for e in left)
    widths = [median(e.half_widths[0] for e in left if e.baseline is baseline) for baseline in (False, True)]
    return [*(f"{100 * share:.1f} %" for share in (*covered, sure)), *(f"{width:.4f}" for width in widths)]


def deviations(networks: list[Network]) -> list[str]:
    """Return the cells of a search: candidates, their deviations and how alike they are, and those of the baselines."""
    candidates = [net.scores for net in networks if not net.baseline]
    found, baselines = measured_scatter(candidates), measured_scatter(n.scores for n in networks if n.baseline)
    assert found is not None
    assert found.prior is not None
    assert baselines is not None
    own = sorted(map(stdev, candidates))
    cells = [f"{sd:.4f}" for sd in (found.sd, found.prior.sd, own[0], own[-1])]
    return [str(len(candidates)), *cells, f"{found.prior.degrees:.0f}", f"{baselines.sd:.4f}"]


def kinds() -> dict[str, tuple[float, int]]:
    """Return the pooled deviation after the longer training, with its degrees of freedom, by kind of network and data.

    The trainings of one network on the same data are pooled over the searches, each counted once. Searches that were
    retrained for fewer steps are left out: they had other recipes.
    """
    scores: dict[str, dict[str, dict[float, float]]] = {}
    for name, rows in retrained_searches().items():
        data = "images of CIFAR-10" if "CIFAR" in name else "built-in images"
        for c in rows["candidates"] if rows["steps"] == LONGEST else ():
            kind = f"{'baselines' if c['baseline'] else 'candidates'}, {data}"
            own = scores.setdefault(kind, {}).setdefault(c["arch_id"], {})
            own |= {round(score, 9): score for score in c["scores"].values()}
    pooled = {kind: measured_scatter([*each.values()] for each in of.values()) for kind, of in scores.items()}
    return {kind: (found.sd, found.degrees) for kind, found in pooled.items() if found}


def shared_baseline() -> list[str]:
    """Return the lines on leads over eradio_nano by all of its seeds on the images of CIFAR-10."""
    searches = {name: rows for name, rows in retrained_searches().items() if "CIFAR" in name}
    pooled: dict[str, dict[str, float]] = {}
    for rows in searches.values():
        for c in rows["candidates"]:
            if c["baseline"]:
                pooled.setdefault(c["baseline"], {}).update(c["scores"])
    baselines, nano = measured_scatter([*of.values()] for of in pooled.values()), pooled["eradio_nano"]
    lines = ["| retrained search | trial | lead over eradio_nano, seven seeds |", "|---|--:|--:|"]
    for name, number in (("`laptop`, CIFAR-10, seed 3", 196), ("`laptop`, CIFAR-10, seed 4", 186)):
        own = {c["trial"]: [*c["scores"].values()] for c in searches[name]["candidates"] if not c["baseline"]}
        scatter = measured_scatter(own.values())
        assert scatter is not None
        apart = replace(scatter, baselines=baselines)
        sides = lead_half_widths(apart, own[number], [*nano.values()], len(own), len(pooled))
        assert sides is not None
        lead = fmean(own[number]) - fmean(nano.values())
        lines.append(f"| {name} | {number} | {lead:.4f} ± {math.hypot(*sides):.4f} |")
    return lines


def search_length() -> str:
    """Return the deviation of front models of `laptop` on the built-in images after a search's steps, in words."""
    scores: dict[str, dict[float, float]] = {}
    for name, rows in retrained_searches().items():
        for c in rows["candidates"]:
            if "`laptop`" in name and "CIFAR" not in name and not c["baseline"]:
                scores.setdefault(c["arch_id"], {}).update({round(s, 9): s for s in c.get("at_last_rung", {}).values()})
    found = measured_scatter([*of.values()] for of in scores.values())
    assert found is not None
    low, high = (found.sd * math.sqrt(found.degrees / chi2.ppf(at, found.degrees)) for at in (0.975, 0.025))
    interval = f"{found.sd:.4f} ({low:.4f} to {high:.4f})"
    return f"front models of `laptop` after 270 steps: {interval}, {found.degrees} degrees of freedom"


def tables() -> list[str]:
    """Return the lines of both tables, in Markdown."""
    lines = [
        "| training | deviation of a network | covered | whose seeds disagree | baselines | covered (99.8 %) "
        "| half width | of baselines |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for key, length in LENGTHS.items():
        searches = networks_by_search(key)
        lines += [f"| {length} | {method} | {' | '.join(coverage(searches, method))} |" for method in METHODS]
    lines += [
        "",
        "| retrained search, longer training | candidates | pooled | typical | smallest | largest | prior's degrees "
        "| baselines |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    longer = networks_by_search("scores")
    lines += [f"| {name} | {' | '.join(deviations(networks))} |" for name, networks in longer.items()]
    lines += ["", "| networks, 2,700 steps | standard deviation | degrees of freedom |", "|---|--:|--:|"]
    return lines + [f"| {kind} | {sd:.4f} | {degrees} |" for kind, (sd, degrees) in sorted(kinds().items())]


def main() -> None:
    """Print the tables."""
    print("\n".join([*tables(), "", *shared_baseline(), "", search_length()]))


if __name__ == "__main__":
    main()
