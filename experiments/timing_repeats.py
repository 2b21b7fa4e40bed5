"""Compare the 95 % intervals of timings with how far a second timing of the same network, in another process, is off.

Command:   python -m experiments.timing_repeats
Hardware:  none; reads saved rows
Expected:  docs/explanation/throughput.md, "How far is a second timing off?"

Each pair has one architecture on one machine, both times relative to the same reference. A search, and the retraining
of its front, are hours apart. The interval of a timing is known from its own samples. What a new process changes is
not in it: the deviation between processes is what the differences have beyond the intervals.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.score_lead import RESULTS, retrained_searches
from nas.replay.hybrid_rows import read_rows
from nas.study.timing_doubts import RUN_DEVIATION, Z_OF_INTERVAL

Timing = tuple[float, float, float]  # ratio, ends of its 95 % interval
Array = NDArray[np.float64]
Pairs = Sequence[tuple[Timing, Timing]]
Row = Mapping[str, Any]


def table_pairs(verdict: str | None = None) -> list[tuple[Timing, Timing]]:
    """Return the networks of the published table that were timed with two seeds, both with a verdict or with any."""
    first, second = ({r["arch_id"]: r for r in read_rows() if r["seed"] == s and "ratio" in r} for s in (0, 1))
    both = [(first[arch], second[arch]) for arch in first.keys() & second.keys()]
    return [
        (_timing(a), _timing(b)) for a, b in both if verdict in (None, a["verdict"]) and verdict in (None, b["verdict"])
    ]


def eager_pairs() -> list[tuple[Timing, Timing]]:
    """Return networks of the table that were timed again for the page on runtimes."""
    table = {r["arch_id"]: r for r in read_rows() if r["seed"] == 0 and "ratio" in r}
    again = json.loads(gzip.decompress((RESULTS / "hybrid_timings_eager.json.gz").read_bytes()))
    return [(_timing(table[r["arch_id"]]), _timing(r)) for r in again if r["arch_id"] in table]


def retrained_pairs() -> dict[str, list[tuple[Timing, Timing]]]:
    """Return each search's networks that its retraining timed again in the same setting."""
    found = {}
    for name, rows in retrained_searches().items():
        searched = {ratio: (ratio, low, high) for low, ratio, high, _ in rows.get("timings_of_study", ())}
        pairs = [
            (searched[c["ratio_of_study"]], (c["ratio"], c["ratio_low"], c["ratio_high"]))
            for c in rows["candidates"]
            if "ratio" in c and c.get("ratio_of_study") in searched
        ]
        if pairs:
            found[f"{name}: search and retraining"] = pairs
    return found


def _timing(row: dict[str, Sequence[float]]) -> Timing:
    ratio, low, high = row["ratio"]
    return ratio, low, high


def cells(pairs: Pairs) -> list[str]:
    """Return the cells of a row: counts, deviations of a difference, that between processes, shares outside."""
    differences, variances = _differences(pairs)
    real, implied = float((differences**2).mean()), float(variances.mean())
    between = math.sqrt(max(0.0, real - implied) / 2)
    outside = [share_outside(pairs, extra) for extra in (0.0, RUN_DEVIATION)]
    percents = [f"{100 * value:.1f} %" for value in (math.sqrt(real), math.sqrt(implied), between)]
    return [str(len(pairs)), *percents, *(f"{100 * share:.0f} %" for share in outside)]


def share_outside(pairs: Pairs, deviation: float) -> float:
    """Return the share of pairs that differ by more than both 95 % intervals and a deviation of each timing allow."""
    differences, variances = _differences(pairs)
    return float(np.mean(np.abs(differences) > Z_OF_INTERVAL * np.sqrt(variances + 2 * deviation**2)))


def _differences(pairs: Pairs) -> tuple[Array, Array]:
    """Return the logarithm of each pair's ratio, and its variance by the two intervals."""
    differences = np.asarray([math.log(b[0] / a[0]) for a, b in pairs])
    variances = np.asarray(
        [sum((math.log(high / low) / 2 / Z_OF_INTERVAL) ** 2 for _, low, high in pair) for pair in pairs]
    )
    return differences, variances


def sets() -> dict[str, Pairs]:
    """Return the sets of networks that were timed twice; no pair is in two of them."""
    return {
        "published table, two seeds": table_pairs(),
        "published table and timings for runtimes": eager_pairs(),
        **retrained_pairs(),
    }


def table() -> list[str]:
    """Return the lines of the table, in Markdown."""
    (first, pairs), *rest = sets().items()
    sources: dict[str, Pairs] = {first: pairs, "of these, both `ok`": table_pairs("ok"), **dict(rest)}
    head = (
        "| timings | pairs | difference: real | by the intervals | between processes "
        "| outside 95 % | with it in the interval |",
        "|---|--:|--:|--:|--:|--:|--:|",
    )
    return [*head, *(f"| {name} | {' | '.join(cells(pairs))} |" for name, pairs in sources.items())]


def absolute_table() -> list[str]:
    """Return the lines of the table of values that are not divided by the reference's, in Markdown."""
    of = [{r["arch_id"]: r for r in read_rows() if r["seed"] == seed and "ratio" in r} for seed in (0, 1)]
    both = [(of[0][arch], of[1][arch]) for arch in of[0].keys() & of[1].keys()]
    lines = ["| value | pairs | between processes | second one more than 3 % worse |", "|---|--:|--:|--:|"]
    values: dict[str, Callable[[Row], float]] = {
        "throughput ratio": lambda row: row["ratio"][0],
        "images/s": lambda row: row["img_s"],
        "latency of one image": lambda row: 1 / row["latency_ms"],
    }
    for name, value in values.items():
        gains = np.asarray([math.log(value(second) / value(first)) for first, second in both])
        between, worse = math.sqrt((gains**2).mean() / 2), np.mean(gains < -math.log(1.03))
        lines.append(f"| {name} | {len(gains)} | {100 * between:.1f} % | {100 * worse:.0f} % |")
    return lines


def main() -> None:
    """Print the tables."""
    print("\n".join([*table(), "", *absolute_table()]))


if __name__ == "__main__":
    main()
