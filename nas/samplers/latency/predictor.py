"""Predict the latency of a model from the models timed so far, to choose candidates; predictions are never reported.

    predictor = LatencyPredictor.fit(observations, batch=16, resolution=64)
    seconds = [prediction.seconds for prediction in predictor.predict(candidates)]

The time of a model is the sum of its stages' times (stem, stages, ...). A stage's time is the sum of its operators'
costs, by kind of operator, times a factor. A Gaussian process over stages models the factors: those of one kind of
stage are correlated, the more so the closer their shapes are. As a model's time is a sum, whole models and single
stages are observations of the same process (any linear functional of a process may be observed: Rasmussen and Williams,
"Gaussian Processes for Machine Learning", chapter 2). All observations must be of one device, runtime, batch and
resolution.
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

from nas.numbers import plural
from nas.samplers.latency.stage_costs import MAX_KEPT, StageCost, stage_costs
from nas.study.records import REST
from search_space import ArchSpec

Array = NDArray[np.float64]
Work = dict[str, Array]  # operator kind -> (3,): MACs, elements moved, calls

MIN_MODELS = 10  # held-out errors of fewer are meaningless
NORMAL_95 = 1.96
NNLS_STEPS = 30  # per column; scipy's default of 3 has been too few
PRIOR_WEIGHT = 0.1  # of the costs fitted to all kinds together, in the fit of each kind
FACTOR_DEVIATION = 0.2  # of the factors of stages around 1
UNTIMED_DEVIATION = 0.5  # the same, for a kind of stage that was never timed
LENGTH_SCALE = 1.0  # octaves of one size of the shape
SHARED_VARIANCE = 0.5  # share of a factor's variance that all stages of its kind have in common
WEIGHT_FLOOR = 0.04  # of a model's time: shorter stages get no larger weight
MODEL_NOISE = 0.03  # of a model's time
STAGE_NOISE = 0.1, 0.005  # of a stage's time, and of its model's: stages are timed in a separate, less precise run
CHUNK_SPECS = 256  # bounds the memory for a long list of candidates
MAX_MODELS = 300  # that are fitted: time grows with their cube, and the error hardly falls beyond
SCATTER_FOLDS = 5
MIN_SCATTER = 0.005  # no timing repeats better


@dataclass(frozen=True)
class Observation:
    """A timed model: seconds per batch, or any other unit that all observations share.

    Seconds of different minutes are not comparable on a machine that drifts. Use times relative to a reference that was
    timed in the same session (1 / `Measurement.ratio`), or these multiplied by the reference's usual seconds.

    Attributes:
        spec: the model's architecture.
        seconds: time of the whole model.
        stages_s: times by the names of `Backbone.stage_modules`, in the same unit; any of them may be missing.
    """

    spec: ArchSpec
    seconds: float
    stages_s: Mapping[str, float] | None = None

    @classmethod
    def scaled(cls, spec: ArchSpec, seconds: float, stages_s: Mapping[str, float]) -> Self:
        """Scale the stages' times of another run, which with `REST` add up to the model's (`Measurement.stages_s`)."""
        if not stages_s:
            return cls(spec, seconds)
        scale = seconds / sum(stages_s.values())
        return cls(spec, seconds, {name: scale * s for name, s in stages_s.items() if name != REST and s > 0})


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


def check_observations(observations: Sequence[Observation], batch: int, resolution: int) -> None:
    """Raise ValueError for too few models, for times that are not positive, and for an impossible setting."""
    for name, value in (("batch", batch), ("resolution", resolution)):
        if value < 1:
            raise ValueError(f"{name}: {value!r} must be 1 or more")
    models = {observation.spec.arch_id for observation in observations}
    if len(models) < MIN_MODELS:
        raise ValueError(
            f"observations: {plural(len(models), 'model')}; a latency predictor needs {MIN_MODELS} or more"
        )
    for observation in observations:
        for name, seconds in (("whole", observation.seconds), *(observation.stages_s or {}).items()):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"observations: {observation.spec.arch_id}, {name}: {seconds!r} s; need more than 0")


@dataclass(frozen=True, eq=False)
class OperatorRates:
    """Seconds per MAC, per element moved and per call, by operator kind, and the seconds outside all stages."""

    by_kind: Mapping[str, Array]  # (3,) each
    any_kind: Array  # (3,): for kinds that were never timed
    overhead_s: float

    def stage_s(self, stage: StageCost) -> float:
        """Return the seconds of a stage."""
        return sum(float(work @ self.by_kind.get(kind, self.any_kind)) for kind, work in work_of([stage]).items())


def work_of(stages: Sequence[StageCost]) -> Work:
    """Return the total work of stages by operator kind."""
    work: dict[str, tuple[int, int, int]] = {}
    for kind, macs, moved, _ in (operator for stage in stages for operator in stage.operators):
        m, e, calls = work.get(kind, (0, 0, 0))
        work[kind] = m + macs, e + moved, calls + 1
    return {kind: np.array(amounts, dtype=float) for kind, amounts in work.items()}


def fit_rates(rows: Sequence[tuple[Work, bool]], seconds: Array, weights: Array) -> OperatorRates:
    """Fit rates by non-negative least squares, with a prior for each kind around the rates of all kinds.

    Negative rates would fit noise, and a model with more work would become faster.

    Args:
        rows: (work, whether it is that of a whole model) of each observation.
        seconds: the observed times, (n,).
        weights: of the residuals, (n,).
    """
    kinds = sorted({kind for work, _ in rows for kind in work})
    design = np.zeros((len(rows), 3 * len(kinds) + 1))
    for row, (work, whole) in zip(design, rows, strict=True):
        row[-1] = whole
        for kind, amounts in work.items():
            row[3 * kinds.index(kind) :][:3] = amounts
    pooling = np.vstack([np.tile(np.eye(3, 4), (len(kinds), 1)), np.eye(4)[3:]])
    pooled_rates = _non_negative((design @ pooling) * weights[:, None], seconds * weights)
    prior = pooling @ pooled_rates
    shrunk = np.vstack([design * prior * weights[:, None], PRIOR_WEIGHT * np.eye(len(prior))])
    costs = _non_negative(shrunk, np.concatenate([seconds * weights, np.full(len(prior), PRIOR_WEIGHT)])) * prior
    return OperatorRates(dict(zip(kinds, costs[:-1].reshape(-1, 3), strict=True)), pooled_rates[:3], float(costs[-1]))


def _non_negative(design: Array, wanted: Array) -> Array:
    """Solve non-negative least squares with columns of any scale."""
    scale = np.maximum(np.abs(design).max(axis=0), np.finfo(float).tiny)
    solution: Array = nnls(design / scale, wanted, maxiter=NNLS_STEPS * design.shape[1])[0] / scale
    return solution


class ResidualGP:
    """A Gaussian process over stages, fitted to the times of sums of stages; predicts such sums."""

    def __init__(
        self, rates: OperatorRates, rows: Sequence[Sequence[StageCost]], seconds: Array, deviations: Array
    ) -> None:
        """Fit the process to the total `seconds` of each row's stages, with the standard deviations of their noise."""
        self._rates = rates
        self._stages, self._rows = _sums(rates, rows)
        covariance = self._rows @ _covariance(self._stages, self._stages) @ self._rows.T
        self._factor = cho_factor(covariance + np.diag(deviations**2), lower=True)
        self._shares = self._rows.T @ cho_solve(self._factor, seconds - self._rows.sum(axis=1))
        self._kinds = {stage.kind for stage in self._stages}
        self._of_kind = {kind: [i for i, s in enumerate(self._stages) if s.kind == kind] for kind in self._kinds}
        self._sizes = {kind: _log_shapes([self._stages[i] for i in at]) for kind, at in self._of_kind.items()}
        self._stage_s: dict[StageCost, float] = {}

    def seconds(self, rows: Sequence[Sequence[StageCost]]) -> Array:
        """Return the total seconds of each row's stages."""
        return np.array([sum(map(self.stage_s, row)) for row in rows], dtype=float)

    def stage_s(self, stage: StageCost) -> float:
        """Return the seconds of a stage, which depend on no other stage of a call, so that they are kept."""
        if stage not in self._stage_s:
            if len(self._stage_s) >= MAX_KEPT:
                self._stage_s.clear()
            factor = 1.0
            if (places := self._of_kind.get(stage.kind)) is not None:
                covariance = _covariance_of_sizes(_log_shapes([stage]), self._sizes[stage.kind])
                factor += float(covariance[0] @ self._shares[places])
            self._stage_s[stage] = self._rates.stage_s(stage) * factor
        return self._stage_s[stage]

    def predict(self, rows: Sequence[Sequence[StageCost]]) -> tuple[Array, Array]:
        """Return `seconds` and their standard deviation, which costs most of the time."""
        stages, sums = _sums(self._rates, rows)
        covariance = _covariance(stages, self._stages)
        mean = sums @ (1 + covariance @ self._shares)
        shared = sums @ covariance @ self._rows.T
        untimed = np.diag([UNTIMED_DEVIATION**2 * (stage.kind not in self._kinds) for stage in stages])
        prior = sums @ (_covariance(stages, stages) + untimed) * sums
        explained = shared * cho_solve(self._factor, shared.T).T
        return mean, np.sqrt(np.maximum(prior.sum(axis=1) - explained.sum(axis=1), 0.0))


def _sums(rates: OperatorRates, rows: Sequence[Sequence[StageCost]]) -> tuple[list[StageCost], Array]:
    """Return the distinct stages, and the seconds of each of them in each row by rates alone."""
    places: dict[tuple[object, ...], int] = {}
    stages: list[StageCost] = []
    for stage in (stage for row in rows for stage in row):
        if places.setdefault(_content(stage), len(stages)) == len(stages):
            stages.append(stage)
    seconds = [rates.stage_s(stage) for stage in stages]
    sums = np.zeros((len(rows), len(stages)))
    for line, row in zip(sums, rows, strict=True):
        for stage in row:
            place = places[_content(stage)]
            line[place] += seconds[place]
    return stages, sums


def _content(stage: StageCost) -> tuple[object, ...]:
    return stage.kind, stage.shape, stage.operators


def _covariance(a: Sequence[StageCost], b: Sequence[StageCost]) -> Array:
    """Return the covariance of the factors of stages, (len(a), len(b))."""
    covariance = np.zeros((len(a), len(b)))
    for kind in {stage.kind for stage in a}:
        rows = [i for i, stage in enumerate(a) if stage.kind == kind]
        columns = [i for i, stage in enumerate(b) if stage.kind == kind]
        if columns:
            a_sizes, b_sizes = (_log_shapes([p[i] for i in at]) for p, at in ((a, rows), (b, columns)))
            covariance[np.ix_(rows, columns)] = _covariance_of_sizes(a_sizes, b_sizes)
    return covariance


def _covariance_of_sizes(a: Array, b: Array) -> Array:
    """Return the covariance of the factors of stages of one kind by log2 of their shapes, (len(a), len(b))."""
    squares = ((a[:, None] - b) ** 2).sum(axis=-1) / LENGTH_SCALE**2
    covariance: Array = FACTOR_DEVIATION**2 * (SHARED_VARIANCE + (1 - SHARED_VARIANCE) * np.exp(-squares / 2))
    return covariance


def _log_shapes(stages: Sequence[StageCost]) -> Array:
    return np.log2([stage.shape for stage in stages])


def folds(groups: Sequence[str], count: int) -> list[list[int]]:
    """Divide the indices of `groups` into `count` folds, or one per group if fewer; a group is never divided."""
    names = sorted(set(groups))
    random.Random(0).shuffle(names)
    fold_of = {name: i % count for i, name in enumerate(names)}
    divided = [[i for i, name in enumerate(groups) if fold_of[name] == fold] for fold in range(count)]
    return [fold for fold in divided if fold]


@dataclass(frozen=True)
class TimedStages:
    """Stages that were timed together, and the time of the model that they belong to."""

    stages: tuple[StageCost, ...]
    seconds: float
    model_s: float
    whole: bool  # whether they are all stages of the model

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the time."""
        if self.whole:
            return MODEL_NOISE * self.seconds
        return float(np.hypot(STAGE_NOISE[0] * self.seconds, STAGE_NOISE[1] * self.model_s))


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Fitted rates and corrections, for one batch and resolution."""

    batch: int
    resolution: int
    rates: OperatorRates
    corrections: ResidualGP

    @classmethod
    def fit(cls, observations: Sequence[Observation], batch: int, resolution: int) -> LatencyModel:
        """Fit a model. Raises ValueError for times of stages that a spec does not have."""
        rows = [row for o in observations for row in _timed_stages(o, batch, resolution)]
        seconds = np.array([row.seconds for row in rows])
        weights = np.array([1 / (row.seconds + WEIGHT_FLOOR * row.model_s) for row in rows])
        rates = fit_rates([(work_of(row.stages), row.whole) for row in rows], seconds, weights)
        left = seconds - np.array([rates.overhead_s * row.whole for row in rows])
        deviations = np.array([row.deviation_s for row in rows])
        return cls(batch, resolution, rates, ResidualGP(rates, [row.stages for row in rows], left, deviations))

    def seconds(self, specs: Sequence[ArchSpec]) -> Array:
        """Return the seconds of each spec, (n,), without their deviation, which costs most of the time."""
        return self._whole(self.corrections.seconds([self._stages(spec) for spec in specs]))

    def predict(self, specs: Sequence[ArchSpec]) -> tuple[Array, Array]:
        """Return the seconds of each spec, (n,), and their relative standard deviations, (n,)."""
        chunks = [self.corrections.predict(rows) for rows in self._chunks(specs)] or [(np.empty(0), np.empty(0))]
        mean, deviation = (np.concatenate(values) for values in zip(*chunks, strict=True))
        seconds = self._whole(mean)
        return seconds, deviation / seconds

    def _chunks(self, specs: Sequence[ArchSpec]) -> Iterator[list[list[StageCost]]]:
        for i in range(0, len(specs), CHUNK_SPECS):
            yield [self._stages(spec) for spec in specs[i : i + CHUNK_SPECS]]

    def _stages(self, spec: ArchSpec) -> list[StageCost]:
        return stage_costs(spec, self.batch, self.resolution)

    def _whole(self, seconds: Array) -> Array:
        """Return models' seconds from their stages'; far from all observations, the sum could be negative."""
        return np.maximum(seconds + self.rates.overhead_s, np.finfo(float).tiny)


def _timed_stages(observation: Observation, batch: int, resolution: int) -> Iterator[TimedStages]:
    """Yield the whole model, then each of its stages that was timed."""
    stages = {stage.name: stage for stage in stage_costs(observation.spec, batch, resolution)}
    yield TimedStages(tuple(stages.values()), observation.seconds, observation.seconds, True)
    for name, seconds in (observation.stages_s or {}).items():
        if name not in stages:
            arch_id, names = observation.spec.arch_id, ", ".join(stages)
            raise ValueError(f"observations: {arch_id} has no stage {name!r}; it has {names}")
        yield TimedStages((stages[name],), seconds, observation.seconds, False)


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """A fitted predictor.

    Attributes:
        observations: those that it was fitted to.
        model: predicts times and their deviations.
        scatter: further standard deviation of the logarithms of held-out measurements.
    """

    observations: tuple[Observation, ...]
    model: LatencyModel
    scatter: float

    @classmethod
    def fit(cls, observations: Sequence[Observation], *, batch: int, resolution: int) -> LatencyPredictor:
        """Fit a predictor to the latest 300 observations at one batch and resolution.

        Times of stages reduce the number of models that are needed.

        Raises:
            ValueError: fewer than 10 models, times that aren't positive, or stages that a spec does not have.
        """
        latest = observations[-MAX_MODELS:]
        check_observations(latest, batch, resolution)
        model = LatencyModel.fit(latest, batch, resolution)
        return cls(tuple(latest), model, _scatter(latest, batch, resolution))

    def predict(self, specs: Sequence[ArchSpec]) -> list[Prediction]:
        """Predict the time of each spec, in the unit of the observations."""
        seconds, doubts = self.model.predict(specs)
        deviations = np.hypot(doubts, self.scatter)
        return [Prediction(float(s), float(d)) for s, d in zip(seconds, deviations, strict=True)]


def splits(observations: Sequence[Observation], count: int) -> Iterator[tuple[list[Observation], list[Observation]]]:
    """Yield (observations outside the fold, observations inside) for each fold."""
    for fold in folds([o.spec.arch_id for o in observations], count):
        inside = set(fold)
        yield [o for i, o in enumerate(observations) if i not in inside], [observations[i] for i in fold]


def _scatter(observations: Sequence[Observation], batch: int, resolution: int) -> float:
    """Return the deviation of the logarithms of held-out times beyond the model's own."""
    left: list[float] = []
    for seen, unseen in splits(observations, SCATTER_FOLDS):
        seconds, doubts = LatencyModel.fit(seen, batch, resolution).predict([o.spec for o in unseen])
        errors = np.log([o.seconds for o in unseen]) - np.log(seconds)
        left += list(errors**2 - doubts**2)
    return math.sqrt(max(float(np.mean(left)), MIN_SCATTER**2))
