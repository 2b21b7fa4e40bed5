"""What matters: how much of each objective's variance a choice of the space accounts for, on nets not fitted to.

The model is linear in the choices (one column a choice and value, ridge): from 230 specs it explains 82 % of unseen
speeds, a random forest 57 % (`experiments/results/predictor_micro.json`). It sees no choice that matters only together
with another; `Importance.explained` says how much all of it is worth. Share: permutation importance over twice the
variance, which is a choice's total-effect index (Jansen 1999); for a linear model its mean over all permutations has a
closed form. Interval: nets are drawn again with replacement, the model is fitted to these and judged on the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeCV
from threadpoolctl import threadpool_limits

from nas import pareto
from nas.records import Objective, StudyInfo
from reports.objectives import value_of
from reports.summary import Scored, StudySummary
from search_space.arch import OPTIONAL

FEWEST_NETS = 30
LEARNT = 0.1  # R2 from which shares mean something
MOST_NETS = 4000  # evenly over the study's time; more cost seconds and narrow intervals that are narrow already
DRAWS = 60
PERCENTILES = 2.5, 97.5
LEVELS = 24  # values of one choice that get a column, the most frequent ones
PENALTIES = np.logspace(-1, 4, 11)
PARENTS = {"stem_width": "stem", "neck_dim": "neck", **dict.fromkeys(OPTIONAL, "block")}  # what an option belongs to

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """A choice's share of an objective's variance, with its 95 % interval; below 0 by chance alone.

    An option of a block, stem or neck counts for what it adds among nets with the same one. A share is what could be
    learnt from these nets: fewer than 100 show less of it than there is. Nets are those trained to the end: under
    successive halving these are the better ones, which makes all choices look alike.
    """

    objective: str
    choice: str  # "stage 3 width", "stem"
    share: float
    low: float
    high: float
    explained: float  # R2 of all choices together, on nets not fitted to
    nets: int

    @property
    def learnt(self) -> bool:
        """Whether these nets show at all what their choices do to the objective; if not, no share means anything."""
        return self.explained >= LEARNT


def importances(info: StudyInfo, summary: StudySummary) -> tuple[Importance, ...]:
    """All choices that varied, objective by objective, largest first; none for fewer than `FEWEST_NETS` nets."""
    with threadpool_limits(1):  # sums in the same order on every machine, and the matrices are small
        return tuple(row for objective in info.objectives for row in _of_objective(objective, summary.complete))


def _of_objective(objective: Objective, nets: Sequence[Scored]) -> list[Importance]:
    found = [(net, y) for net in nets if (y := _value(net, objective)) is not None]
    found = found[:: -(-len(found) // MOST_NETS) or 1]
    values = np.array([y for _, y in found])
    columns, owners = _columns([_choices(net.trial.spec) for net, _ in found])
    if len(found) < FEWEST_NETS or not owners or np.ptp(values) == 0:
        return []
    explained, shares = _shares(columns, owners, values)
    rows = [
        Importance(objective.name, _said(choice), float(drawn.mean()), *_interval(drawn), explained, len(found))
        for choice, drawn in shares.items()
    ]
    return sorted(rows, key=lambda row: (-row.share, row.choice))


def _value(net: Scored, objective: Objective) -> float | None:
    """Where the net stands on the objective's axis."""
    value = value_of(net.trial, objective.name)
    if value is None or (objective.log and value <= 0):
        return None
    return pareto.coordinate(objective, value)


def _choices(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A spec as readable flat choices: "stage 1 block", "stem"."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for number, part in enumerate(value, start=1):
                flat |= _choices(part, f"{prefix}{name.removesuffix('s')} {number} ")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[Array, list[str]]:
    """(rows, columns) of zeros and ones less their means, and the choice that each column belongs to.

    An option's means are those of its parent's value, so that it can explain nothing that the parent does.
    """
    columns, owners = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        levels = _coded(row.get(name) for row in rows)
        stage, _, field = name.rpartition(" ")
        parent = f"{stage} {PARENTS[field]}".strip() if field in PARENTS else None
        within = _coded(row.get(parent) for row in rows) if parent else np.zeros(len(rows), dtype=np.int64)
        for level in range(min(int(levels.max()) + 1, LEVELS)) if levels.any() else ():
            is_so = (levels == level).astype(np.float64)
            centred = is_so - (np.bincount(within, is_so) / np.maximum(np.bincount(within), 1))[within]
            if np.abs(centred).max() > 1e-9:
                columns.append(centred)
                owners.append(name)
    return np.array(columns).T, owners


def _coded(values: Iterable[Any]) -> NDArray[np.int64]:
    """Values as numbers, the most frequent one 0."""
    keys = [json.dumps(value, sort_keys=True) for value in values]
    rank = {key: i for i, (key, _) in enumerate(sorted(Counter(keys).items(), key=lambda item: (-item[1], item[0])))}
    return np.array([rank[key] for key in keys], dtype=np.int64)


def _shares(columns: Array, owners: Sequence[str], values: Array) -> tuple[float, dict[str, Array]]:
    """R2 over the draws, and each choice's shares, one a draw.

    With c a choice's part of the prediction and e the error, permuting the choice raises the mean squared error by
    2 (cov(e, c) + var(c)) in the mean over all permutations.
    """
    penalty = RidgeCV(PENALTIES).fit(columns, values).alpha_
    member = np.array([[owner == name for name in dict.fromkeys(owners)] for owner in owners], dtype=np.float64)
    rng = np.random.default_rng(0)
    explained, shares = [], []
    for _ in range(DRAWS):
        drawn = rng.integers(len(values), size=len(values))
        left = np.setdiff1d(np.arange(len(values)), drawn)
        model = Ridge(penalty, solver="cholesky").fit(columns[drawn], values[drawn])
        parts = (columns[left] * model.coef_) @ member
        errors = values[left] - parts.sum(1) - model.intercept_
        variance = values[left].var()
        if variance > 0:
            about = parts - parts.mean(0)
            shares.append((about * (errors[:, None] + about)).mean(0) / variance)
            explained.append(1 - (errors**2).mean() / variance)
    return float(np.mean(explained)), dict(zip(dict.fromkeys(owners), np.array(shares).T, strict=True))


def _said(choice: str) -> str:
    return choice.replace("_", " ")


def _interval(drawn: Array) -> tuple[float, float]:
    low, high = np.percentile(drawn, PERCENTILES)
    return float(low), float(high)
