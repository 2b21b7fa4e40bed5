"""Predict each throughput of a recorded search from those before it, as the sampler does when it proposes.

Command:   python -m experiments.predicted_throughput
Hardware:  any; it measures nothing

The search is that of experiments/results/known_cost_search.json. Errors are in octaves of the ratio to the reference;
"trusted" is the share of predictions that would let a candidate train before it is measured.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from statistics import median

from experiments.last_rung import KNOWN_COST
from nas.samplers.cost_model import refit_size
from nas.samplers.latency import MIN_MODELS, LatencyModel, Observation
from nas.study.halving import TRUSTED_DEVIATION
from search_space import ArchSpec

BATCH, RESOLUTION = 16, 64  # of the recorded search
ENDS = (MIN_MODELS, 20, 30, 50, 80, 120, 200)


def main() -> None:
    """Print the errors and the predicted deviations by the number of models measured before."""
    trials = json.loads(KNOWN_COST.read_text())
    models = [Observation(ArchSpec.from_dict(t["spec"]), 1 / t["ratio"][0]) for t in trials]
    rows, fits = [], {}
    for number in range(MIN_MODELS, len(models)):
        size = refit_size(number)
        if size not in fits:
            fits[size] = LatencyModel.fit(models[:size], BATCH, RESOLUTION)
        seconds, deviation = fits[size].predict([models[number].spec])
        rows.append((number, abs(math.log2(seconds[0] / models[number].seconds)), float(deviation[0])))
    for low, high in pairwise(ENDS):
        errors = [error for number, error, _ in rows if low <= number < high]
        deviations = [deviation for number, _, deviation in rows if low <= number < high]
        trusted = sum(deviation < TRUSTED_DEVIATION for deviation in deviations) / len(deviations)
        print(
            f"{low:3} to {high:3} measured: off by {median(errors):.3f} octaves (median), {max(errors):.3f} (most);"
            f" deviation {median(deviations):.3f} (median), trusted {trusted:.2f}"
        )


if __name__ == "__main__":
    main()
