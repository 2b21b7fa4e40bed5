"""What the table to the horizon shows: which rung orders as 2,700 steps do, and what a long training adds to a score.

    python -m experiments.horizon_findings

Reads nas/replay/horizon_table.json.gz and prints, for the trainings with 30,000 images:

- Kendall's tau of each rung with the horizon, by depth and attention, and among the best tenth at the horizon;
- the named networks with 3,000 and with 30,000 images, and what became of each lead over eradio_nano;
- the deviation of a score at the horizon between seeds;
- the linear model of the gain that chooses the candidates of a race (`nas.study.horizon`), with its error on networks
  that it was not fitted to, against other sets of features. It is fitted to the candidates of
  `experiments.race_oracle`, too, by the scores of their searches, in which chance favors what a search has chosen.

Hardware:  none; seconds
Expected:  see experiments/LOG.md
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.distillation.parallel import load_rows
from experiments.horizon_table import ATTENTION, FEW, MANY, NAMED_SEED, ROWS, RUNGS
from experiments.race_oracle import ROWS as RACED
from experiments.race_oracle import long_scores
from nas.analysis.agreement import rank_correlation
from nas.study.horizon import HorizonModel

Row = Mapping[str, Any]
LAST = RUNGS.index(270)  # the last rung of a search
DEEP = 6  # blocks
FEATURES = ("score", "blocks", "attention", "log2 params", "slope")
TARGET = "eradio_nano"
MIN_SCORE = 0.5  # at the last rung of a search; what scores less takes part in no race
MODELS = {"none": (0,), "score": (0, 1), "score, blocks, attention": (0, 1, 2, 3), "score, params": (0, 1, 4),
          "score, slope": (0, 1, 5), "score, params, slope": (0, 1, 4, 5), "all": (0, 1, 2, 3, 4, 5)}  # fmt: skip
NEAR = 0.03  # to the best candidate after the long training
USED = {LAST: "score, params", LAST + 1: "score, params, slope"}
OTHER_IMAGES = ("c10",)  # searches on other images, which test the model; of `experiments.race_oracle`


def family(row: Row) -> str:
    """Return where an architecture comes from: "random", "front", "deep", "preset" or "sample"."""
    return {"eradio": "preset"}.get(row["source"].split("_")[0], row["source"].split()[0])


def blocks(row: Row) -> int:
    """Return the number of blocks."""
    return sum(stage["depth"] for stage in row["spec"]["stages"])


def attending(row: Row) -> int:
    """Return the number of blocks that attend."""
    return sum(stage["depth"] for stage in row["spec"]["stages"] if stage["block"] in ATTENTION)


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by group."""
    best = sorted(rows, key=lambda row: -row["scores"][-1])
    return {
        "all": list(rows),
        f"fewer than {DEEP} blocks": [row for row in rows if blocks(row) < DEEP],
        f"{DEEP} blocks or more": [row for row in rows if blocks(row) >= DEEP],
        "with attention": [row for row in rows if attending(row)],
        "without attention": [row for row in rows if not attending(row)],
        "the best tenth": best[: max(3, math.ceil(len(best) / 10))],
        "the best third": best[: max(3, math.ceil(len(best) / 3))],
    }


def features(row: Row, rung: int) -> list[float]:
    """Return the values of FEATURES of an architecture, with the score at a rung, after the constant 1.

    The slope is the rise of the score from the rung before, in the same training, per tenfold steps; 0 if unknown.
    """
    before = row["begun"] if rung == LAST + 1 and "begun" in row else row["scores"][rung - 1]
    slope = (row["scores"][rung] - before) / math.log10(RUNGS[rung] / RUNGS[rung - 1])
    slope = 0.0 if math.isnan(slope) else slope
    return [1.0, row["scores"][rung], blocks(row), attending(row), math.log2(row["params"]), slope]


def gain(row: Row, rung: int) -> float:
    """Return what the steps after a rung add to the score, or are expected to add where that is the end."""
    return float(row.get("later", row["scores"][-1]) - row["scores"][rung])


def fitted(rows: Sequence[Row], used: Sequence[int], rung: int) -> NDArray[np.float64]:
    """Return the coefficients of a linear model of the gain, fitted by least squares; 0 for features not used."""
    matrix = np.asarray([features(row, rung) for row in rows])[:, list(used)]
    coefficients = np.zeros(1 + len(FEATURES))
    gains = np.asarray([gain(row, rung) for row in rows])
    coefficients[list(used)] = np.linalg.lstsq(matrix, gains, rcond=None)[0]
    return coefficients


def errors_of(rows: Sequence[Row], coefficients: NDArray[np.float64], rung: int) -> list[float]:
    """Return the error of the gain of each row."""
    return [gain(row, rung) - float(np.dot(features(row, rung), coefficients)) for row in rows]


def left_out_errors(rows: Sequence[Row], used: Sequence[int], rung: int) -> list[float]:
    """Return the error of the gain of each row by a model fitted to the others."""
    others = [[other for other in rows if other is not row] for row in rows]
    return [
        error
        for row, left in zip(rows, others, strict=True)
        for error in errors_of([row], fitted(left, used, rung), rung)
    ]


def rms(values: Sequence[float]) -> float:
    """Return the root of the mean square."""
    return math.sqrt(fmean(value**2 for value in values))


def seed_deviation(rows: Sequence[Row], rung: int) -> tuple[float, int]:
    """Return the deviation of a score between seeds, pooled over the architectures with several, and its degrees."""
    scores = defaultdict(list)
    for row in rows:
        scores[row["arch_id"]].append(row["scores"][rung])
    several = [values for values in scores.values() if len(values) > 1]
    degrees = sum(len(values) - 1 for values in several)
    squares = sum((value - fmean(values)) ** 2 for values in several for value in values)
    return (math.sqrt(squares / degrees) if degrees else math.nan), degrees


def horizon_model(rows: Sequence[Row], seed_sd: float, rung: int) -> HorizonModel:
    """Return the model that the rows give, rounded as the program has it."""
    used = MODELS[USED[rung]]
    found = [round(float(value), 4) for value in fitted(rows, used, rung)]
    sd = round(rms(left_out_errors(rows, used, rung)), 4)
    return HorizonModel(found[0], found[1], found[4], sd, study_sd=0.15, seed_sd=seed_sd, per_slope=found[5])


def first_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return one row of each architecture, that of its first training."""
    return list({row["arch_id"]: row for row in reversed(rows)}.values())


def lines() -> list[str]:
    """Return the lines to print."""
    rows = [row for row in load_rows(ROWS) if "reason" not in row]
    many = [row for row in rows if row["images"] == MANY]
    once = [row for row in first_seeds(many) if "stages" in row["spec"]]  # without networks of timm
    found = [
        "| group | networks | " + " | ".join(f"{steps} steps" for steps in RUNGS[:-1]) + " |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, group in groups(once).items():
        cells = []
        for rung in range(len(RUNGS) - 1):
            tau = rank_correlation([(row["scores"][rung], row["scores"][-1]) for row in group])
            interval = f" ({tau.low:.2f} to {tau.high:.2f})" if tau.low is not None else ""
            cells.append("-" if tau.tau is None else f"{tau.tau:.2f}{interval}")
        found.append(f"| {name} | {len(group)} | {' | '.join(cells)} |")
    found += ["", "| network | blocks | 270 steps | 2,700, 3,000 images | 2,700, 30,000 | lead, 3,000 | lead, 30,000 |",
              "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    named = {(row["source"], row["images"]): row for row in rows if row["seed"] == NAMED_SEED}
    for source in dict.fromkeys(source for source, _ in named):
        if (source, FEW) in named and (source, MANY) in named:
            short, long = named[source, FEW]["scores"], named[source, MANY]["scores"]
            leads = [
                scores[-1] - named[TARGET, images]["scores"][-1] for scores, images in ((short, FEW), (long, MANY))
            ]
            cells = f"{long[LAST]:.3f} | {short[-1]:.3f} | {long[-1]:.3f} | {leads[0]:+.3f} | {leads[1]:+.3f}"
            found.append(f"| {source} | {blocks(named[source, MANY])} | {cells} |")
    for rung, steps in enumerate(RUNGS):
        deviation, degrees = seed_deviation(many, rung)
        found.append(f"deviation between seeds after {steps} steps: {deviation:.4f} ({degrees} degrees of freedom)")
    unknown = [math.nan] * LAST  # the scores at earlier rungs
    raced = defaultdict(list)
    for row in long_scores(load_rows(RACED)):
        scores = [*unknown, row["short"], row["midway"], row["long"]]
        raced[row["study_name"]].append(row | {"scores": scores})
    of_table = [row for row in once if row["scores"][LAST] >= MIN_SCORE]
    near = [*of_table, *(row for name in raced if name not in OTHER_IMAGES for row in raced[name])]
    deviation, degrees = seed_deviation(many, -1)
    for rung, (name, used) in product((LAST, LAST + 1), MODELS.items()):
        if rung == LAST and 5 in used:  # no slope: the score at that rung is of another training
            if name != "all":
                continue
            used = used[:-1]
        error = rms(left_out_errors(near, used, rung))
        found.append(f"from {RUNGS[rung]} steps, error of {len(near)} networks by the others, with {name}: {error:.4f}")
        for study, models in raced.items():
            errors = errors_of(models, fitted(of_table, used, rung), rung)
            values = f"{fmean(errors):+.4f} ± {pstdev(errors):.4f}"
            found.append(f"  of {len(models)} candidates of {study} by the table: {values}")
    for study, candidates in raced.items():
        others = [*of_table, *(row for name in raced if name not in (study, *OTHER_IMAGES) for row in raced[name])]
        best = [row for row in candidates if row["long"] > max(other["long"] for other in candidates) - NEAR]
        errors = errors_of(best, fitted(others, MODELS[USED[LAST + 1]], LAST + 1), LAST + 1)
        values = f"{fmean(errors):+.4f} ± {pstdev(errors):.4f}"
        found.append(f"from 810 steps, of {len(best)} of the best of {study} by the others: {values}")
    models = [horizon_model(near, round(deviation, 4), rung) for rung in (LAST, LAST + 1)]
    later = [
        row | {"later": models[1].predict(row["scores"][-1], row["params"], features(row, len(RUNGS) - 1)[5])}
        for row in near
    ]
    models += [horizon_model(later, round(deviation, 4), rung) for rung in (LAST, LAST + 1)]
    return [*found, *map(str, models)]


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
