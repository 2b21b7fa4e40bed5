"""Whether the study's last rung ranks the finalists as longer training with other seeds does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nas.finals.standing import Row, Standings
from nas.reranking.agreement import interval, tau_b

LEAST = 3  # nets: of two, tau is 1 or -1 whatever they are

Values = Callable[[Row], float | None]


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of two rankings by quality, of the nets that have both; None where they are too few or equal."""

    label: str
    nets: int
    tau: float | None
    low: float | None  # 95 % interval, by a bootstrap over the nets; None where they are few
    high: float | None


def correlations(s: Standings, last_rung: int) -> tuple[Correlation, ...]:
    """Of the study after `last_rung` steps with the finalists' means, with each seed, and of the seeds with each other.

    Where the finalists were evaluated at that many steps too, what the length and what the seed does are told apart.
    """
    rows = s.rows
    study, long = f"study at {last_rung} steps", f"at {s.steps} steps"
    found = [_correlation(f"{study}, mean of {len(s.seeds)} seeds {long}", rows, _of_study, _mean)]
    if s.steps != last_rung:
        found.append(_correlation(f"{study}, mean of the seeds at {last_rung}", rows, _of_study, _mean_at(last_rung)))
        found.append(_correlation(f"mean of the seeds at {last_rung}, {long}", rows, _mean_at(last_rung), _mean))
    found += [_correlation(f"{study}, seed {seed} {long}", rows, _of_study, _of_seed(seed)) for seed in s.seeds]
    for a, b in combinations(s.seeds, 2):
        found.append(_correlation(f"seeds {a} and {b} {long}", rows, _of_seed(a), _of_seed(b)))
    return tuple(found)


def _correlation(label: str, rows: Sequence[Row], first: Values, second: Values) -> Correlation:
    pairs = [(a, b) for row in rows if (a := first(row)) is not None and (b := second(row)) is not None]
    if len(pairs) < LEAST:
        return Correlation(label, len(pairs), None, None, None)
    columns = np.asarray(pairs)
    return Correlation(label, len(pairs), tau_b(columns), *interval(columns, np.random.default_rng(0)))


def _of_study(row: Row) -> float | None:
    return row.trial.final_score


def _mean(row: Row) -> float | None:
    return row.mean


def _of_seed(seed: int) -> Values:
    return lambda row: row.qualities.get(seed)


def _mean_at(steps: int) -> Values:
    """Mean over the seeds after fewer steps than the last."""

    def mean(row: Row) -> float | None:
        values = [rung.quality for t in row.trainings for rung in t.rungs if rung.steps == steps]
        return sum(values) / len(values) if values else None

    return mean
