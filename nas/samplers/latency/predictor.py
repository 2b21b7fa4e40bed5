"""Predict the time of a network from those timed so far, to choose what to time next; never shown as a time.

    predictor = LatencyPredictor.fit(observations, batch=16, resolution=64)
    print(predictor.cross_validated())
    worth_timing = predictor.shortlist(candidates, limit_s=0.01)

A network is a sum of stages (stem, stages, ...). A stage's time is what its operators cost, by kind, times a factor
that stages of its kind share: a Gaussian process over stages, in which factors go together the more, the nearer stages
are in shape. A network's time is a sum, so that networks and single stages are observations of the same process (any
linear functional of one may be observed: Rasmussen and Williams, "Gaussian Processes for Machine Learning", chapter 2).
All observations must be of one device, runtime, batch and resolution.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls
from scipy.special import ndtr
from scipy.stats import kendalltau, spearmanr

from nas.samplers.latency.stage_costs import StageCost, stage_costs
from search_space import ArchSpec

Array = NDArray[np.float64]
Work = dict[str, Array]  # operator kind -> (3,): multiply-accumulates, elements moved, calls

MIN_MODELS = 10  # of fewer, held-out errors say nothing
NORMAL_95 = 1.96
STEPS = 30  # a column; scipy's own 3 have been too few for NNLS before
TRUST = 0.1  # in the cost that fits all kinds alike, where a kind has little to say of its own
SPREAD = 0.2  # of the factors of stages around 1
UNSEEN = 0.5  # the same, of a kind that was never timed
LENGTH = 1.0  # octaves of one number of the shape, within which factors of a kind go together
SHARED = 0.5  # of a factor's variance, by all stages of its kind
FLOOR = 0.04  # of a net's time: what is shorter weighs no more for being short
WHOLE_NOISE = 0.03  # of a net's time
PART_NOISE = 0.1, 0.005  # of a stage's time, and of its net's on top: stages are timed in a run of their own, less well
AT_ONCE = 256  # bounds the memory that a long list of candidates takes
MAX_MODELS = 300  # nets fitted on: time grows with their cube, and the error hardly falls any more
SCATTER_FOLDS = 5
LEAST_SCATTER = 0.005  # no timing repeats itself better
FAIR_CHANCE = 0.1


@dataclass(frozen=True)
class Observation:
    """A timed network: seconds of one batch, or any unit that all observations share.

    Seconds of different minutes don't compare where a machine drifts: give times relative to a reference that was timed
    beside the net (1 / `Measurement.ratio`), or those times the reference's usual seconds.
    stages_s: by the names of `Backbone.stage_modules`, in the same unit; any of them may be missing.
    """

    spec: ArchSpec
    seconds: float
    stages_s: Mapping[str, float] | None = None

    @classmethod
    def scaled(cls, spec: ArchSpec, seconds: float, whole_s: float, stages_s: Mapping[str, float]) -> Self:
        """Scale stages from another run, in which the whole net took `whole_s` (`nas.measure.stages.StageTimes`)."""
        return cls(spec, seconds, {name: stage_s * seconds / whole_s for name, stage_s in stages_s.items()})


@dataclass(frozen=True)
class Prediction:
    """The most likely result of a measurement; `deviation` is the standard deviation of its logarithm."""

    seconds: float
    deviation: float

    @property
    def low_s(self) -> float:
        """Lower end of the 95 % interval."""
        return self.seconds * math.exp(-NORMAL_95 * self.deviation)

    @property
    def high_s(self) -> float:
        """Upper end of the 95 % interval."""
        return self.seconds * math.exp(NORMAL_95 * self.deviation)

    def chance_within(self, limit_s: float) -> float:
        """Return the probability that a measurement is `limit_s` or less."""
        return float(ndtr(math.log(limit_s / self.seconds) / self.deviation))


def check_observations(observations: Sequence[Observation], batch: int, resolution: int) -> None:
    """Raise ValueError for too few networks, for what is no time, and for an impossible setting."""
    for name, value in (("batch", batch), ("resolution", resolution)):
        if value < 1:
            raise ValueError(f"{name}: {value!r} must be 1 or more")
    nets = {observation.spec.arch_id for observation in observations}
    if len(nets) < MIN_MODELS:
        raise ValueError(f"observations: {len(nets)} nets; a latency predictor needs {MIN_MODELS} or more")
    for observation in observations:
        for what, seconds in (("whole", observation.seconds), *(observation.stages_s or {}).items()):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"observations: {observation.spec.arch_id}, {what}: {seconds!r} s; need more than 0")


@dataclass(frozen=True, eq=False)
class OperatorRates:
    """Seconds a multiply-accumulate, an element moved and a call, by operator kind; and of a call beside its stages."""

    by_kind: Mapping[str, Array]  # (3,) each
    any_kind: Array  # (3,): for kinds that were never seen
    beside_s: float

    def stage_s(self, stage: StageCost) -> float:
        """Return the seconds of one stage."""
        return sum(float(work @ self.by_kind.get(kind, self.any_kind)) for kind, work in work_of([stage]).items())


def work_of(found: Sequence[StageCost]) -> Work:
    """Add up the work of stages."""
    work: dict[str, tuple[int, int, int]] = {}
    for kind, macs, moved in (operator for stage in found for operator in stage.operators):
        m, e, calls = work.get(kind, (0, 0, 0))
        work[kind] = m + macs, e + moved, calls + 1
    return {kind: np.array(amounts, dtype=float) for kind, amounts in work.items()}


def fit_rates(rows: Sequence[tuple[Work, bool]], seconds: Array, weights: Array) -> OperatorRates:
    """Fit rates to rows of work, each with whether it is of a whole call, and their seconds.

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
    return OperatorRates(dict(zip(kinds, costs[:-1].reshape(-1, 3), strict=True)), alike[:3], float(costs[-1]))


def _non_negative(design: Array, wanted: Array) -> Array:
    """Solve non-negative least squares of columns of any scale."""
    scale = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    found: Array = nnls(design / scale, wanted, maxiter=STEPS * design.shape[1])[0] / scale
    return found


class ResidualGP:
    """A Gaussian process over stages, fitted on the times of sums of stages; predicts such sums."""

    def __init__(
        self, rates: OperatorRates, rows: Sequence[Sequence[StageCost]], seconds: Array, deviations: Array
    ) -> None:
        """Fit; `seconds` are of each row's stages together, known to `deviations` (one standard deviation)."""
        self._rates = rates
        self._stages, self._rows = _sums(rates, rows)
        own = self._rows @ _covariance(self._stages, self._stages) @ self._rows.T
        self._factor = cho_factor(own + np.diag(deviations**2), lower=True)
        self._shares = self._rows.T @ cho_solve(self._factor, seconds - self._rows.sum(axis=1))
        self._kinds = {stage.kind for stage in self._stages}

    def seconds(self, rows: Sequence[Sequence[StageCost]]) -> Array:
        """Return the seconds of each row's stages together."""
        found, sums = _sums(self._rates, rows)
        together: Array = sums @ (1 + _covariance(found, self._stages) @ self._shares)
        return together

    def predict(self, rows: Sequence[Sequence[StageCost]]) -> tuple[Array, Array]:
        """Return `seconds` and their standard deviation, which takes most of the time."""
        found, sums = _sums(self._rates, rows)
        covariance = _covariance(found, self._stages)
        mean = sums @ (1 + covariance @ self._shares)
        shared = sums @ covariance @ self._rows.T
        strange = np.diag([UNSEEN**2 * (stage.kind not in self._kinds) for stage in found])
        prior = sums @ (_covariance(found, found) + strange) * sums
        known = shared * cho_solve(self._factor, shared.T).T
        return mean, np.sqrt(np.maximum(prior.sum(axis=1) - known.sum(axis=1), 0.0))


def _sums(rates: OperatorRates, rows: Sequence[Sequence[StageCost]]) -> tuple[list[StageCost], Array]:
    """Return the distinct stages, and for each row the seconds of each of them by rates alone."""
    places: dict[tuple[object, ...], int] = {}
    found: list[StageCost] = []
    for stage in (stage for row in rows for stage in row):
        if places.setdefault(stage[1:], len(found)) == len(found):
            found.append(stage)
    seconds = [rates.stage_s(stage) for stage in found]
    sums = np.zeros((len(rows), len(found)))
    for line, row in zip(sums, rows, strict=True):
        for stage in row:
            line[places[stage[1:]]] += seconds[places[stage[1:]]]
    return found, sums


def _covariance(a: Sequence[StageCost], b: Sequence[StageCost]) -> Array:
    """Return the covariance of the factors of stages, (len(a), len(b))."""
    found = np.zeros((len(a), len(b)))
    for kind in {stage.kind for stage in a}:
        rows = [i for i, stage in enumerate(a) if stage.kind == kind]
        columns = [i for i, stage in enumerate(b) if stage.kind == kind]
        if columns:
            own, other = (np.log2([p[i].shape for i in at]) for p, at in ((a, rows), (b, columns)))
            squares = ((own[:, None] - other) ** 2).sum(axis=-1) / LENGTH**2
            found[np.ix_(rows, columns)] = SPREAD**2 * (SHARED + (1 - SHARED) * np.exp(-squares / 2))
    return found


@dataclass(frozen=True)
class HeldOut:
    """How far predictions lie from measurements that they had not seen; 0.05 is 5 % of the measured time."""

    nets: int
    median_error: float
    p90_error: float
    kendall_tau: float
    spearman_rho: float
    coverage: float  # share of measured times within their 95 % interval

    def __str__(self) -> str:
        return (
            f"median error {self.median_error:.1%}, nine in ten within {self.p90_error:.1%}, Kendall tau"
            f" {self.kendall_tau:.2f}, Spearman rho {self.spearman_rho:.2f}, {self.coverage:.0%} in their 95 % interval"
            f" ({self.nets} held-out measurements)"
        )


def held_out(measured_s: Sequence[float], predicted_s: Sequence[float], inside: Sequence[bool]) -> HeldOut:
    """Compare measurements with the predictions for them; `inside`: whether each lay within its interval."""
    measured, predicted = np.asarray(measured_s), np.asarray(predicted_s)
    errors = np.abs(predicted / measured - 1)
    return HeldOut(
        nets=len(errors),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        kendall_tau=float(kendalltau(predicted, measured).statistic),
        spearman_rho=float(spearmanr(predicted, measured).statistic),
        coverage=float(np.mean(inside)),
    )


def folds(groups: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Divide the places of `groups` into `count` folds, or as many as there are groups; a group is never divided."""
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    fold_of = {name: i % count for i, name in enumerate(names)}
    found = [[i for i, name in enumerate(groups) if fold_of[name] == fold] for fold in range(count)]
    return [fold for fold in found if fold]


@dataclass(frozen=True)
class TimedStages:
    """Stages that were timed together; `net_s` is the time of the network that they belong to."""

    stages: tuple[StageCost, ...]
    seconds: float
    net_s: float
    whole: bool

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the time."""
        if self.whole:
            return WHOLE_NOISE * self.seconds
        return float(np.hypot(PART_NOISE[0] * self.seconds, PART_NOISE[1] * self.net_s))


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Rates and corrections together, fitted, for images of one batch and resolution."""

    batch: int
    resolution: int
    rates: OperatorRates
    corrections: ResidualGP

    @classmethod
    def fit(cls, observations: Sequence[Observation], batch: int, resolution: int) -> LatencyModel:
        """Fit a model. Raises ValueError for stages that a spec doesn't have."""
        rows = [row for o in observations for row in _timed_stages(o, batch, resolution)]
        seconds = np.array([row.seconds for row in rows])
        weights = np.array([1 / (row.seconds + FLOOR * row.net_s) for row in rows])
        rates = fit_rates([(work_of(row.stages), row.whole) for row in rows], seconds, weights)
        left = seconds - np.array([rates.beside_s * row.whole for row in rows])
        deviations = np.array([row.deviation_s for row in rows])
        return cls(batch, resolution, rates, ResidualGP(rates, [row.stages for row in rows], left, deviations))

    def seconds(self, specs: Sequence[ArchSpec]) -> Array:
        """Return the seconds of each, (n,), without their deviation, which takes most of the time."""
        found = [self._whole(self.corrections.seconds(rows)) for rows in self._chunks(specs)]
        return np.concatenate([np.empty(0), *found])

    def predict(self, specs: Sequence[ArchSpec]) -> tuple[Array, Array]:
        """Return the seconds of each, and the relative standard deviation of what the model doesn't know of it."""
        found = [self.corrections.predict(rows) for rows in self._chunks(specs)] or [(np.empty(0), np.empty(0))]
        mean, deviation = (np.concatenate(values) for values in zip(*found, strict=True))
        seconds = self._whole(mean)
        return seconds, deviation / seconds

    def _chunks(self, specs: Sequence[ArchSpec]) -> Iterator[list[list[StageCost]]]:
        for i in range(0, len(specs), AT_ONCE):
            yield [stage_costs(spec, self.batch, self.resolution) for spec in specs[i : i + AT_ONCE]]

    def _whole(self, seconds: Array) -> Array:
        """Return networks' seconds from their stages'; far from what was seen, corrections could exceed them."""
        return np.maximum(seconds + self.rates.beside_s, np.finfo(float).tiny)


def _timed_stages(observation: Observation, batch: int, resolution: int) -> Iterator[TimedStages]:
    """Yield the whole network, then each of its stages that was timed."""
    found = {stage.name: stage for stage in stage_costs(observation.spec, batch, resolution)}
    yield TimedStages(tuple(found.values()), observation.seconds, observation.seconds, True)
    for name, seconds in (observation.stages_s or {}).items():
        if name not in found:
            arch_id, names = observation.spec.arch_id, ", ".join(found)
            raise ValueError(f"observations: {arch_id} has no stage {name!r}; it has {names}")
        yield TimedStages((found[name],), seconds, observation.seconds, False)


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """A fitted predictor. scatter: deviation of the logarithms of measurements beyond the model's own doubt."""

    observations: tuple[Observation, ...]
    model: LatencyModel
    scatter: float

    @classmethod
    def fit(cls, observations: Sequence[Observation], *, batch: int, resolution: int) -> LatencyPredictor:
        """Fit on the latest 300 networks that were timed at one batch and resolution; stages' times make fewer do.

        Raises ValueError for fewer than 10 nets, times that aren't positive, or stages that a spec doesn't have.
        """
        latest = observations[-MAX_MODELS:]
        check_observations(latest, batch, resolution)
        return cls._fit(latest, batch, resolution)

    @classmethod
    def _fit(cls, observations: Sequence[Observation], batch: int, resolution: int) -> LatencyPredictor:
        model = LatencyModel.fit(observations, batch, resolution)
        return cls(tuple(observations), model, _scatter(observations, batch, resolution))

    def predict(self, specs: Sequence[ArchSpec]) -> list[Prediction]:
        """Predict the time of each spec, in the unit of the observations."""
        seconds, doubts = self.model.predict(specs)
        deviations = np.hypot(doubts, self.scatter)
        return [Prediction(float(s), float(d)) for s, d in zip(seconds, deviations, strict=True)]

    def cross_validated(self, count: int = 10, seed: int = 0) -> HeldOut:
        """Return the errors on its own observations, in `count` folds, each predicted by a fit of the others.

        All times of a net lie in one fold. Takes `count` times as long as `fit`.
        """
        measured: list[float] = []
        found: list[Prediction] = []
        for seen, unseen in _splits(self.observations, count, seed):
            found += self._fit(seen, self.model.batch, self.model.resolution).predict([o.spec for o in unseen])
            measured += [o.seconds for o in unseen]
        inside = [p.low_s <= s <= p.high_s for p, s in zip(found, measured, strict=True)]
        return held_out(measured, [p.seconds for p in found], inside)

    def shortlist(
        self,
        specs: Sequence[ArchSpec],
        *,
        limit_s: float | None = None,
        keep: int | None = None,
        chance: float = FAIR_CHANCE,
    ) -> list[ArchSpec]:
        """Choose the specs worth timing, the fastest first: with that chance to keep `limit_s`, at most `keep` of them.

        Raises ValueError where neither is given, and for a limit that isn't positive.
        """
        if limit_s is None and keep is None:
            raise ValueError("shortlist: give a limit_s, how many to keep, or both")
        if limit_s is not None and not limit_s > 0:
            raise ValueError(f"shortlist: limit_s {limit_s!r} must be more than 0")
        ranked = sorted(zip(self.predict(specs), specs, strict=True), key=lambda pair: pair[0].seconds)
        fair = [spec for p, spec in ranked if limit_s is None or p.chance_within(limit_s) >= chance]
        return fair[:keep]


def _splits(
    observations: Sequence[Observation], count: int, seed: int
) -> Iterator[tuple[list[Observation], list[Observation]]]:
    """Yield (the others, a fold) for each fold."""
    for fold in folds([o.spec.arch_id for o in observations], count, seed):
        inside = set(fold)
        yield [o for i, o in enumerate(observations) if i not in inside], [observations[i] for i in fold]


def _scatter(observations: Sequence[Observation], batch: int, resolution: int) -> float:
    """Return the deviation of the logarithms of held-out times that the model's own doubt leaves open."""
    left: list[float] = []
    for seen, unseen in _splits(observations, SCATTER_FOLDS, 0):
        seconds, doubts = LatencyModel.fit(seen, batch, resolution).predict([o.spec for o in unseen])
        errors = np.log([o.seconds for o in unseen]) - np.log(seconds)
        left += list(errors**2 - doubts**2)
    return math.sqrt(max(float(np.mean(left)), LEAST_SCATTER**2))
