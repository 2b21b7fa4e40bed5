"""What operators cost, by kind: seconds a multiply-accumulate, an element moved and a call, never negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from nas.latency.network import Part

Array = NDArray[np.float64]
Work = dict[str, Array]  # operator kind -> (3,): multiply-accumulates, elements moved, calls

STEPS = 30  # a column; scipy's own 3 have been too few for NNLS before
TRUST = 0.1  # in the cost that fits all kinds alike, where a kind has little to say of its own


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds of parts, and of a whole call beside its parts."""

    by_kind: Mapping[str, Array]  # (3,) each
    any_kind: Array  # (3,): for kinds that were never seen
    beside_s: float

    def part_s(self, part: Part) -> float:
        """Seconds of one part."""
        return sum(float(work @ self.by_kind.get(kind, self.any_kind)) for kind, work in work_of([part]).items())


def work_of(found: Sequence[Part]) -> Work:
    """Work of parts together."""
    work: dict[str, tuple[int, int, int]] = {}
    for kind, macs, moved in (operator for part in found for operator in part.operators):
        m, e, calls = work.get(kind, (0, 0, 0))
        work[kind] = m + macs, e + moved, calls + 1
    return {kind: np.array(amounts, dtype=float) for kind, amounts in work.items()}


def fit_costs(rows: Sequence[tuple[Work, bool]], seconds: Array, weights: Array) -> Costs:
    """Costs from rows of work, each with whether it is of a whole call, and their seconds.

    Least squares of `weights` times what is left, with a normal prior of each cost around that of all kinds. Negative
    costs would fit noise, and make a net with more of something faster.
    """
    kinds = sorted({kind for work, _ in rows for kind in work})
    design = np.zeros((len(rows), 3 * len(kinds) + 1))
    for row, (work, whole) in zip(design, rows, strict=True):
        row[-1] = whole
        for kind, amounts in work.items():
            row[3 * kinds.index(kind) :][:3] = amounts
    pooling = np.vstack([np.tile(np.eye(3, 4), (len(kinds), 1)), np.eye(4)[3:]])
    alike = _non_negative((design @ pooling) * weights[:, None], seconds * weights)
    prior = pooling @ alike
    shrunk = np.vstack([design * prior * weights[:, None], TRUST * np.eye(len(prior))])
    costs = _non_negative(shrunk, np.concatenate([seconds * weights, np.full(len(prior), TRUST)])) * prior
    return Costs(dict(zip(kinds, costs[:-1].reshape(-1, 3), strict=True)), alike[:3], float(costs[-1]))


def _non_negative(design: Array, wanted: Array) -> Array:
    """Non-negative least squares of columns of any scale."""
    scale = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    found: Array = nnls(design / scale, wanted, maxiter=STEPS * design.shape[1])[0] / scale
    return found
