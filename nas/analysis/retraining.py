"""How the finalists stand after they were trained and measured again: means, chances to be on the front. Pure.

Finalists are only compared with each other: all trained for the same steps, all measured in the finals' own rerank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas import pareto
from nas.finals.chances import front_chances
from nas.finals.scatter import TYPICAL, Scatter, pooled
from nas.finals.selection import estimate
from nas.records import Finalist, Measurement, Rerank, Study, TrialRecord
from nas.reranking.selection import complete, is_baseline, quality

RERANK = "finals"  # under this name the store keeps what was measured again
WRONG = "wrong output"  # a verdict: what was timed does not compute the network


@dataclass(frozen=True)
class Row:
    """One finalist. `chance`: of being on the front of the found ones; None without both numbers, and for baselines."""

    trial: TrialRecord
    trainings: tuple[Finalist, ...]  # by seed; failures too
    measurement: Measurement | None
    reason: str | None  # why a number is missing
    was_on_front: bool  # of the study
    on_front: bool = False  # by means and measured ratios, as they are
    chance: float | None = None

    @property
    def qualities(self) -> dict[int, float]:
        """By seed."""
        return {t.seed: t.quality for t in self.trainings if t.quality is not None}

    @property
    def mean(self) -> float | None:
        """Mean quality over the seeds."""
        values = self.qualities.values()
        return sum(values) / len(values) if values else None

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.trainings[0].steps


@dataclass(frozen=True)
class Standings:
    """All finalists of one length of training, the fastest first."""

    steps: int
    rows: tuple[Row, ...]
    scatter: Scatter  # between seeds after `steps`
    before: Scatter | None  # the same after the study's last rung; None where nobody had two seeds there

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of all trainings."""
        return tuple(sorted({t.seed for row in self.rows for t in row.trainings}))

    @property
    def both(self) -> tuple[Row, ...]:
        """Those with a quality and a measurement."""
        return tuple(row for row in self.rows if row.mean is not None and row.measurement is not None)


def standings(
    study: Study, finals: Sequence[Finalist], reranks: Iterable[Rerank], steps: int | None = None
) -> Standings | None:
    """Of the trainings of so many steps; None where there are none.

    Without `steps`: of those that most nets have, the longest of equals, so that a longer one just begun hides nothing.
    """
    lengths: dict[int, dict[int, list[Finalist]]] = {}
    for final in finals:
        lengths.setdefault(final.steps, {}).setdefault(final.number, []).append(final)
    steps = steps or max(lengths, key=lambda length: (len(lengths[length]), length), default=0)
    by_number = lengths.get(steps, {})
    able = complete(study)
    front = _front_before(able)
    rerank = next((r for r in reranks if r.name == RERANK), None)
    rows = [_row(t, by_number[t.number], rerank, t.number in front) for t in able if t.number in by_number]
    if not rows:
        return None
    scatter = pooled([list(row.qualities.values()) for row in rows]) or TYPICAL
    last = study.info.rung_steps[-1]
    at_last = [[r.quality for f in row.trainings for r in f.rungs if r.steps == last] for row in rows]
    placed = _with_places(rows, scatter)
    fastest = sorted(placed, key=lambda r: (-(r.measurement.ratio if r.measurement else 0.0), r.trial.number))
    return Standings(steps, tuple(fastest), scatter, pooled(at_last))


def _front_before(able: Sequence[TrialRecord]) -> set[int]:
    found = [t for t in able if not is_baseline(t) and t.measurement]
    points = [(quality(t), t.measurement.ratio) for t in found if t.measurement]
    return {found[i].number for i in pareto.front(points)} if found else set()


def _row(trial: TrialRecord, trainings: Sequence[Finalist], rerank: Rerank | None, was_on_front: bool) -> Row:
    m = rerank.measurements.get(trial.number) if rerank else None
    failed = next((f"seed {t.seed}: {t.reason}" for t in trainings if t.reason), None)
    if m is not None and m.verdict == WRONG:
        m, failed = None, WRONG
    elif m is None:
        failed = rerank.unmeasured.get(trial.number, "not measured again") if rerank else "not measured again"
    return Row(trial, tuple(trainings), m, failed, was_on_front)


def _with_places(rows: Sequence[Row], scatter: Scatter) -> list[Row]:
    """Fronts and chances, among the found ones that have both numbers."""
    able = [r for r in rows if r.mean is not None and r.measurement is not None and not is_baseline(r.trial)]
    nets = [estimate(r.mean or 0.0, len(r.qualities), r.measurement) for r in able if r.measurement]
    front = {able[i].trial.number for i in pareto.front([(n.quality, n.ratio) for n in nets])} if nets else set()
    chances = dict(zip((r.trial.number for r in able), front_chances(nets, scatter), strict=True))
    return [_placed(r, r.trial.number in front, chances.get(r.trial.number)) for r in rows]


def _placed(row: Row, on_front: bool, chance: float | None) -> Row:
    return Row(row.trial, row.trainings, row.measurement, row.reason, row.was_on_front, on_front, chance)
