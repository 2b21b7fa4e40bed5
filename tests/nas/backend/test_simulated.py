"""The simulator against values by hand, a real database, a recorded search, and in general."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks.simulated_wall import RECORDED, again
from nas.backend.simulated import Cluster, Doing, SimulatedClock, SimulatedSearch, Span, simulate
from nas.backend.simulated_study import MemoryStore, NumberedSpace
from nas.plan.forecast import (
    FIRST_LATE,
    Candidate,
    Workload,
    candidate_phases,
    simulate_candidates,
    study_info,
)
from nas.samplers import make_sampler
from nas.storage.store import Store
from nas.study.config import SearchConfig
from nas.study.loop import StudyLoop
from nas.study.records import Objective, TrialState
from search_space import SPACES
from tests.nas.study.builders import measurement, search_config

TIMES = (Candidate(1.0, (2.0, 4.0, 12.0)), Candidate(1.5, (3.0, 6.0, 18.0)))


def run(workers: int = 1, budget: int = 30, per_device: int = 1, seed: int = 0, **costs: float) -> SimulatedSearch:
    cluster = Cluster(workers // per_device, per_device, **costs)
    return simulate_candidates(config(budget), Workload(TIMES, seed=seed).draw, cluster)


def config(budget: int, baselines: tuple[str, ...] = ()) -> SearchConfig:
    return SearchConfig(budget=budget, baselines=baselines, scale=(), measure_first=True)


def test_candidates_that_are_measured_late_cost_a_measurement_only_if_they_reach_the_last_rung() -> None:
    first = simulate_candidates(config(200), Workload(TIMES).draw, Cluster(1, 2))
    late = simulate_candidates(replace(config(200), measure_first=False), Workload(TIMES).draw, Cluster(1, 2))
    assert first.reached == late.reached
    assert late.wall_s < first.wall_s
    measured = sum(span.doing is Doing.MEASURING for span in late.spans)
    assert measured == FIRST_LATE + sum(len(at) > 2 for at in _rungs_of_late(late))


def _rungs_of_late(search: SimulatedSearch) -> list[list[Span]]:
    """Return the trainings of each trial that was measured late."""
    by_trial = defaultdict(list)
    for span in search.spans:
        if span.doing is Doing.TRAINING:
            by_trial[span.trial].append(span)
    return [spans for trial, spans in by_trial.items() if trial >= FIRST_LATE]


def test_a_measurement_pauses_a_training_that_is_under_way() -> None:
    trials = [Candidate(measure_s, (train_s,), (1.0,)) for measure_s, train_s in ((0.0, 1.0), (0.0, 10.0), (3.0, 1.0))]
    result = simulate_candidates(config(3), lambda asked, over: trials[asked], Cluster(1, 2))
    # Worker 1 trains from 0; worker 0 is through at 1 and measures its next trial 1-4.
    assert result.wall_s == 13
    assert result.spent[Doing.DEVICE] == 3
    assert result.spent[Doing.TRAINING] == 12


def test_one_driver_serves_one_after_the_other() -> None:
    result = simulate_candidates(
        config(100), lambda asked, over: Candidate(0.0, (1.0,), (0.0,)), Cluster(100, ask_s=1.0)
    )
    assert result.wall_s == 101
    assert result.driver_s == 100
    assert result.spent[Doing.DRIVER] == 100 * 100  # a first result waits until all have asked


def test_baselines_train_to_the_end_and_do_not_count() -> None:
    worst = Candidate(1.0, (1.0, 1.0, 1.0), (-9.0,) * 3, speed=-9.0)
    three = config(1, SPACES["micro"].baselines)
    result = simulate_candidates(three, Workload(TIMES).draw, Cluster(1), baselines=[worst] * 3)
    assert result.reached[0] == 1
    assert [counts for _, counts in result.trial_ends] == [False, False, False, True]
    assert result.trial_ends[2][0] == 12


@settings(max_examples=40, deadline=None)
@given(
    devices=st.integers(1, 9),
    per_device=st.integers(1, 3),
    budget=st.integers(1, 40),
    costs=st.tuples(*[st.floats(0, 3)] * 3),
    seed=st.integers(0, 99),
)
def test_all_seconds_are_accounted_for(
    devices: int, per_device: int, budget: int, costs: tuple[float, float, float], seed: int
) -> None:
    result = run(devices * per_device, budget, per_device, seed, start_s=costs[0], ask_s=costs[1], tell_s=costs[2])
    assert sum(result.spent.values()) == pytest.approx(result.wall_s * devices * per_device)
    assert min(result.spent.values()) >= -1e-9
    assert result.reached[0] == sum(counts for _, counts in result.trial_ends) == budget
    assert all(a >= b for a, b in pairwise(result.reached))
    measuring = defaultdict(list)
    for span in result.spans:
        if span.doing is Doing.MEASURING:
            measuring[span.worker // per_device].append((span.begin_s, span.end_s))
    for spans in measuring.values():
        spans.sort()
        assert all(b[0] >= a[1] - 1e-9 for a, b in pairwise(spans)), "two at a time on a device"


def test_budget_that_fits_is_one_that_ends_in_time() -> None:
    whole = run(workers=4, budget=60, ask_s=0.1)
    half = whole.wall_s / 2
    fits = run(workers=4, budget=120, ask_s=0.1).within(half)
    assert 20 < fits < 60
    assert run(workers=4, budget=fits, ask_s=0.1).wall_s <= half * 1.05
    assert run(workers=4, budget=fits + 3, ask_s=0.1).wall_s > half
    cut_short = simulate_candidates(config(120), Workload(TIMES).draw, Cluster(4, ask_s=0.1), until_s=half)
    assert cut_short.within(half) == fits


def test_where_nothing_is_learned_the_order_alone_decides_how_many_go_on() -> None:
    reached = [run(budget=200, seed=seed).reached for seed in range(6)]
    expected = sum(math.ceil(i / 3) / i for i in range(1, 201))
    assert mean(r[1] for r in reached) == pytest.approx(expected, rel=0.06)
    better = simulate_candidates(config(200), Workload(TIMES, learning=0.6).draw, Cluster(1))
    assert better.reached[1] > 1.3 * expected


def test_a_database_and_memory_give_the_same_search(tmp_path: Path) -> None:
    small = search_config(budget=30, sampler="random")
    rungs, rng = len(small.distill.rung_steps), random.Random(5)

    def drawn() -> Candidate:
        seconds = tuple(rng.uniform(1, 9) for _ in range(rungs))
        return Candidate(rng.uniform(1, 2), seconds, tuple(rng.random() for _ in range(rungs)), rng.uniform(-1, 1))

    baselines = [drawn() for _ in small.baselines]
    sampled = [drawn() for _ in range(30)]
    cluster = Cluster(2, 2, start_s=1.0, ask_s=0.1, tell_s=0.01)
    in_memory = simulate_candidates(small, lambda asked, over: sampled[asked], cluster, baselines)
    objectives = (Objective("score", "score", "", 0.0), Objective("throughput", "speed", "", 0.0))
    sampler = make_sampler(small, SPACES["micro"], objectives)
    store, clock = Store.create(tmp_path, study_info(small, objectives), sampler), SimulatedClock()
    on_disk = simulate(
        StudyLoop(store, clock=clock),
        clock,
        cluster,
        lambda loop, record: candidate_phases(record, [*baselines, *sampled][record.number], small.distill.rung_steps),
    )
    assert on_disk == in_memory
    assert 0 < on_disk.complete < 30


def memory_loop(**shared: Any) -> StudyLoop:
    store = MemoryStore(study_info(config(400), (Objective("score", "", "", 0.0),)), lambda number: {"number": number})
    return StudyLoop(store, space=NumberedSpace(), **shared)


def test_many_workers_over_a_limit_do_not_end_a_search_that_has_measured_some() -> None:
    """With 1,024 workers hundreds of candidates break a limit before the first trial ends."""
    loop = memory_loop()
    for number in range(320):
        record = loop.next_trial()
        assert record is not None
        if number % 200 == 150:
            loop.report(replace(record, measurement=measurement(1.0), params=1, macs=1))
        else:
            loop.report(replace(record, state=TrialState.INFEASIBLE, reason="max-params"))
    assert loop.gave_up is None
    for _ in range(300):
        record = loop.next_trial()
        if record is not None:
            loop.report(replace(record, state=TrialState.INFEASIBLE, reason="max-params"))
    assert loop.gave_up is not None


def test_a_simulated_search_takes_as_long_as_the_recorded_one() -> None:
    """200 architectures on two CPUs: the README's search, with its own seconds."""
    recorded = json.loads(RECORDED.read_text())
    result = again(recorded)
    assert result.wall_s == pytest.approx(recorded["wall_s"], rel=0.05)
    assert result.reached[0] == recorded["reached"][0] == 200
    for simulated, real in zip(result.reached[1:], recorded["reached"][1:], strict=True):
        assert simulated == pytest.approx(real, rel=0.1)
