"""Control of the linear term: the replay of `known-cost` with sizes that belong to other architectures.

    python -m experiments.sizes macro.csv --budget 60 --seeds 10

Replays NAS-Bench-Macro with the published sizes, without sizes, and with sizes shuffled over the architectures by each
seed, so that they say nothing. Prints the share of the true hypervolume, the linear term's share of the score's
variance, and the CPU seconds of a proposal, by number of evaluations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from nas.replay.arguments import DEFAULT_SOURCES, SIZES
from nas.replay.nasbenchmacro import load_macro
from nas.replay.published_study import replay_config, replay_sampler, replay_study, shares_of
from nas.replay.published_table import PublishedTable
from nas.samplers.known_cost import KnownCostSampler

ROWS = (10, 15, 20, 30, 40, 60, 100, 150, 200)
CONTROLS = ("published", "none", "shuffled")


def watch(sampler: KnownCostSampler, seconds: list[float], shares: list[float]) -> None:
    """Let a sampler write down the CPU seconds of each proposal and the linear term's share in its model."""
    propose, fit = sampler.sample_relative, sampler._fit

    def timed(study: Any, trial: FrozenTrial, space: Any) -> dict[str, Any]:
        began = time.process_time()
        params = propose(study, trial, space)
        seconds.append(time.process_time() - began)
        return params

    def fitted(history: Any) -> Any:
        acquisition, parents = fit(history)
        shares.append(acquisition.qualities.linear_share)
        return acquisition, parents

    sampler.sample_relative, sampler._fit = timed, fitted  # type: ignore[method-assign]


def replay(table: PublishedTable, control: str, seed: int, budget: int) -> tuple[list[float], list[float], list[float]]:
    """Return shares of the hypervolume, shares of the linear term and seconds of a proposal, of each evaluation."""
    sources = [s for s in DEFAULT_SOURCES[table.bench] if s != SIZES or control != "none"]
    if control == "shuffled":
        rows, sizes = np.random.default_rng(seed).permutation(len(table.costs)), table.sizes()
        table = replace(table, sizes=lambda: sizes[rows])
    sampler = replay_sampler("known-cost", table, seed, sources)
    seconds: list[float] = []
    linear: list[float] = []
    watch(sampler, seconds, linear)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        trials = replay_study(table, replay_config(table, "known-cost", seed, budget), sampler, Path(folder) / "run")
    shares = shares_of(table, trials)[0]
    return shares.tolist(), [0.0] * (budget - len(linear)) + linear, seconds[:budget]


def main() -> None:
    """Print one JSON line per control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", metavar="FILE.csv")
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--controls", nargs="+", default=CONTROLS, choices=CONTROLS)
    arguments = parser.parse_args()
    table = load_macro(arguments.table)
    for control in arguments.controls:
        results = [replay(table, control, seed, arguments.budget) for seed in range(arguments.seeds)]
        shares, linear, seconds = (np.array([result[i] for result in results]) for i in range(3))
        rows = [n for n in ROWS if n <= arguments.budget]
        line = {
            "sizes": control,
            "share_median": {n: round(float(np.median(shares[:, n - 1])), 4) for n in rows},
            "share_p5": {n: round(float(np.percentile(shares[:, n - 1], 5)), 4) for n in rows},
            "linear_share_median": {n: round(float(np.median(linear[:, n - 1])), 3) for n in rows},
            "ask_cpu_s": {n: round(float(np.median(seconds[:, n - 5 : n])), 3) for n in rows},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
