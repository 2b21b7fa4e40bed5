"""The simulated cluster: by hand, against the real loop's decisions, against a recorded search, and in general."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks.simulated_wall import RECORDED, again
from nas.planning.simulate import Candidate, Cluster, Doing, Simulated, simulate
from nas.planning.workload import TrialTimes, Workload
from nas.records import TrialState
from nas.study import StudyLoop
from tests.nas.study_builders import measurement, rung, search_config
from tests.nas.test_study import new_store

TIMES = (TrialTimes(1.0, (2.0, 4.0, 12.0)), TrialTimes(1.5, (3.0, 6.0, 18.0)))


def run(workers: int = 1, budget: int = 30, per_device: int = 1, seed: int = 0, **costs: float) -> Simulated:
    cluster = Cluster(workers // per_device, per_device, **costs)
    return simulate(Workload(TIMES, seed=seed).draw, budget, 3, cluster)


def test_measurement_pauses_the_training_of_its_neighbour() -> None:
    trials = [Candidate(2.0, (10.0,), ((0.0, 0.0),)), Candidate(3.0, (4.0,), ((1.0, 1.0),))]
    found = simulate(lambda asked, over: trials[asked], 2, 3, Cluster(1, 2))
    # Worker 0 measures 0-2 while 1 waits, 1 measures 2-5 while 0 waits, both train from 5: to 15 and to 9.
    assert found.wall_s == 15
    assert found.spent[Doing.DEVICE] == 2 + 3
    assert found.spent[Doing.TAIL] == 15 - 9
    assert found.spent[Doing.MEASURING] + found.spent[Doing.TRAINING] == 5 + 14


def test_a_measurement_pauses_a_training_that_is_under_way() -> None:
    best = ((1.0, 1.0),)
    trials = [Candidate(0.0, (1.0,), best), Candidate(0.0, (10.0,), best), Candidate(3.0, (1.0,), best)]
    found = simulate(lambda asked, over: trials[asked], 3, 3, Cluster(1, 2))
    # Worker 1 trains from 0; worker 0 is through at 1 and measures its next trial 1-4.
    assert found.wall_s == 13
    assert found.spent[Doing.DEVICE] == 3
    assert found.spent[Doing.TRAINING] == 12


def test_workers_of_their_own_devices_do_not_wait() -> None:
    assert run(workers=4).spent[Doing.DEVICE] == 0
    assert run(workers=4, per_device=4).spent[Doing.DEVICE] > 0


def test_one_driver_serves_one_after_the_other() -> None:
    found = simulate(lambda asked, over: Candidate(0.0, (1.0,), ((0.0, 0.0),)), 100, 3, Cluster(100, ask_s=1.0))
    assert found.wall_s == 101
    assert found.driver_s == 100
    assert found.spent[Doing.DRIVER] == 100 * 100  # a first result waits until all have asked


def test_alone_and_for_nothing_a_worker_is_never_idle() -> None:
    found = run()
    assert found.utilisation == 1
    assert found.wall_s == pytest.approx(found.spent[Doing.MEASURING] + found.spent[Doing.TRAINING])


def test_baselines_train_to_the_end_and_do_not_count() -> None:
    worst = Candidate(1.0, (1.0, 1.0, 1.0), ((-9.0, -9.0),) * 3)
    found = simulate(Workload(TIMES).draw, 1, 3, Cluster(1), baselines=[worst] * 3)
    assert found.reached[0] == 1
    assert [counts for _, counts in found.over] == [False, False, False, True]
    assert found.over[2][0] == 12


def test_infeasible_architectures_are_beside_the_budget() -> None:
    found = simulate(Workload(TIMES, infeasible=0.5).draw, 40, 3, Cluster(4))
    assert found.reached[0] == 40
    assert 20 <= found.infeasible <= 70


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
    found = run(devices * per_device, budget, per_device, seed, start_s=costs[0], ask_s=costs[1], tell_s=costs[2])
    assert sum(found.spent.values()) == pytest.approx(found.wall_s * devices * per_device)
    assert min(found.spent.values()) >= -1e-9
    assert found.reached[0] == sum(counts for _, counts in found.over) == budget
    assert all(a >= b for a, b in pairwise(found.reached))
    measuring = defaultdict(list)
    for span in found.spans:
        if span.doing is Doing.MEASURING:
            measuring[span.worker // per_device].append((span.begin_s, span.end_s))
    for spans in measuring.values():
        spans.sort()
        assert all(b[0] >= a[1] - 1e-9 for a, b in pairwise(spans)), "two at a time on a device"


def test_the_same_again() -> None:
    assert run(workers=7, ask_s=0.1, seed=3) == run(workers=7, ask_s=0.1, seed=3)
    assert run(workers=7, ask_s=0.1, seed=3) != run(workers=7, ask_s=0.1, seed=4)


def test_budget_that_fits_is_one_that_ends_in_time() -> None:
    whole = run(workers=4, budget=60, ask_s=0.1)
    half = whole.wall_s / 2
    fits = run(workers=4, budget=2000, ask_s=0.1).within(half)
    assert 20 < fits < 60
    assert run(workers=4, budget=fits, ask_s=0.1).wall_s <= half * 1.05
    assert run(workers=4, budget=fits + 3, ask_s=0.1).wall_s > half
    broken_off = simulate(Workload(TIMES).draw, 2000, 3, Cluster(4, ask_s=0.1), until_s=half)
    assert broken_off.within(half) == fits


def test_no_worker_is_said() -> None:
    with pytest.raises(ValueError, match="can't run a trial"):
        simulate(Workload(TIMES).draw, 1, 3, Cluster(0))


def test_where_nothing_is_learned_the_order_alone_decides_how_many_go_on() -> None:
    reached = [run(budget=200, seed=seed).reached for seed in range(12)]
    expected = sum(math.ceil(i / 3) / i for i in range(1, 201))
    assert mean(r[1] for r in reached) == pytest.approx(expected, rel=0.06)
    better = simulate(Workload(TIMES, learning=0.6).draw, 200, 3, Cluster(1))
    assert better.reached[1] > 1.3 * expected


def test_the_real_loop_decides_alike(tmp_path: Path) -> None:
    """The events of a simulation, told to a real StudyLoop on a real study."""
    config = search_config(budget=30, sampler="random")
    steps = len(config.distill.rung_steps)
    rng = random.Random(5)

    def drawn() -> Candidate:
        points = tuple((rng.uniform(0.1, 0.9), rng.uniform(-1, 1)) for _ in range(steps))
        points = tuple((quality, points[0][1]) for quality, _ in points)
        return Candidate(rng.uniform(1, 2), tuple(rng.uniform(1, 9) for _ in range(steps)), points)

    sampled, baselines = [drawn() for _ in range(30)], [drawn() for _ in config.baselines]
    cluster = Cluster(2, 2, start_s=1.0, ask_s=0.1, tell_s=0.01)
    found = simulate(lambda asked, over: sampled[asked], 30, config.eta, cluster, baselines)
    loop, records = StudyLoop(new_store(tmp_path, config)), {}
    heard = sorted((s for s in found.spans if s.doing is Doing.DRIVER), key=lambda s: s.end_s)
    for trial in (span.trial for span in heard):
        if trial not in records:
            records[trial] = loop.next_trial()
            continue
        record, candidate = records[trial], [*baselines, *sampled][trial]
        if record.measurement is None:
            record = replace(record, measurement=measurement(2.0 ** candidate.points[0][1]), params=1, macs=1)
        else:
            done = len(record.rungs)
            state = TrialState.COMPLETE if done + 1 == steps else TrialState.RUNNING
            record = replace(record, rungs=(*record.rungs, rung(done, candidate.points[done][0])), state=state)
        loop.take(record)
        records[trial] = record
    assert loop.finished
    of_sampler = [t for t in loop.trials.values() if not t.baseline]
    assert tuple(sum(len(t.rungs) > i for t in of_sampler) for i in range(steps)) == found.reached
    assert Counter(t.state for t in of_sampler)[TrialState.COMPLETE] == found.complete
    assert {n: len(t.rungs) for n, t in loop.trials.items()} == {
        n: sum(s.doing is Doing.TRAINING and s.trial == n for s in found.spans) for n in loop.trials
    }


def test_a_recorded_search_comes_out_as_long_as_it_was() -> None:
    """200 architectures on two CPUs: the README's search, with its own seconds."""
    recorded = json.loads(RECORDED.read_text())
    found = again(recorded)
    assert found.wall_s == pytest.approx(recorded["wall_s"], rel=0.05)
    assert found.reached[0] == recorded["reached"][0] == 200
    for simulated, real in zip(found.reached[1:], recorded["reached"][1:], strict=True):
        assert simulated == pytest.approx(real, rel=0.1)
