"""Importance of the choices of the search space: the share of each objective's variance that a choice explains.

A ridge regression on one column per choice and value predicts the objective of held-out models. From 230 specs it
explains 82 % of the variance of unseen throughputs, a random forest 57 % (`experiments/results/predictor_micro.json`).
It cannot see choices that matter only in combination; `Importance.explained` is the R² of the whole regression.

The share of a choice is its permutation importance over twice the variance, which is its total-effect index (Jansen
1999). For a linear model the mean over all permutations has a closed form. The intervals are from a bootstrap: the
regression is fitted to models drawn with replacement and evaluated on the models that were not drawn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge, RidgeCV
from threadpoolctl import threadpool_limits

from nas.study.records import Objective, StudyInfo, TrialRecord
from reports.scored_trials import ScoredTrial, coordinate_of
from reports.summary import StudySummary
from search_space.arch import STEM_STRIDES
from search_space.stage import OPTIONAL

MIN_MODELS = 30
MIN_STRIDE = min(STEM_STRIDES.values())
MIN_EXPLAINED = 0.1  # R² below which the shares mean nothing
MAX_MODELS = 4000  # spread evenly over the study; more take seconds and hardly narrow the intervals
DRAWS = 60  # of the bootstrap
PERCENTILES = 2.5, 97.5
MAX_VALUES = 24  # values of one choice that get a column, the most frequent ones
PENALTIES = np.logspace(-1, 4, 11)
PARENTS = {
    "stem_width": "stem",
    "neck_dim": "neck",
    **dict.fromkeys(OPTIONAL, "block"),
}  # the choice that an option depends on

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """A choice's share of an objective's variance, with its 95 % interval; shares below 0 are chance.

    An option of a block, stem or neck counts for its effect among models with the same block, stem or neck. Fewer than
    100 models show less of a share than there is. Only models trained to the last rung count: successive halving keeps
    the better ones, which makes all choices look alike.
    """

    objective: str
    choice: str  # "stage 3 width", "stem"; stage 1 has stride 4, whatever stride an architecture's stem has
    share: float
    low: float
    high: float
    explained: float  # R² of all choices together on held-out models
    models: int

    @property
    def meaningful(self) -> bool:
        """Tell whether the choices explain enough of the objective for the shares to mean anything."""
        return self.explained >= MIN_EXPLAINED


def importances(info: StudyInfo, summary: StudySummary) -> tuple[Importance, ...]:
    """Rank the choices that varied by their share, objective by objective; none for fewer than `MIN_MODELS` models."""
    with threadpool_limits(1):  # one thread sums in the same order on every machine, and the matrices are small
        return tuple(row for objective in info.objectives for row in _of_objective(objective, summary.complete))


def have_coarse_stems(trials: Iterable[TrialRecord]) -> bool:
    """Tell whether any trial's architecture begins at a larger stride than 4: its first stage is not stage 1."""
    return any(_first_stage(trial.spec) > 1 for trial in trials)


def _of_objective(objective: Objective, models: Sequence[ScoredTrial]) -> list[Importance]:
    data = [(model, y) for model in models if (y := coordinate_of(model.trial, objective)) is not None]
    data = data[:: -(-len(data) // MAX_MODELS) or 1]
    values = np.array([y for _, y in data])
    columns, owners = _columns([_choices(model.trial.spec) for model, _ in data])
    if len(data) < MIN_MODELS or not owners or np.ptp(values) == 0:
        return []
    explained, shares = _shares(columns, owners, values)
    rows = [
        Importance(objective.name, _label(choice), float(drawn.mean()), *_interval(drawn), explained, len(data))
        for choice, drawn in shares.items()
    ]
    return sorted(rows, key=lambda row: (-row.share, row.choice))


def _choices(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a spec into choices with readable names: "stage 1 block", "stem"."""
    flat: dict[str, Any] = {}
    stride = STEM_STRIDES.get(spec.get("stem", ""))
    first = _first_stage(spec)
    for name, value in spec.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            if stride:
                flat["last stride"] = stride * 2 ** (len(value) - 1)
            for number, part in enumerate(value, start=first):
                flat |= _choices(part, f"{prefix}{name.removesuffix('s')} {number} ")
        else:
            flat[f"{prefix}{name}"] = value
    if (neck := re.fullmatch(r"stage(\d+)", str(flat.get("neck")))) is not None:
        flat["neck"] = f"stage{int(neck[1]) + first - 1}"
    return flat


def _first_stage(spec: Mapping[str, Any]) -> int:
    """Return the number of a spec's first stage, counted by stride: 1 at the smallest stride of all stems."""
    return (STEM_STRIDES.get(spec.get("stem", ""), MIN_STRIDE) // MIN_STRIDE).bit_length()


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[Array, list[str]]:
    """Return centered indicator columns (rows, columns), and the choice that each column belongs to.

    An option is centered within each value of the choice it depends on, so that it explains nothing that the other
    choice explains. A choice that some specs lack, such as a stage's width, is centered among those that have it.
    """
    columns, owners = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        levels = _coded(row.get(name) for row in rows)
        stage, _, field = name.rpartition(" ")
        parent = f"{stage} {PARENTS[field]}".strip() if field in PARENTS else None
        within = _coded(row.get(parent) if parent else name in row for row in rows)
        for level in range(min(int(levels.max()) + 1, MAX_VALUES)) if levels.any() else ():
            indicator = (levels == level).astype(np.float64)
            centered = indicator - (np.bincount(within, indicator) / np.maximum(np.bincount(within), 1))[within]
            if np.abs(centered).max() > 1e-9:
                columns.append(centered)
                owners.append(name)
    return np.array(columns).T, owners


def _coded(values: Iterable[Any]) -> NDArray[np.int64]:
    """Number the distinct values, the most frequent one 0."""
    keys = [json.dumps(value, sort_keys=True) for value in values]
    rank = {key: i for i, (key, _) in enumerate(sorted(Counter(keys).items(), key=lambda item: (-item[1], item[0])))}
    return np.array([rank[key] for key in keys], dtype=np.int64)


def _shares(columns: Array, owners: Sequence[str], values: Array) -> tuple[float, dict[str, Array]]:
    """Return the mean R² over the draws, and each choice's share in every draw.

    With c a choice's part of the prediction and e the error, permuting the choice raises the mean squared error by
    2 (cov(e, c) + var(c)), averaged over all permutations.
    """
    penalty = RidgeCV(PENALTIES).fit(columns, values).alpha_
    member = np.array([[owner == name for name in dict.fromkeys(owners)] for owner in owners], dtype=np.float64)
    rng = np.random.default_rng(0)
    explained, shares = [], []
    for _ in range(DRAWS):
        drawn = rng.integers(len(values), size=len(values))
        held_out = np.setdiff1d(np.arange(len(values)), drawn)
        model = Ridge(penalty, solver="cholesky").fit(columns[drawn], values[drawn])
        parts = (columns[held_out] * model.coef_) @ member
        errors = values[held_out] - parts.sum(1) - model.intercept_
        variance = values[held_out].var()
        if variance > 0:
            about = parts - parts.mean(0)
            shares.append((about * (errors[:, None] + about)).mean(0) / variance)
            explained.append(1 - (errors**2).mean() / variance)
    return float(np.mean(explained)), dict(zip(dict.fromkeys(owners), np.array(shares).T, strict=True))


def _label(choice: str) -> str:
    return choice.replace("_", " ")


def _interval(drawn: Array) -> tuple[float, float]:
    low, high = np.percentile(drawn, PERCENTILES)
    return float(low), float(high)
