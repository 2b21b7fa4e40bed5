"""By how much is the fastest candidate that scores as high as the best baseline ahead, after longer training?

    python -m experiments.score_lead

`RETRAINED` are the searches of which the front and the baselines were trained longer, with new seeds. Throughputs are
the search's own where the rows have them, else the retraining's.

The retrainings pass 9 or 29 times over the same 3,000 images. With images that hardly repeat the order is another one:
`experiments.horizon_table`.

Hardware:  none; reads saved rows
Expected:  docs/results/index.md, "Which lead lasts?"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.analysis.noise import lead_half_widths, scatter_by_kind

RESULTS = Path(__file__).parent / "results"
RETRAINED = {
    "`laptop`, CIFAR-10, seed 0": ("cifar10_searches.json", "0"),
    "`laptop`, CIFAR-10, seed 1": ("cifar10_searches.json", "1"),
    "`laptop`, CIFAR-10, seed 3": ("cifar10_searches.json", "3"),
    "`laptop`, CIFAR-10, seed 4": ("cifar10_searches.json", "4"),
    "`laptop`, 2026-11-30, seed 0": ("retrained_seed0.json", None),
    "`laptop`, 2026-11-30, seed 1": ("retrained_seed1.json", None),
    "`laptop`, 2026-11-29, sample report": ("retrained_sample.json", None),
    "`laptop`, 2026-11-28": ("retrained_sample_c.json", None),
    "`laptop`, 2026-11-27": ("retrained_sample_b.json", None),
    "`micro`, 2026-11-27": ("retrained_study.json", None),
    "`micro`, 2026-11-26": ("known_cost_retrained.json", None),
}
Row = Mapping[str, Any]


def retrained_searches() -> dict[str, Row]:
    """Return the rows of each retrained search by its name; of those that are saved."""
    found = {}
    for name, (file, seed) in RETRAINED.items():
        rows = json.loads((RESULTS / file).read_text())
        rows = rows if seed is None else rows["retrained"].get(seed)
        if rows is not None:
            found[name] = rows
    return found


def _models(rows: Row) -> tuple[list[Row], list[Row]]:
    """Return the candidates that the search did not stop early, and the baselines."""
    done = [c for c in rows["candidates"] if c["score"] is not None and "ratio" in c and not c.get("stopped_after")]
    return [c for c in done if not c["baseline"]], [c for c in done if c["baseline"]]


def _ratio(candidate: Row) -> float:
    return float(candidate.get("ratio_of_study", candidate["ratio"]))


def speedups(rows: Row) -> tuple[float | None, float | None, float | None]:
    """Return the speed-up at equal score by three kinds of scores; None where it is unknown or nothing scores as high.

    They are those of the search, the means of new seeds after as many steps, where all models have them, and those of
    the longer training. The throughputs are the same in all three.
    """
    candidates, baselines = _models(rows)
    new = all(model.get("at_last_rung") for model in (*candidates, *baselines))

    def speedup(score: Callable[[Row], float]) -> float | None:
        best = max(baselines, key=score)
        times = [_ratio(c) / _ratio(best) for c in candidates if score(c) >= score(best)]
        return max(times, default=None)

    again = speedup(lambda model: fmean(model["at_last_rung"].values())) if new else None
    return speedup(lambda model: float(model["score_of_study"])), again, speedup(lambda model: float(model["score"]))


def lead_cells(rows: Row) -> list[str]:
    """Return two models after the longer training: the fastest that scores as high, and with a lead beyond the noise.

    Each has its trial, its throughput in multiples of the best baseline's, and its lead, with half of the 95 % interval
    that allows for the choice among all candidates.
    """
    candidates, baselines = _models(rows)
    best = max(baselines, key=lambda c: float(c["score"]))
    scatter = scatter_by_kind(([*c["scores"].values()], c["baseline"]) for c in rows["candidates"])

    def cell(c: Row) -> tuple[bool, str]:
        lead = c["score"] - best["score"]
        words = f"trial {c['trial']}, {_ratio(c) / _ratio(best):.2f}×, {lead:.3f}"
        if scatter is None:
            return False, f"{words}, one seed"
        scores, of_best = [*c["scores"].values()], [*best["scores"].values()]
        half = hypot(*(lead_half_widths(scatter, scores, of_best, len(candidates), len(baselines)) or (0.0,)))
        return lead >= half, f"{words} ± {half:.3f}"

    cells = [cell(c) for c in sorted(candidates, key=_ratio, reverse=True) if c["score"] >= best["score"]]
    without = "unknown" if scatter is None else "none"
    return [cells[0][1] if cells else "none", next((words for beyond, words in cells if beyond), without)]


def offset_cell(rows: Row, baselines: bool) -> str:
    """Return the mean of the front's or the baselines' scores in the search less those of new seeds, as many steps."""
    models = [
        c
        for c in rows["candidates"]
        if c.get("at_last_rung") and (c["baseline"] if baselines else c["change"].startswith(("still", "left")))
    ]
    found = [c["score_of_study"] - fmean(c["at_last_rung"].values()) for c in models]
    return "unknown" if not found else f"{fmean(found):+.4f}"


def tables(searches: Mapping[str, Row]) -> list[str]:
    """Return the lines of both tables."""
    lines = [
        "| retrained search | in the search | new seeds, as many steps | longer training | luck of the front "
        "| of the baselines |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, rows in searches.items():
        times = ["unknown" if found is None else f"{found:.2f}×" for found in speedups(rows)]
        luck = [offset_cell(rows, baselines) for baselines in (False, True)]
        lines.append(f"| {name} | {' | '.join([*times, *luck])} |")
    lines += [
        "",
        "| retrained search | fastest that scores as high | fastest with a lead beyond the noise |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {' | '.join(lead_cells(rows))} |" for name, rows in searches.items()]
    return lines


def main() -> int:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for line in tables(retrained_searches()):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
