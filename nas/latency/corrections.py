"""How much longer parts take than their operators' costs say, learnt from the times of parts and of their sums.

A Gaussian process over parts: factors of parts of one kind go together, the more so the nearer they are in shape. A
net's time is a sum of parts, so that whole nets and single parts are observations of the same process.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", chapter 2 (any linear functional of one may
be observed).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from nas.latency.costs import Array, Costs
from nas.latency.network import Part

SPREAD = 0.2  # of the factors of parts around 1
UNSEEN = 0.5  # the same, of a kind that was never timed
LENGTH = 1.0  # octaves of one number of the shape, within which factors of a kind go together
SHARED = 0.5  # of a factor's variance, by all parts of its kind


class Corrections:
    """Fitted on rows of parts, each with its time. Predicts sums of parts."""

    def __init__(self, costs: Costs, rows: Sequence[Sequence[Part]], seconds: Array, deviations: Array) -> None:
        """`seconds` are of each row's parts together, known to `deviations` (one standard deviation)."""
        self._costs = costs
        self._parts, self._rows = _sums(costs, rows)
        own = self._rows @ _covariance(self._parts, self._parts) @ self._rows.T
        self._factor = cho_factor(own + np.diag(deviations**2), lower=True)
        self._shares = self._rows.T @ cho_solve(self._factor, seconds - self._rows.sum(axis=1))
        self._kinds = {part.kind for part in self._parts}

    def seconds(self, rows: Sequence[Sequence[Part]]) -> Array:
        """Of each row's parts together."""
        found, sums = _sums(self._costs, rows)
        together: Array = sums @ (1 + _covariance(found, self._parts) @ self._shares)
        return together

    def predict(self, rows: Sequence[Sequence[Part]]) -> tuple[Array, Array]:
        """As `seconds`, and their standard deviation, which takes most of the time."""
        found, sums = _sums(self._costs, rows)
        covariance = _covariance(found, self._parts)
        mean = sums @ (1 + covariance @ self._shares)
        shared = sums @ covariance @ self._rows.T
        strange = np.diag([UNSEEN**2 * (part.kind not in self._kinds) for part in found])
        prior = sums @ (_covariance(found, found) + strange) * sums
        known = shared * cho_solve(self._factor, shared.T).T
        return mean, np.sqrt(np.maximum(prior.sum(axis=1) - known.sum(axis=1), 0.0))


def _sums(costs: Costs, rows: Sequence[Sequence[Part]]) -> tuple[list[Part], Array]:
    """The distinct parts, and for each row the seconds of each of them by costs alone."""
    places: dict[tuple[object, ...], int] = {}
    found: list[Part] = []
    for part in (part for row in rows for part in row):
        if places.setdefault(part[1:], len(found)) == len(found):
            found.append(part)
    seconds = [costs.part_s(part) for part in found]
    sums = np.zeros((len(rows), len(found)))
    for line, row in zip(sums, rows, strict=True):
        for part in row:
            line[places[part[1:]]] += seconds[places[part[1:]]]
    return found, sums


def _covariance(a: Sequence[Part], b: Sequence[Part]) -> Array:
    """Of the factors of parts, (len(a), len(b))."""
    found = np.zeros((len(a), len(b)))
    for kind in {part.kind for part in a}:
        rows = [i for i, part in enumerate(a) if part.kind == kind]
        columns = [i for i, part in enumerate(b) if part.kind == kind]
        if columns:
            own, other = (np.log2([p[i].shape for i in at]) for p, at in ((a, rows), (b, columns)))
            squares = ((own[:, None] - other) ** 2).sum(axis=-1) / LENGTH**2
            found[np.ix_(rows, columns)] = SPREAD**2 * (SHARED + (1 - SHARED) * np.exp(-squares / 2))
    return found
