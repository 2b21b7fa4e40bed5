"""Costs of architectures before they are trained, for `nas.samplers.known_cost.KnownCostSampler`.

MACs and parameters are derived from the spec (`derived_totals`), and counted where a limit is near. Throughput, latency
and memory are predicted from the models measured so far (`nas.samplers.latency`). Predictions choose the next
candidates, and decide the rungs before the last where they are exact enough.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from nas.measure.counts.totals import network_totals, totals
from nas.measure.runtime_spec import Arm
from nas.samplers.known_cost import TrialValues
from nas.samplers.latency import MIN_MODELS, LatencyPredictor, Observation
from nas.samplers.latency.stage_costs import stage_costs
from nas.study.config import SearchConfig
from nas.study.failures import Failure
from nas.study.halving import TRUSTED_DEVIATION, WIDTH
from nas.study.limits import LIMITS, Limit, Totals, broken_limit
from nas.study.records import TrialState
from nas.study.space_protocol import vary
from nas.study.timing_doubts import RUN_DEVIATION
from search_space import ArchSpec, Space, StageSpec, network_spec
from search_space.genes import StageChoices
from search_space.timm_spec import FIELD
from search_space.windows import padded_maps

Array = NDArray[np.float64]
Params = dict[str, Any]
Work = tuple[float, float]  # MACs and elements moved, of one image

MAX_CACHED_SPECS = 20_000  # some kB each
REFIT_GROWTH = 1.2  # the latency model is fitted again when the number of measured trials has grown by this factor
DERIVED_SHARES = 0.9, 1.25  # between which `derived_totals` are, as shares of the counted MACs and parameters
LIMIT_MARGIN = 1.0  # a candidate is excluded if its prediction exceeds a limit by this many standard deviations
_UNTRAINED_STATES = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.DUPLICATE)
# Failures that similar architectures are likely to share, by the state that a trial ends in. An infeasible one may
# still name the failure of an earlier run.
_ARCHITECTURE_FAILURES = {
    TrialState.FAILED: (Failure.OUT_OF_MEMORY, Failure.NOT_FINITE, Failure.WRONG_OUTPUT, Failure.HANG),
    TrialState.INFEASIBLE: (Failure.OUT_OF_MEMORY,),
}


class _MeasuredTrial(NamedTuple):
    observation: Observation
    work: Work
    measurement: Mapping[str, Any]  # as in the record


class SpaceCostModel:
    """Candidates of a space, their features and their costs, for one config.

    Costs depend on the trials alone, so that a search can be resumed.
    """

    def __init__(self, space: Space, config: SearchConfig, cost: str = "throughput") -> None:
        """Take a space, a config and the cost to return for every candidate, one of `COSTS`."""
        self._space, self._config, self._cost = space, config, cost
        self._px = config.distill.img_size
        self._predictor = lru_cache(maxsize=2)(self._fit_predictor)
        self._measured: dict[int, _MeasuredTrial] = {}  # by trial number
        self._read: Sequence[FrozenTrial] | None = None  # trials of the latest call of `costs`
        self._numbers: tuple[int, ...] = ()  # the measured ones of them
        self._settled: tuple[int, ...] = ()  # those before the first trial that may still be measured
        self._fitted: tuple[int, ...] = ()  # trials of the predictor of the latest call of `costs`
        self._specs: dict[tuple[Any, ...], ArchSpec] = {}  # by parameters
        self._reference_work = _work_of_reference(config)
        self._timed_as_run = Arm.parse(config.runtime).times_stages
        self._mean_sizes = dict(zip(space.strides, map(_mean_log_sizes, space.stages), strict=True))

    def candidates(self, parents: Sequence[Params], count: int, rng: random.Random) -> list[Params]:
        """Return new architectures; with parents, some are mutations and crossovers of these."""
        parent_specs = [self._spec(params) for params in parents]
        if len(self._specs) > MAX_CACHED_SPECS:
            self._specs.clear()
        specs = vary(self._space, parent_specs, count, rng)
        candidates = [self._space.encode(spec) for spec in specs]
        self._specs.update(zip(map(_key, candidates), specs, strict=True))
        return candidates

    def features(self, candidates: Sequence[Params]) -> Array:
        """Return log2 of MACs and of elements moved relative to the reference model, (n, 2)."""
        return np.log2([self._work(params) for params in candidates]) - np.log2(self._reference_work)

    def sizes(self, candidates: Sequence[Params]) -> Array:
        """Return log2 of width, depth and expansion of each stage of the space and of MACs, (n, k)."""
        sizes = [[*self._stage_sizes(self._spec(params)), math.log2(self._work(params)[0])] for params in candidates]
        return np.array(sizes)

    def costs(self, candidates: Sequence[Params], trials: Sequence[FrozenTrial]) -> Array:
        """Return the cost of each candidate, (n,), where more is better.

        The cost is log2 of the predicted throughput over the reference model's, or `derived_totals` as in `COSTS`. It
        is NaN where a candidate breaks a limit or is likely to. A list of trials is read once, however often it is
        passed.
        """
        specs = [self._spec(params) for params in candidates]
        numbers = self._read_measurements(trials)
        self._fitted = fitted = self._settled[: refit_size(len(self._settled))]
        if fitted:
            seconds = self._predictor(fitted).model.seconds(specs)
        else:
            seconds = np.array([macs / self._reference_work[0] for macs, _ in map(self._work, candidates)])
        costs = -np.log2(seconds)
        excluded = np.array([self._breaks_counted_limit(spec) for spec in specs], dtype=bool)
        for name, bound in self._config.limits.items():
            if fitted and LIMITS[name].measured:
                works = list(map(self._work, candidates))
                excluded |= self._likely_to_break(LIMITS[name], bound, numbers, works, costs)
        if self._cost != "throughput":
            costs = np.array([COSTS[self._cost](derived_totals(spec, self._px)._asdict()) for spec in specs])
        return np.where(excluded, np.nan, costs)

    def trusted_ratio(self, params: Params) -> float | None:
        """Return a candidate's throughput over the reference model's, predicted as in the latest call of `costs`.

        It is None if the study measures first (`SearchConfig.measures_late`), and if the prediction is less exact than
        `TRUSTED_DEVIATION`, as far as the model and the errors of held-out timings tell.
        """
        if not self._fitted or not self._config.measures_late:
            return None
        (predicted,) = self._predictor(self._fitted).predict([self._spec(params)])
        return 1 / predicted.seconds if predicted.deviation < TRUSTED_DEVIATION else None

    def timing_deviation(self) -> float:
        """Return the standard deviation of log2 of a ratio when a model is timed again, in another process.

        It combines the median of the measured trials' own with `RUN_DEVIATION`. The trials are those of the latest call
        of `costs`; without one that is measured it is 0.
        """
        timings = [self._measured[number].measurement for number in self._numbers]
        widths = [math.log2(m["ratio_high"] / m["ratio_low"]) for m in timings if m["ratio_low"] > 0]
        return math.hypot(median(widths) / WIDTH, RUN_DEVIATION / math.log(2)) if widths else 0.0

    def _read_measurements(self, trials: Sequence[FrozenTrial]) -> tuple[int, ...]:
        """Return the numbers of the measured trials; each measurement is read once, and each list of trials.

        The latency model is fitted to the settled ones: with many workers, trials are measured in another order, and
        the first of all would be others at almost every proposal.
        """
        if trials is self._read:
            return self._numbers
        numbers, unsettled = [], math.inf
        for trial in trials:
            record = trial.user_attrs.get("record")
            if not record or not record.get("measurement"):
                unsettled = unsettled if trial.state.is_finished() else min(unsettled, trial.number)
                continue
            if FIELD in record["spec"]:
                continue  # a baseline of timm: its stages are none of the space's
            measurement = record["measurement"]
            if measurement.get("requested_batch") not in (None, measurement["batch"]):
                continue  # of a smaller batch than all others
            if trial.number not in self._measured or self._measured[trial.number].measurement != measurement:
                spec = ArchSpec.from_dict(record["spec"])
                stages_s = measurement.get("stages_s", {}) if self._timed_as_run else {}
                observation = Observation.scaled(spec, 1 / measurement["ratio"], stages_s)
                self._measured[trial.number] = _MeasuredTrial(observation, _work_of(spec, self._px), measurement)
            numbers.append(trial.number)
        self._read, self._numbers = trials, tuple(numbers)
        self._settled = tuple(number for number in numbers if number < unsettled)
        return self._numbers

    def _likely_to_break(
        self, limit: Limit, bound: float, numbers: Sequence[int], works: Sequence[Work], costs: Array
    ) -> Any:
        """Return whether each candidate is likely to break a measured limit, (n,).

        The limit's quantity is predicted by a linear fit to the measured trials, in logarithms.
        """
        sign = 1.0 if limit.maximum else -1.0  # turns the quantity so that more is worse
        trials = [
            self._measured[number] for number in numbers if self._measured[number].measurement.get(limit.quantity)
        ]
        if len(trials) < MIN_MODELS:
            return np.zeros(len(works), dtype=bool)
        design = np.column_stack(
            [
                np.log2([trial.work for trial in trials]),
                -np.log2([trial.observation.seconds for trial in trials]),
                np.ones(len(trials)),
            ]
        )
        measured = sign * np.log2([trial.measurement[limit.quantity] for trial in trials])
        coefficients, *_ = np.linalg.lstsq(design, measured, rcond=None)
        deviation = float(np.std(measured - design @ coefficients))
        expected = np.column_stack([np.log2(works), costs, np.ones(len(works))]) @ coefficients
        return expected > sign * np.log2(bound * limit.scale) + LIMIT_MARGIN * deviation

    def _spec(self, params: Params) -> ArchSpec:
        if (key := _key(params)) not in self._specs:
            self._specs[key] = self._space.decode(params)
        return self._specs[key]

    def _stage_sizes(self, spec: ArchSpec) -> list[float]:
        """Return the sizes of each stage of the space; those of a stage that the spec lacks are the mean choices."""
        stages = dict(zip(spec.strides, spec.stages, strict=True))
        return [
            size
            for stride, mean in self._mean_sizes.items()
            for size in (_log_sizes(stages[stride]) if stride in stages else mean)
        ]

    def _breaks_counted_limit(self, spec: ArchSpec) -> bool:
        """Tell whether a spec breaks one of the limits that need no measurement; it is built only if one is near."""
        limits = {name: bound for name, bound in self._config.limits.items() if not LIMITS[name].measured}
        if not limits:
            return False
        derived = derived_totals(spec, self._px)
        most, least = (Totals(*(round(count / share) for count in derived)) for share in DERIVED_SHARES)
        if bool(broken_limit(least, limits)) is (broken := bool(broken_limit(most, limits))):
            return broken
        return broken_limit(totals(spec, self._px), limits) is not None

    def _work(self, params: Params) -> Work:
        return _work_of(self._spec(params), self._px)

    def _fit_predictor(self, numbers: tuple[int, ...]) -> LatencyPredictor:
        """Fit a predictor to these trials, in units of the reference model's time."""
        observations = [self._measured[number].observation for number in numbers]
        return LatencyPredictor.fit(observations, batch=self._config.measure_batch_size, resolution=self._px)


def _log_sizes(stage: StageSpec) -> list[float]:
    """Return log2 of width, depth and expansion of a stage. An expansion that the block doesn't have counts as 1."""
    return [math.log2(size) for size in (stage.width, stage.depth, stage.expansion or 1.0)]


def _mean_log_sizes(choices: StageChoices) -> list[float]:
    """Return the means of `_log_sizes` over a stage's choices."""
    expansions = (*choices.conv_expansions, *choices.mlp_expansions)
    return [float(np.log2(sizes).mean()) for sizes in (choices.widths, choices.depths, expansions)]


def _key(params: Params) -> tuple[Any, ...]:
    return tuple(params.values())


@lru_cache(maxsize=10_000)
def _work_of(spec: ArchSpec, px: int) -> Work:
    stages = stage_costs(spec, 1, px)
    return sum(stage.macs for stage in stages), sum(stage.moved for stage in stages)


@lru_cache(maxsize=10_000)
def derived_totals(spec: ArchSpec, px: int) -> Totals:
    """Return MACs and parameters of a spec without those of norms, biases and embeddings of positions.

    No part is built, as by `totals`, so that it takes a hundredth of the time. Windows that do not tile their maps are
    counted by `totals`: they may compute on a small part of the enlarged map only.
    """
    if padded_maps(spec, px):
        return totals(spec, px)
    stages = stage_costs(spec, 1, px)
    return Totals(sum(stage.macs for stage in stages), sum(stage.weights for stage in stages))


def _work_of_reference(config: SearchConfig) -> Work:
    """Return the work of the reference.

    Of a network of timm only MACs are counted. They stand in for the elements moved, which only shift a feature.
    """
    px = config.distill.img_size
    arch = config.arch(config.reference)
    if isinstance(arch, dict) and isinstance(spec := network_spec(arch), ArchSpec):
        return _work_of(spec, px)
    macs = network_totals(arch, px).macs
    return macs, macs


def read_trial(trial: FrozenTrial, cost: str = "throughput") -> TrialValues | None:
    """Return a trial's scores rung by rung and one of `COSTS`; None without scores and for baselines.

    A trial that failed because of its architecture, or whose batch does not fit into memory, has a score of -inf.
    """
    record = trial.user_attrs.get("record")
    if not record or record["baseline"]:
        return None
    if record["failure"] in _ARCHITECTURE_FAILURES.get(record["state"], ()):
        return TrialValues((-math.inf,), COSTS[cost](record))
    if record["state"] in _UNTRAINED_STATES or not record["rungs"]:
        return None
    return TrialValues(tuple(rung["score"] for rung in record["rungs"]), COSTS[cost](record))


def _log_ratio(record: Mapping[str, Any]) -> float | None:
    return math.log2(record["measurement"]["ratio"]) if record.get("measurement") else None


# Costs that are available before training, from a trial's record; more is better.
COSTS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "throughput": _log_ratio,
    "params": lambda record: -math.log2(record["params"]) if record["params"] else None,
    "macs": lambda record: -math.log2(record["macs"]) if record["macs"] else None,
}


def refit_size(count: int) -> int:
    """Return the largest of MIN_MODELS * REFIT_GROWTH^k that is not more than `count`; 0 below MIN_MODELS."""
    if count < MIN_MODELS:
        return 0
    return int(MIN_MODELS * REFIT_GROWTH ** math.floor(math.log(count / MIN_MODELS) / math.log(REFIT_GROWTH) + 1e-9))
