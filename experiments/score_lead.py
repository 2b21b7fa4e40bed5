"""Which lead in score over the best baseline does longer training keep?

    python -m experiments.score_lead

A search recommends the fastest candidate that scores at least as high as the best baseline after few steps. This asks
what it would have recommended if the candidate had to lead by more, and what became of each choice.

`RETRAINED` are the searches of which the front and the baselines were trained longer, with new seeds; their timings are
the search's own where the rows have them. The table of hybrid backbones has more networks but no longer training: of
`DRAWS` random choices of `CANDIDATES` candidates each, one is recommended by the scores of one rung, and the scores of
a later rung of the same training decide whether the lead lasted.

Hardware:  none; reads saved rows
Expected:  docs/results/index.md, "Which lead lasts?"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np

from nas.analysis.recommendation import contending
from nas.replay.hybrid_rows import hybrid_table

RESULTS = Path(__file__).parent / "results"
RETRAINED = {
    "`laptop`, CIFAR-10, seed 0": ("cifar10_searches.json", "0"),
    "`laptop`, CIFAR-10, seed 1": ("cifar10_searches.json", "1"),
    "`laptop`, sample report": ("retrained_sample.json", None),
    "`laptop`, sample report until 2026-11-28": ("retrained_sample_b.json", None),
    "`micro`, 202 candidates": ("retrained_study.json", None),
    "`micro`, first sample report": ("known_cost_retrained.json", None),
}
LEADS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)
RUNGS = ((0, 1), (0, 2), (1, 2))  # of the table: chosen by the first, judged by the second
DRAWS, CANDIDATES = 1000, 200
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


def recommended_after(rows: Row) -> tuple[list[int], int, int]:
    """Return the contenders, and whom the retrained scores recommend: of all that were retrained, of the contenders."""
    candidates, baselines = _models(rows)
    level = max(float(c["score_of_study"]) for c in baselines)
    some = [candidates[i] for i in contending([(c["score_of_study"], _ratio(c)) for c in candidates], level)]
    after = max(float(c["score"]) for c in baselines)
    every, few = (max((c for c in which if c["score"] >= after), key=_ratio)["trial"] for which in (candidates, some))
    return [c["trial"] for c in some], every, few


def _ratio(candidate: Row) -> float:
    return float(candidate.get("ratio_of_study", candidate["ratio"]))


def lasting(rung: int, later: int, lead: float, draws: int = DRAWS) -> tuple[float, float, float]:
    """Draw searches from the table of hybrid backbones, and recommend by one rung's scores.

    Returns:
        The share of draws with a recommendation, of these the share whose lead lasted to the later rung, and the
        geometric mean of the recommended one's throughput over that of the fastest that scores as high as the best
        baseline at the later rung.
    """
    rows = hybrid_table()
    rows = rows[(rows["state"] == "complete") & (rows["seed"] == 0)]
    then, after = (rows[f"rung{n}/score"].to_numpy(float) for n in (rung, later))
    ratio = rows["measurement/times_reference"].to_numpy(float)
    baseline = (rows["source"] == "baseline").to_numpy()
    level, level_after = then[baseline].max(), after[baseline].max()
    random, candidates = np.random.default_rng(0), np.flatnonzero(~baseline)
    lasted, speeds = [], []
    for _ in range(draws):
        drawn = random.choice(candidates, CANDIDATES, replace=False)
        leading = drawn[then[drawn] >= level + lead]
        if not len(leading):
            continue
        chosen = leading[ratio[leading].argmax()]
        lasted.append(after[chosen] >= level_after)
        if len(good := drawn[after[drawn] >= level_after]):
            speeds.append(ratio[chosen] / ratio[good].max())
    return len(lasted) / draws, fmean(lasted) if lasted else np.nan, geometric_mean(speeds) if speeds else np.nan


def speedups(rows: Row) -> tuple[float, float | None, float]:
    """Return the speed-up at equal score by three kinds of scores.

    They are those of the search, the means of new seeds after as many steps, where all models have them, and those of
    the longer training.
    """
    candidates, baselines = _models(rows)
    new = all(model.get("at_last_rung") for model in (*candidates, *baselines))

    def speedup(score: Callable[[Row], float]) -> float:
        best = max(baselines, key=score)
        return max(_ratio(c) for c in candidates if score(c) >= score(best)) / _ratio(best)

    again = speedup(lambda model: fmean(model["at_last_rung"].values())) if new else None
    return speedup(lambda model: float(model["score_of_study"])), again, speedup(lambda model: float(model["score"]))


def search_cells(rows: Row) -> list[str]:
    """Return, for each lead, what a search would have recommended: "4.88× −0.007"."""
    choices = [choose(rows, lead) for lead in LEADS]
    return ["none" if c is None else f"{c.speedup:.2f}× ({c.lead_after:+.3f})" for c in choices]


def lasted_cells(searches: Sequence[Row]) -> list[str]:
    """Return, for each lead, in how many of the searches with a recommendation the lead lasted."""
    found = [[c for rows in searches if (c := choose(rows, lead))] for lead in LEADS]
    return [f"{sum(c.lead_after >= 0 for c in choices)} of {len(choices)}" for choices in found]


def table_cells(rung: int, later: int) -> list[str]:
    """Return, for each lead, the share of drawn searches whose recommendation lasted, and the throughput it costs."""
    cells = []
    for lead in LEADS:
        some, lasted, speed = lasting(rung, later, lead)
        cells.append(f"{lasted:.0%} at {speed:.2f}" if some else "none")
    return cells


def main() -> int:
    """Print both tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    heads = " | ".join(f"lead {lead:g}" if lead else "no lead" for lead in LEADS)
    searches = retrained_searches()
    print(f"| retrained search | steps | {heads} |\n|---|--:|{'--:|' * len(LEADS)}")
    for name, rows in searches.items():
        print(f"| {name} | {rows['steps']:,} | {' | '.join(search_cells(rows))} |")
    print(f"| leads that lasted | | {' | '.join(lasted_cells(list(searches.values())))} |")
    print("\n| retrained search | in the search | new seeds, as many steps | longer training |\n|---|--:|--:|--:|")
    for name, rows in searches.items():
        cells = ["unknown" if times is None else f"{times:.2f}×" for times in speedups(rows)]
        print(f"| {name} | {' | '.join(cells)} |")
    steps = (30, 90, 270)
    print(
        "\n| retrained search | retrained candidates | recommended | contenders | recommended |\n|---|--:|--:|--:|--:|"
    )
    for name, rows in searches.items():
        contenders, every, few = recommended_after(rows)
        counts = f"{len(_models(rows)[0])} | trial {every} | {len(contenders)} | trial {few}"
        print(f"| {name} | {counts} |")
    print(f"\n| chosen after, judged after | {heads} |\n|---|{'--:|' * len(LEADS)}")
    for rung, later in RUNGS:
        print(f"| {steps[rung]}, {steps[later]} steps | {' | '.join(table_cells(rung, later))} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
