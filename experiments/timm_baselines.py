"""Train and time small networks of timm as baselines, beside the presets of a search.

    python -m experiments.timm_baselines
    python -m experiments.timm_baselines --report

A search compares its candidates with its baselines. Networks of timm are those that people would take otherwise. Each
has random weights and the neck of a baseline, see `SearchConfig.spec`, and is evaluated as a search evaluates a
candidate that it never stops, see `experiments.hybrid_table`: counted, timed against eradio_pico in turn, trained on
the built-in images and teachers, scored at each rung.

Rows are saved as they come, and existing ones are not made again. Scores do not depend on what else the machine does;
timings do, but trainings with the same device lock wait for them.

Hardware:  two cores; a minute for each network and seed
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from experiments.distillation.parallel import load_rows, train_missing
from experiments.hybrid_table import BASELINES, evaluate
from nas.study.config import SearchConfig

ROWS = Path(__file__).parent / "results" / "timm_baselines.json"
NAMES = (
    *("mobilenetv4_conv_small", "repvit_m0_9", "mobilenetv3_small_100", "resnet10t", "mobilenetv4_conv_small_050"),
    *("efficientvit_b0", "lcnet_050", "lcnet_100", "starnet_s050", "starnet_s1", "fasternet_t0", "shvit_s1"),
    *("regnetx_002", "efficientvit_m0", "mobilenetv3_small_050"),
)
REFERENCE = "eradio_nano"  # of the report; rows have the ratio to eradio_pico


def jobs() -> list[tuple[str, Any, int]]:
    """Return the evaluations, as the arguments of `evaluate`; baselines of a search have a second seed."""
    default = SearchConfig()
    order = [(name, 0) for name in (*BASELINES, *(f"timm:{name}" for name in NAMES))]
    return [(name, default.spec(name), seed) for name, seed in [*order, *((name, 1) for name in default.baselines)]]


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print throughput and scores of each network, the fastest first: medians of the ratios, means of the scores."""
    of = {name: [row for row in rows if row["source"] == name] for name in dict.fromkeys(row["source"] for row in rows)}
    ratio = {name: median(row["ratio"][0] for row in each if "ratio" in row) for name, each in of.items()}
    print(f"| network | M parameters | MMACs | times {REFERENCE} | its interval | score after 30, 90, 270 | seeds |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in sorted(of, key=lambda name: -ratio[name]):
        each, unit = of[name], ratio[REFERENCE]
        low, high = min(row["ratio"][1] for row in each), max(row["ratio"][2] for row in each)
        scores = ", ".join(f"{fmean(scores):.3f}" for scores in zip(*(row["scores"] for row in each), strict=True))
        counts = f"{each[0]['params'] / 1e6:.2f} | {each[0]['macs'] / 1e6:.1f}"
        interval = f"{low / unit:.2f} to {high / unit:.2f}"
        print(f"| {name} | {counts} | {ratio[name] / unit:.2f} | {interval} | {scores} | {len(each)} |")


def main() -> None:
    """Evaluate what the rows lack, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="evaluations at a time (default: 1)")
    parser.add_argument("--report", action="store_true", help="only print the table of existing rows (default: no)")
    arguments = parser.parse_args()
    rows = load_rows(ROWS)
    if not arguments.report:
        done = {(row["source"], row["seed"]) for row in rows}
        missing = [job for job in jobs() if (job[0], job[2]) not in done]
        train_missing(evaluate, missing, rows, ROWS, arguments.workers)
    report(rows)


if __name__ == "__main__":
    main()
