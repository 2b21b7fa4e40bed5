"""What the search knows of architectures before it trains them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from nas.measure.counts.totals import network_totals, totals
from nas.replay.hybrid_rows import read_rows
from nas.samplers import SearchSampler, make_sampler
from nas.samplers.cost_model import DERIVED_SHARES, SpaceCostModel, derived_totals, read_trial, refit_size
from nas.samplers.known_cost.history import TrialHistory
from nas.study.config import SearchConfig
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.objectives import objectives
from nas.study.records import TrialRecord, TrialState
from nas.study.seed_noise import assumed_noise
from nas.study.timing_doubts import RUN_DEVIATION
from search_space import SPACES, ArchSpec, TimmSpec, preset
from search_space.own_choices import with_choices
from search_space.windows import padded_maps
from tests.nas.study.builders import measurement, record, rung, search_config
from tests.nas.study.searches import drive, new_store

MICRO = SPACES["micro"]


def trials_of(records: list[TrialRecord]) -> list[optuna.trial.FrozenTrial]:
    trials = [optuna.trial.create_trial(state=OptunaState.PRUNED, user_attrs={"record": r.to_dict()}) for r in records]
    for trial, record_of_trial in zip(trials, records, strict=True):
        trial.number = record_of_trial.number
    return trials


def timed(count: int) -> list[TrialRecord]:
    """Return records of models whose throughput is in proportion to their MACs."""
    specs = [MICRO.sample(random.Random(i)) for i in range(count)]
    ratios = [2e7 / totals(spec, 64).macs for spec in specs]
    return [
        replace(record(i, (0.1,), ratio), spec=spec.to_dict(), arch_id=spec.arch_id)
        for i, (spec, ratio) in enumerate(zip(specs, ratios, strict=True))
    ]


def test_candidates_are_of_the_space_and_near_their_parents() -> None:
    cost_model, rng = SpaceCostModel(MICRO, search_config()), random.Random(0)
    parent = MICRO.encode(MICRO.sample(rng))
    candidates = cost_model.candidates([parent], 200, rng)
    assert all(MICRO.encode(MICRO.decode(params)) == params for params in candidates)
    near = sum(sum(params[name] != parent[name] for name in parent) <= 10 for params in candidates)
    assert 80 <= near <= 160
    assert len({tuple(params.values()) for params in cost_model.candidates([], 50, rng)}) == 50


def test_predicted_costs_are_the_measured_ones() -> None:
    cost_model = SpaceCostModel(MICRO, search_config())
    known = timed(60)
    unseen = timed(90)[60:]
    costs = cost_model.costs([MICRO.encode(ArchSpec.from_dict(t.spec)) for t in unseen], trials_of(known))
    truth = np.log2([t.measurement.ratio for t in unseen if t.measurement])
    assert np.median(np.abs(costs - truth)) < 0.15
    assert np.corrcoef(costs, truth)[0, 1] > 0.95


def test_timings_of_networks_of_timm_are_left_out() -> None:
    known, unseen = timed(60), [MICRO.encode(MICRO.sample(random.Random(99)))]
    of_timm = TimmSpec("resnet18", 192)
    baseline = replace(record(60, (0.1,), 50.0), spec=of_timm.to_dict(), arch_id=of_timm.arch_id)
    costs = [SpaceCostModel(MICRO, search_config()).costs(unseen, trials_of(t)) for t in (known, [*known, baseline])]
    assert np.array_equal(*costs)


def test_stages_times_make_predictions_more_exact_and_are_used_in_eager_mode_alone() -> None:
    """Real timings: of random architectures of the published table. ONNX Runtime divides its time otherwise."""
    rows = [row for row in read_rows() if row["source"] == "random" and row["seed"] == 0][:160]
    specs = [ArchSpec.from_dict(row["spec"]) for row in rows]
    plain = [replace(record(i, (0.1,), row["ratio"][0]), spec=row["spec"]) for i, row in enumerate(rows)]
    by_stage = [
        replace(trial, measurement=replace(measurement(row["ratio"][0]), stages_s=row["stages_ms"]))
        for trial, row in zip(plain, rows, strict=True)
    ]
    laptop, unseen = SPACES["laptop"], [SPACES["laptop"].encode(spec) for spec in specs[60:]]
    truth = np.log2([row["ratio"][0] for row in rows[60:]])

    def costs(records: list[TrialRecord], runtime: str) -> np.ndarray:
        config = search_config(space="laptop", runtime=runtime)
        return SpaceCostModel(laptop, config).costs(unseen, trials_of(records[:60]))

    errors = [np.median(np.abs(costs(records, "eager") - truth)) for records in (plain, by_stage)]
    assert errors[1] < 0.85 * errors[0]
    np.testing.assert_array_equal(costs(by_stage, "onnxruntime"), costs(plain, "onnxruntime"))


def test_timings_of_a_smaller_batch_teach_no_costs() -> None:
    """Such a candidate did not fit into the device's memory with the study's batch, and is infeasible."""
    records, asked = timed(12), [MICRO.encode(MICRO.sample(random.Random(i))) for i in range(20, 25)]
    smaller = replace(records[11], measurement=replace(measurement(50.0), batch=8, requested_batch=16))
    expected = SpaceCostModel(MICRO, search_config()).costs(asked, trials_of(records[:11]))
    found = SpaceCostModel(MICRO, search_config()).costs(asked, trials_of([*records[:11], smaller]))
    np.testing.assert_array_equal(found, expected)


def test_the_deviation_of_timings_is_that_of_another_process_beside_the_studys_own() -> None:
    cost_model, known = SpaceCostModel(MICRO, search_config()), timed(3)
    assert cost_model.timing_deviation() == 0.0
    ends = [(2**-0.01, 2**0.01), (2**-0.05, 2**0.05), (0.0, 2.0)]  # the last one has no lower end
    timings = [replace(measurement(1.0), ratio_low=low, ratio_high=high) for low, high in ends]
    known = [replace(r, measurement=timing) for r, timing in zip(known, timings, strict=True)]
    cost_model.costs([], trials_of(known))
    own, again = (0.01 + 0.05) / 2 / 1.96, math.log2(1 + RUN_DEVIATION)
    assert cost_model.timing_deviation() == pytest.approx(math.hypot(own, again), rel=0.01)


def test_the_noise_of_a_search_is_that_of_its_seeds_and_timings() -> None:
    known = trials_of(timed(3))
    deviations, steps = [], search_config().distill.rung_steps[-1]
    for names, space in ((("score", "throughput"), "micro"), (("score", "params"), "laptop")):
        config = search_config(sampler="known-cost", objectives=names, space=space)
        sampler = make_sampler(config, MICRO, objectives(names, "spatial"))
        assert isinstance(sampler, SearchSampler)
        sampler._cost_model.costs([], known)
        deviations.append(sampler._repeat_deviations())
    timed_again = math.hypot(math.log2(1.01 / 0.99) / 3.92, math.log2(1 + RUN_DEVIATION))
    assert deviations == [
        (assumed_noise("micro", steps).deviation, pytest.approx(timed_again, rel=0.01)),
        (assumed_noise("laptop", steps).deviation, 0.0),
    ]


def test_a_prediction_is_trusted_only_if_held_out_timings_agree_with_it() -> None:
    known, rng = timed(60), random.Random(0)
    unknown = [MICRO.encode(MICRO.sample(random.Random(100 + i))) for i in range(20)]
    noisy = [replace(r, measurement=measurement(r.measurement.ratio * 2 ** rng.gauss(0, 0.3))) for r in known]
    shares = []
    for records in (known, noisy):
        cost_model = SpaceCostModel(MICRO, search_config(sampler="known-cost"))
        cost_model.costs(unknown, trials_of(records))
        shares.append(sum(cost_model.trusted_ratio(params) is not None for params in unknown) / len(unknown))
    assert shares[0] >= 0.5
    assert shares[1] == 0


def test_without_measurements_costs_go_by_multiply_accumulates() -> None:
    cost_model = SpaceCostModel(MICRO, search_config())
    specs = [MICRO.sample(random.Random(i)) for i in range(30)]
    costs = cost_model.costs([MICRO.encode(spec) for spec in specs], [])
    by_macs = sorted(range(30), key=lambda i: -totals(specs[i], 64).macs)
    agree = np.corrcoef(np.argsort(np.argsort(costs)), np.argsort(by_macs))[0, 1]
    assert agree > 0.95


def test_the_same_trials_give_the_same_costs_whatever_was_asked_before() -> None:
    asked = [MICRO.encode(MICRO.sample(random.Random(i))) for i in range(20)]
    used, fresh = SpaceCostModel(MICRO, search_config()), SpaceCostModel(MICRO, search_config())
    used.costs(asked, trials_of(timed(11)))
    trials = trials_of(timed(25))
    assert list(used.costs(asked, trials)) == list(fresh.costs(asked, trials))


def test_what_breaks_a_counted_limit_has_no_cost() -> None:
    cost_model = SpaceCostModel(MICRO, search_config(limits={"max_params": 5e5}))
    specs = [MICRO.sample(random.Random(i)) for i in range(40)]
    costs = cost_model.costs([MICRO.encode(spec) for spec in specs], [])
    assert list(np.isnan(costs)) == [totals(spec, 64).params > 5e5 for spec in specs]
    assert 0 < np.isnan(costs).sum() < 40


@pytest.mark.parametrize("name", ["laptop", "full"])
def test_counts_from_the_spec_are_near_those_of_the_network(name: str) -> None:
    space, rng = SPACES[name], random.Random(0)
    specs = [space.sample(rng) for _ in range(25)]
    networks = [*specs, preset("eradio_xxxtiny_8x_ws16")]  # whose windows do not tile the maps at 64 px
    shares = np.array([np.divide(*(f(spec, space.image_px) for f in (derived_totals, totals))) for spec in networks])
    assert DERIVED_SHARES[0] < shares.min() < shares.max() < DERIVED_SHARES[1]
    assert shares[:, 1].max() <= 1.0, "of parameters"
    assert np.median(shares, axis=0).min() > 0.98


def test_windows_larger_than_their_map_break_no_limit_that_they_keep() -> None:
    """Their attention computes on a part of the enlarged map only."""
    space = with_choices(SPACES["laptop"], {"stages": {"windows": [16]}}, 64)
    rng, asked = random.Random(0), []
    while len(asked) < 5:
        spec = space.sample(rng)
        asked += [spec] if padded_maps(spec, 64) else []
    for spec in asked:
        bound = 1.05 * totals(spec, 64).macs / 1e9
        config = search_config(space="laptop", limits={"max_gmacs": bound})
        assert not np.isnan(SpaceCostModel(space, config).costs([space.encode(spec)], []))[0]


def test_what_is_likely_to_break_a_measured_limit_has_no_cost() -> None:
    """Latency as the inverse of the ratio, to a tenth; a third of all models are within the limit."""
    rng = random.Random(0)
    known = [
        replace(t, measurement=replace(t.measurement, latency_ms=5 / t.measurement.ratio * rng.uniform(0.9, 1.1)))
        for t in timed(60)
        if t.measurement
    ]
    unseen = timed(120)[60:]
    latencies = np.array([5 / t.measurement.ratio for t in unseen if t.measurement])
    limit = float(np.quantile(latencies, 1 / 3))
    cost_model = SpaceCostModel(MICRO, search_config(limits={"max_latency_ms": limit}))
    asked = [MICRO.encode(ArchSpec.from_dict(t.spec)) for t in unseen]
    left_out = np.isnan(cost_model.costs(asked, trials_of(known)))
    assert left_out[latencies > 1.3 * limit].all()
    assert not left_out[latencies < limit].any()
    assert not np.isnan(cost_model.costs(asked, trials_of(known[:5]))).any()


def infeasible(folder: Path, config: SearchConfig, fits: Callable[[int], bool], why: dict[str, Any]) -> int:
    """Return how many candidates of a search do not fit, where more MACs mean more score and more latency."""
    loop = StudyLoop(new_store(folder, config))
    while (trial := loop.next_trial()) is not None:
        macs = totals(ArchSpec.from_dict(trial.spec), 64).macs
        numbers = replace(measurement(1e7 / macs), latency_ms=macs / 1e7)
        trial = replace(trial, params=1, macs=macs, measurement=numbers)
        if not fits(macs):
            loop.report(replace(trial, state=TrialState.INFEASIBLE, **why))
            continue
        for index, state in enumerate((TrialState.RUNNING, TrialState.COMPLETE)):
            trial = replace(trial, rungs=(*trial.rungs, rung(index, math.log(macs) / 20)), state=state)
            if not loop.report(trial):
                break
    return sum(t.state is TrialState.INFEASIBLE for t in loop.trials.values())


@pytest.mark.slow
def test_a_search_within_a_tight_limit_measures_little_in_vain(tmp_path: Path) -> None:
    """One architecture in ten is fast enough."""
    found = {}
    for sampler in ("known-cost", "random"):
        config = search_config(budget=5, sampler=sampler, baselines=(), limits={"max_latency_ms": 0.7})
        found[sampler] = infeasible(tmp_path / sampler, config, lambda macs: macs <= 7e6, {"reason": "latency"})
    assert found["random"] > 15
    assert found["known-cost"] < found["random"] / 2


@pytest.mark.slow
def test_a_search_learns_which_batches_do_not_fit_into_memory(tmp_path: Path) -> None:
    """One architecture in three fits."""
    why = {"failure": Failure.OUT_OF_MEMORY, "reason": "memory: a smaller batch fits", "measurement": None}
    found = {}
    for sampler in ("known-cost", "random"):
        config = search_config(budget=12, sampler=sampler, baselines=())
        found[sampler] = infeasible(tmp_path / sampler, config, lambda macs: macs <= 1e7, why)
    assert found["known-cost"] < found["random"]


def test_with_a_reference_of_timm_features_are_shifted_and_costs_relative_to_its_macs() -> None:
    asked = [MICRO.encode(MICRO.sample(random.Random(i))) for i in range(5)]
    ours, timm = SpaceCostModel(MICRO, search_config()), SpaceCostModel(MICRO, search_config(reference="timm:resnet18"))
    shift = timm.features(asked) - ours.features(asked)
    assert np.allclose(shift, shift[0])
    macs = [totals(MICRO.decode(params), 64).macs for params in asked]
    assert np.allclose(
        timm.costs(asked, []), math.log2(network_totals("timm:resnet18", 64).macs) - np.log2(macs), atol=0.1
    )


def test_sizes_are_of_the_stages_and_of_the_whole() -> None:
    specs = [MICRO.sample(random.Random(i)) for i in range(20)]
    config = search_config(sampler="known-cost")
    found = SpaceCostModel(MICRO, config).sizes([MICRO.encode(spec) for spec in specs])
    stages = [[(s.width, s.depth, s.expansion) for s in spec.stages] for spec in specs]
    assert 2 ** found[:, :12] == pytest.approx(np.array(stages).reshape(20, 12))
    assert 2 ** found[:, 12] == pytest.approx([totals(spec, 64).macs for spec in specs], rel=0.1)
    own = make_sampler(config, MICRO, objectives(("score", "throughput"), "spatial"))
    (row,) = own._rows(TrialHistory({}, (1.0, 1.0), (), (), (), ()), [MICRO.encode(specs[0])])[0]
    assert row[-13:] == pytest.approx(found[0])


def test_a_stage_that_an_architecture_lacks_has_the_mean_of_its_choices() -> None:
    full = SPACES["full"]
    specs = {spec.strides: spec for spec in (full.sample(random.Random(i)) for i in range(100))}
    asked = [specs[strides] for strides in ((16, 32), (16, 32, 64), (4, 8, 16, 32))]
    found = SpaceCostModel(full, search_config(space="full")).sizes([full.encode(spec) for spec in asked])
    assert found.shape == (3, 16)
    own = [[[s.width, s.depth, s.expansion] for s in spec.stages] for spec in asked]
    for row, first, stages in zip(found, (6, 6, 0), own, strict=True):
        assert 2 ** row[first : first + 3 * len(stages)] == pytest.approx(np.ravel(stages))
    assert found[0, 0:6] == pytest.approx(found[1, 0:6])
    assert found[0, 0] == pytest.approx(np.log2(full.stages[0].widths).mean())
    assert found[0, 13] == found[2, 13] == pytest.approx(np.log2(full.stages[4].depths).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": "eradio_pico"},
        {"state": TrialState.FAILED, "failure": Failure.LOST_WORKER},
        {"state": TrialState.INFEASIBLE, "failure": Failure.HANG},  # of the run before
        {"rungs": ()},
    ],
)
def test_nothing_is_learnt_from(changes: dict[str, object]) -> None:
    (trial,) = trials_of([replace(record(0, (0.2, 0.3), 2.0), **changes)])  # type: ignore[arg-type]
    assert read_trial(trial) is None


@pytest.mark.parametrize("rungs", [(), (0.2,)])
@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.INFEASIBLE])
def test_a_net_that_cannot_be_trained_came_to_nothing(rungs: tuple[float, ...], state: TrialState) -> None:
    failed = replace(record(0, rungs, 2.0), state=state, failure=Failure.OUT_OF_MEMORY)
    (trial,) = trials_of([failed])
    assert read_trial(trial) == ((-math.inf,), 1.0)


def test_trials_that_many_workers_measure_in_another_order_cause_no_further_fits() -> None:
    """One trial in four is measured 15 trials later."""
    asked = [MICRO.encode(MICRO.sample(random.Random(i))) for i in range(5)]
    measured = trials_of(timed(40))
    waiting = trials_of([replace(r, measurement=None, state=TrialState.RUNNING) for r in timed(40)])
    for trial in waiting:
        trial.state = OptunaState.RUNNING
    cost_model = SpaceCostModel(MICRO, search_config())
    for now in range(1, 41):
        known = [now - number > (15 if number % 4 == 0 else 0) for number in range(now)]
        trials = [measured[number] if known[number] else waiting[number] for number in range(now)]
        costs = cost_model.costs(asked, trials)
    first = known.index(False)
    assert 3 < cost_model._predictor.cache_info().misses <= len({refit_size(n) for n in range(first + 1)} - {0})
    settled = SpaceCostModel(MICRO, search_config()).costs(asked, measured[:first])
    np.testing.assert_array_equal(costs, settled)


def test_stopped_trials_tell_their_rungs_and_their_log_ratio() -> None:
    stopped = replace(record(0, (0.2,), 2.0), state=TrialState.STOPPED, measurement=measurement(4.0))
    (trial,) = trials_of([stopped])
    assert read_trial(trial) == ((0.2,), 2.0)


@pytest.mark.slow
def test_known_cost_finds_more_than_random(tmp_path: Path) -> None:
    """On the synthetic landscape of the tests of the study, through loop, rungs and store."""
    volume = Counter[str]()
    for sampler in ("known-cost", "random"):
        config = search_config(budget=45, sampler=sampler, baselines=())
        loop = StudyLoop(new_store(tmp_path / sampler, config))
        drive(loop)
        volume[sampler] = loop.front_summary()[1]  # type: ignore[assignment]
    assert volume["known-cost"] > 1.3 * volume["random"]
