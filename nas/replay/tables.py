"""The share of the true front's hypervolume that searches find, by evaluations: computed, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nas.replay.nasbench201 import KNOWN_COST
from nas.study.pareto import hypervolume

Array = NDArray[np.float64]

SHOWN = (10, 20, 30, 50, 100, 150, 200, 300, 500, 1000, 2000)  # evaluations


def shares(
    accuracy: Sequence[float], latency_ms: Sequence[float], reference: tuple[float, float], whole: float
) -> Array:
    """Return the share found after 1, 2, ... n evaluations, (n,); accuracy is maximized, latency minimized.

    What was not trained to its end found nothing: its accuracy is -inf.
    """
    floor, slowest = reference
    volume, found = 0.0, []
    front: list[tuple[float, float]] = []
    for point in zip(accuracy, latency_ms, strict=True):
        beyond = point[0] > floor and point[1] < slowest
        if beyond and not any(a >= point[0] and ms <= point[1] for a, ms in front):
            front = [(a, ms) for a, ms in front if not (point[0] >= a and point[1] <= ms)] + [point]
            volume = hypervolume([(a, -ms) for a, ms in front], (floor, -slowest))
        found.append(volume / whole)
    return np.array(found)


def whole_volume(accuracy: ArrayLike, latency_ms: ArrayLike, reference: tuple[float, float]) -> float:
    """Return the hypervolume of all cells."""
    points = np.column_stack([np.asarray(accuracy), -np.asarray(latency_ms)])
    return hypervolume(points, (reference[0], -reference[1]))


def quantiles(curves: Sequence[Array]) -> dict[str, list[float]]:
    """Return median, 5th and 95th percentile over seeds by number of evaluations, as plain JSON data."""
    length = min(map(len, curves))
    rows = np.array([curve[:length] for curve in curves])
    low, middle, high = np.percentile(rows, [5, 50, 95], axis=0)
    return {
        "evaluations": list(range(1, length + 1)),
        "median": [round(float(v), 5) for v in middle],
        "p5": [round(float(v), 5) for v in low],
        "p95": [round(float(v), 5) for v in high],
    }


def show(result: dict[str, Any]) -> None:
    """Print the samplers' shares, and what they were counted from."""
    print(f"{result['dataset']} x {result['latency']}: share of the true hypervolume, by architectures evaluated:")
    print(f"median and 5th to 95th percentile of {result['seeds']} seeds")
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column("", justify="right")
    for name in result["samplers"]:
        shown.add_column(name, no_wrap=True)
    length = len(next(iter(result["samplers"].values()))["evaluations"])
    for n in sorted({n for n in SHOWN if n <= length} | {length}):
        cells = (
            f"{curve['median'][n - 1]:.3f} {curve['p5'][n - 1]:.2f}-{curve['p95'][n - 1]:.2f}"
            for curve in result["samplers"].values()
        )
        shown.add_row(str(n), *cells)
    Console().print(shown)
    print(_caption(result))


def _caption(result: dict[str, Any]) -> str:
    reference = result["reference"]
    text = f"counted from {reference['accuracy']:g} % and {reference['latency_ms']:g} ms, both axes linear"
    if KNOWN_COST in result["samplers"]:
        text += f"; {KNOWN_COST} is told of every cell: its latency, {', '.join(result['knowledge'])}"
    if result["emulated_rungs"]:
        spent = ", ".join(f"{name} {value:.0f}" for name, value in result["full_trainings"].items())
        text += f"; {result['rungs']} rungs, those below the last EMULATED; full trainings' worth of training: {spent}"
    return text
