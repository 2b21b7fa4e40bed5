"""Draw docs/replay.png from the committed curves: the pair of data set and device that no setting was chosen on.

    python -m experiments.replay_picture

Takes seconds. Reads experiments/results/replay_curves.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nas.replay.plots import draw

ROOT = Path(__file__).parents[1]
CURVES = ROOT / "experiments" / "results" / "replay_curves.json"
PICTURE = ROOT / "docs" / "replay.png"
DATASET, LATENCY, DEVICE = "cifar100", "1080ti_32_ms", "GTX 1080 Ti"


def main() -> None:
    """Draw the picture."""
    pairs = json.loads(CURVES.read_text())
    (pair,) = [each for each in pairs if (each["dataset"], each["latency"]) == (DATASET, LATENCY)]
    samplers = {}
    for name, curves in pair["curves"].items():
        low, median, high = np.percentile(curves, (5, 50, 95), axis=0)
        samplers[name] = {"evaluations": range(1, len(median) + 1), "p5": low, "median": median, "p95": high}
    draw({**pair, "bench": "nasbench201", "latency": DEVICE, "samplers": samplers, "emulated_rungs": False}, PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
