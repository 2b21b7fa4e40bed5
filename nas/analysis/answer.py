"""The best net of a study within limits, how sure that is, and what comes nearest where there is none. Pure.

Only nets with the same training are compared: those of the study's last rung with each other, or finalists with each
other, each by their own measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.finals.chances import DRAWS, drawn_qualities
from nas.finals.scatter import TYPICAL, Scatter
from nas.finals.standing import Standings
from nas.querying.limits import Quantity, chance_to_keep, quantities
from nas.records import Measurement, Study, TrialRecord, TrialState
from nas.reranking.selection import SelectionError, complete, quality

FINALS, LAST_RUNG = "finals", "last rung"
NEGLIGIBLE = 0.05  # chance: a net that is better with less is told apart

Limits = Mapping[str, float]
Latencies = Callable[[str, str], Sequence[float]]  # basis, arch_id -> seconds of calls with one image, as far as kept


@dataclass(frozen=True)
class Net:
    """One that may be the answer. `chance_best`: of being the best of those that fit, whose values count as exact."""

    trial: TrialRecord
    measurement: Measurement
    quality: float  # mean over seeds
    seeds: int
    known: Mapping[str, Quantity]
    chance_best: float | None = None  # None for those that don't fit
    chance_to_keep: float | None = None  # None where no interval is known

    def fits(self, limits: Limits) -> bool:
        """Whether it keeps all; what is unknown is not kept."""
        return all(name in self.known and self.known[name].kept(bound) for name, bound in limits.items())

    def gives(self, limits: Limits) -> dict[str, float]:
        """The factor by which each limit would have to give, of those that it breaks."""
        factors = {n: self.known[n].give(bound) if n in self.known else math.inf for n, bound in limits.items()}
        return {name: factor for name, factor in factors.items() if factor > 1}


@dataclass(frozen=True)
class Answer:
    """What a study says to limits. `nearest` and `alone` are there where nothing fits."""

    basis: str  # FINALS or LAST_RUNG
    steps: int  # of the trainings that are compared
    scatter: Scatter
    best: Net | None
    runners_up: tuple[Net, ...]  # that cannot be told apart from the best in quality, the likeliest first
    fitting: int
    compared: int
    left_out: int  # nets within the limits whose training was stopped at a lower rung
    beside: int  # further nets within the limits that are no finalists; 0 where the basis is the last rung
    nearest: Net | None
    alone: Mapping[str, Net | None]  # by limit, the best net that keeps this one


def answer(
    study: Study, found: Standings | None, limits: Limits, latencies: Latencies = lambda basis, arch_id: ()
) -> Answer:
    """The answer. SelectionError where the study has no complete net.

    Finalists answer where the best net by the last rung is one of them: they were trained longer and with more seeds.
    """
    able = complete(study)
    if not able:
        raise SelectionError("the study has no net that was measured and trained to its last rung")
    last = [_net(t, t.measurement, quality(t), 1, latencies(LAST_RUNG, t.arch_id)) for t in able if t.measurement]
    final = _finalists(found, latencies)
    favourite = _best([n for n in last if n.fits(limits)])
    numbers = {n.trial.number for n in final}
    by_finals = any(n.fits(limits) for n in final) and (favourite is None or favourite.trial.number in numbers)
    nets = final if by_finals else last
    scatter = (found.scatter if by_finals else found.before or TYPICAL) if found else TYPICAL
    fitting = _with_chances([n for n in nets if n.fits(limits)], scatter, limits)
    best = _best(fitting)
    return Answer(
        basis=FINALS if by_finals else LAST_RUNG,
        steps=found.steps if found and by_finals else study.info.rung_steps[-1],
        scatter=scatter,
        best=best,
        runners_up=_runners_up(fitting, best, scatter),
        fitting=len(fitting),
        compared=len(nets),
        left_out=sum(_stopped_within(t, limits) for t in study.trials),
        beside=sum(n.fits(limits) and n.trial.number not in numbers for n in last) if by_finals else 0,
        nearest=None if best else _nearest(nets, limits),
        alone={} if best else {n: _best([net for net in nets if net.fits({n: b})]) for n, b in limits.items()},
    )


def _net(trial: TrialRecord, m: Measurement, mean: float, seeds: int, latencies_s: Sequence[float]) -> Net:
    return Net(trial, m, mean, seeds, quantities(trial, m, latencies_s))


def _finalists(found: Standings | None, latencies: Latencies) -> list[Net]:
    return [
        _net(row.trial, row.measurement, row.mean, len(row.qualities), latencies(FINALS, row.trial.arch_id))
        for row in (found.both if found else ())
        if row.measurement is not None and row.mean is not None
    ]


def _best(nets: Sequence[Net]) -> Net | None:
    """By quality; of equals the fastest, then the earliest."""
    return max(nets, key=lambda n: (n.quality, n.measurement.ratio, -n.trial.number), default=None)


def _with_chances(nets: Sequence[Net], scatter: Scatter, limits: Limits) -> list[Net]:
    if not nets:
        return []
    drawn = _drawn(nets, scatter)
    best = np.bincount(drawn.argmax(axis=1), minlength=len(nets)) / len(drawn)
    return [
        replace(net, chance_best=float(share), chance_to_keep=chance_to_keep(net.known, limits))
        for net, share in zip(nets, best, strict=True)
    ]


def _runners_up(nets: Sequence[Net], best: Net | None, scatter: Scatter) -> tuple[Net, ...]:
    """Those whose chance to be truly better than the best, in a comparison of two, is not negligible."""
    if best is None:
        return ()
    drawn = _drawn(nets, scatter)
    own = drawn[:, nets.index(best)]
    close = [n for n, other in zip(nets, drawn.T, strict=True) if n is not best and (other > own).mean() > NEGLIGIBLE]
    return tuple(sorted(close, key=lambda n: (-(n.chance_best or 0.0), -n.quality, n.trial.number)))


def _drawn(nets: Sequence[Net], scatter: Scatter) -> np.ndarray:
    return drawn_qualities([n.quality for n in nets], [n.seeds for n in nets], scatter, DRAWS, np.random.default_rng(0))


def _stopped_within(trial: TrialRecord, limits: Limits) -> bool:
    m = trial.measurement
    return trial.state is TrialState.STOPPED and m is not None and _net(trial, m, math.nan, 0, ()).fits(limits)


def _nearest(nets: Sequence[Net], limits: Limits) -> Net | None:
    """The net for which the limit that gives most gives least; then the least in all, then the best."""

    def distance(net: Net) -> tuple[float, float, float]:
        gives = net.gives(limits).values()
        return max(gives), math.prod(gives), -net.quality

    nearest = min(nets, key=distance)
    return nearest if math.isfinite(distance(nearest)[0]) else None
