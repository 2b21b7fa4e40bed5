"""Replay searches on the published table of hybrid backbones: samplers compared, and where a search would have stopped.

    python -m experiments.hybrid_replays --workers 2
    python -m experiments.hybrid_replays --report

Each search is that of ``backbone-nas replay hybrid --budget 100 --workers 2``: a default search with two workers, its
rungs, its early stopping and its sampler, on architectures of the table alone. Recorded are, after each evaluation, the
share of the table's hypervolume (by mean scores) that the search's front has, the training steps spent and the seconds
by the simulated clock; and of known-cost, after how many evaluations `--until-converged` would have ended it.

Rows are saved in experiments/results/hybrid_replays.json.gz as they come; existing ones are not made again, so delete
the file when the table has changed.

Hardware:  two cores; a quarter of an hour
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.distillation.parallel import load_rows, train_missing
from nas.replay.hybrid import hybrid_config, load_hybrid, replay_search
from nas.replay.published_study import shares_of
from nas.study.convergence import convergence

Row = Mapping[str, Any]
ROWS = Path(__file__).parent / "results" / "hybrid_replays.json.gz"
SAMPLERS = ("known-cost", "evolution", "random", "tpe", "nsga2")
SEEDS, BUDGET, WORKERS = 20, 100, 2
SHOWN = (10, 20, 30, 60, 100)  # evaluations
LEVELS = (0.9, 0.95, 0.98)  # shares of the hypervolume


def replay(sampler: str, seed: int) -> dict[str, Any]:
    """Replay one search; return its row."""
    table = load_hybrid()
    config = hybrid_config(table, sampler, seed, BUDGET)
    with tempfile.TemporaryDirectory() as folder:
        trials = replay_search(table, config, Path(folder) / "run", WORKERS)
    reached = convergence(trials)
    return {
        "sampler": sampler,
        "seed": seed,
        "shares": shares_of(table, trials)[1].round(5).tolist(),
        "steps": np.cumsum([t.rungs[-1].steps for t in trials]).tolist(),
        "seconds": [round(t.finished_s or 0.0, 1) for t in trials],
        "converged_after": None if reached is None else reached.evaluated,
    }


def described(row: Row) -> str:
    """Say what a search reached."""
    return f"{row['sampler']} seed {row['seed']}: {row['shares'][-1]:.3f} of the hypervolume"


def first_above(row: Row, level: float) -> int | None:
    """Return after how many evaluations a search has a share of the hypervolume for good; None: it never has."""
    below = [i for i, share in enumerate(row["shares"]) if share < level]
    count = below[-1] + 2 if below else 1
    return count if count <= len(row["shares"]) else None


def report(rows: Sequence[Row]) -> None:
    """Print the tables."""
    of = {name: [row for row in rows if row["sampler"] == name] for name in SAMPLERS}
    of = {name: found for name, found in of.items() if found}
    print(f"share of the hypervolume after evaluations, median (5th percentile) of {SEEDS} seeds\n")
    print(f"| sampler | {' | '.join(map(str, SHOWN))} | steps |\n|---|{'--:|' * (len(SHOWN) + 1)}")
    for name, found in of.items():
        shares = np.array([row["shares"] for row in found])[:, np.array(SHOWN) - 1]
        low, middle = np.percentile(shares, (5, 50), axis=0)
        cells = [f"{m:.3f} ({p:.3f})" for m, p in zip(middle, low, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {np.median([row['steps'][-1] for row in found]):,.0f} |")
    print("\nevaluations until a share, median (seeds that reach it); -: at most half of the seeds reach it")
    print(f"| sampler | {' | '.join(map(str, LEVELS))} |\n|---|{'--:|' * len(LEVELS)}")
    for name, found in of.items():
        print(f"| {name} | {' | '.join(_until(found, level) for level in LEVELS)} |")
    _print_pairs(of)
    _print_stops(of.get("known-cost", []))


def _until(found: Sequence[Row], level: float) -> str:
    counts = [first_above(row, level) for row in found]
    middle = float(np.median([math.inf if count is None else count for count in counts]))
    reached = len(counts) - counts.count(None)
    return f"{middle:g} ({reached} of {len(counts)})" if math.isfinite(middle) else f"- ({reached} of {len(counts)})"


def _print_pairs(of: Mapping[str, Sequence[Row]]) -> None:
    ours = {row["seed"]: row for row in of.get("known-cost", [])}
    print(f"\n| known-cost less | {' | '.join(map(str, SHOWN))} |\n|---|{'--:|' * len(SHOWN)}")
    for name, found in of.items():
        pairs = [(ours[row["seed"]], row) for row in found if row["seed"] in ours and name != "known-cost"]
        if len(pairs) > 1:
            cells = []
            for count in SHOWN:
                gains = np.array([a["shares"][count - 1] - b["shares"][count - 1] for a, b in pairs])
                error = gains.std(ddof=1) / math.sqrt(len(gains))
                cells.append(f"{gains.mean():.3f} ± {error:.3f} ({(gains > 0).sum()} of {len(gains)})")
            print(f"| {name} | {' | '.join(cells)} |")


def _print_stops(found: Sequence[Row]) -> None:
    stopped = [(row, row["converged_after"]) for row in found if row["converged_after"]]
    if not stopped:
        return
    counts = [count for _, count in stopped]
    kept = [row["shares"][count - 1] / row["shares"][-1] for row, count in stopped]
    saved = [row["steps"][count - 1] / row["steps"][-1] for row, count in stopped]
    print(f"\n--until-converged would have ended {len(stopped)} of {len(found)} searches of known-cost")
    print("\n| | lowest | median | highest |\n|---|--:|--:|--:|")
    print(f"| evaluations | {min(counts)} | {np.median(counts):g} | {max(counts)} |")
    for name, values in (("share of the final hypervolume", kept), ("share of the steps", saved)):
        print(f"| {name} | {min(values):.3f} | {np.median(values):.3f} | {max(values):.3f} |")


def main() -> None:
    """Replay what is missing, and print what the rows show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="searches at a time (default: 2)")
    parser.add_argument("--report", action="store_true", help="only print what the existing rows show (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(ROWS)
    if not arguments.report:
        done = {(row["sampler"], row["seed"]) for row in rows}
        jobs = [(name, seed) for seed in range(SEEDS) for name in SAMPLERS if (name, seed) not in done]
        train_missing(replay, jobs, rows, ROWS, arguments.workers, described)
    report(rows)


if __name__ == "__main__":
    main()
