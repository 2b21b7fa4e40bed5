"""How often does a pilot of few models accept the rungs that 30 recorded models have?

    python -m experiments.distillation.pilot_rule

Draws models without replacement from those of `results/trust.json` (seed 0, stored in int8), and prints the share of
draws in which a rung passes the rule of `nas.analysis.rung_choice`, with the quantiles of tau and of its lower end.
"""

from __future__ import annotations

import json

import numpy as np

from experiments.distillation.trust import RESULTS
from nas.analysis.agreement import rank_correlation
from nas.analysis.rung_choice import MIN_TAU, MIN_TAU_LOW

DRAWS = 150
RUNGS = (30, 90, 270)


def scores() -> np.ndarray:
    """Return the scores (30, 3) at the rungs: mean explained variance of the teachers' maps."""
    rows = [r for r in json.loads(RESULTS.read_text()) if r["seed"] == 0 and r["stored"] == ["int8", 0.25]]
    rungs = [[rung["teachers"].values() for rung in row["rungs"][: len(RUNGS)]] for row in rows]
    return np.array([[np.mean([heads["spatial"] for heads in teachers]) for teachers in row] for row in rungs])


def main() -> None:
    """Print one line a rung and number of models."""
    table, rng = scores(), np.random.default_rng(1)
    for rung, steps in enumerate(RUNGS[:-1]):
        for models in (12, 24):
            drawn = [table[rng.choice(len(table), models, replace=False)] for _ in range(DRAWS)]
            found = [rank_correlation(each[:, [rung, -1]].tolist()) for each in drawn]
            tau, low = (np.array([getattr(c, name) for c in found], dtype=float) for name in ("tau", "low"))
            accepted = np.mean((tau >= MIN_TAU) & (low >= MIN_TAU_LOW))
            ends = [np.quantile(values, [0.1, 0.5, 0.9]).round(2).tolist() for values in (tau, low)]
            print(f"{steps} steps, {models} models: accepted {accepted:.0%}; tau {ends[0]}, lower end {ends[1]}")


if __name__ == "__main__":
    main()
