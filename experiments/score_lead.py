"""Which lead in score over the best baseline does longer training keep?

    python -m experiments.score_lead

A search recommends the fastest candidate that scores at least as high as the best baseline after few steps. This asks
what it would have recommended if the candidate had to lead by more, what became of each choice, and how many of the
candidates with each lead kept one.

`RETRAINED` are the searches of which the front and the baselines were trained longer, with new seeds. Throughputs are
the search's own where the rows have them, else the retraining's. The table of hybrid backbones has more networks but no
longer training: the scores of one rung give the lead, and those of a later rung of the same training decide whether it
lasted. 267 of its candidates come from the neighborhoods of three fronts, so that they are no independent networks.

The retrainings pass 9 or 29 times over the same 3,000 images. With images that hardly repeat the order is another one:
`experiments.horizon_table`.

Hardware:  none; reads saved rows
Expected:  docs/results/index.md, "Which lead lasts?"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.analysis.noise import lead_half_widths, scatter_by_kind
from nas.replay.hybrid_rows import hybrid_table

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
LEADS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
BINS = ((0.0, 0.01), (0.01, 0.02), (0.02, 0.03), (0.03, 0.04), (0.04, 1.0))  # of leads
RUNGS = ((0, 1), (0, 2), (1, 2))  # of the table: the lead is of the first, and the second decides
Scores = Sequence[tuple[float, float]]  # leads before and after
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """The fastest candidate with a lead, how many times as fast as the best baseline, and its lead afterwards."""

    number: int
    speedup: float
    lead_after: float


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


def choose(rows: Row, lead: float) -> Choice | None:
    """Return what a search would have recommended with a lead, and what retraining made of it; None if nothing."""
    candidates, baselines = _models(rows)
    best = max(baselines, key=lambda c: float(c["score_of_study"]))
    leading = [c for c in candidates if c["score_of_study"] >= best["score_of_study"] + lead]
    if not leading:
        return None
    chosen = max(leading, key=_ratio)
    after = chosen["score"] - max(c["score"] for c in baselines)
    return Choice(chosen["trial"], _ratio(chosen) / _ratio(best), after)


def _ratio(candidate: Row) -> float:
    return float(candidate.get("ratio_of_study", candidate["ratio"]))


def leads_of_searches(searches: Sequence[Row]) -> Scores:
    """Return the leads of all retrained candidates in the search and after the longer training."""
    found: list[tuple[float, float]] = []
    for rows in searches:
        candidates, baselines = _models(rows)
        then, after = (max(float(c[name]) for c in baselines) for name in ("score_of_study", "score"))
        found += [(c["score_of_study"] - then, c["score"] - after) for c in candidates]
    return found


def leads_of_table(rung: int, later: int) -> Scores:
    """Return the leads of the candidates of the table of hybrid backbones at two rungs."""
    rows = hybrid_table()
    rows = rows[(rows["state"] == "complete") & (rows["seed"] == 0)]
    then, after = (rows[f"rung{n}/score"].to_numpy(float) for n in (rung, later))
    baseline = (rows["source"] == "baseline").to_numpy()
    leads = then - then[baseline].max(), after - after[baseline].max()
    return list(zip(*(lead[~baseline] for lead in leads), strict=True))


def bin_cells(leads: Scores) -> list[str]:
    """Return, for each of `BINS`, how many of the candidates whose lead lies in it still led or were level."""
    cells = []
    for low, high in BINS:
        after = [later for lead, later in leads if low <= lead < high]
        cells.append(f"{sum(later >= 0 for later in after)} of {len(after)}")
    return cells


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


def search_cells(rows: Row) -> list[str]:
    """Return, for each lead, what a search would have recommended: "4.88× −0.007"."""
    choices = [choose(rows, lead) for lead in LEADS]
    return ["none" if c is None else f"{c.speedup:.2f}× ({c.lead_after:+.3f})" for c in choices]


def lasted_cells(searches: Sequence[Row]) -> list[str]:
    """Return, for each lead, in how many of the searches with a recommendation the lead lasted."""
    found = [[c for rows in searches if (c := choose(rows, lead))] for lead in LEADS]
    return [f"{sum(c.lead_after >= 0 for c in choices)} of {len(choices)}" for choices in found]


def tables(searches: Mapping[str, Row]) -> list[str]:
    """Return the lines of all tables."""
    heads = " | ".join(f"lead {lead:g}" if lead else "no lead" for lead in LEADS)
    lines = [f"| retrained search | steps | {heads} |", f"|---|--:|{'--:|' * len(LEADS)}"]
    lines += [f"| {name} | {rows['steps']:,} | {' | '.join(search_cells(rows))} |" for name, rows in searches.items()]
    lines.append(f"| leads that lasted | | {' | '.join(lasted_cells(list(searches.values())))} |")
    bins = " | ".join(f"{low:g} to {high:g}" if high < 1 else f"{low:g} or more" for low, high in BINS)
    lines += ["", f"| lead of, judged after | {bins} |", f"|---|{'--:|' * len(BINS)}"]
    lines.append(f"| retrained searches | {' | '.join(bin_cells(leads_of_searches(list(searches.values()))))} |")
    steps = (30, 90, 270)
    for rung, later in RUNGS:
        cells = " | ".join(bin_cells(leads_of_table(rung, later)))
        lines.append(f"| the table, {steps[rung]} and {steps[later]} steps | {cells} |")
    lines += [
        "",
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
