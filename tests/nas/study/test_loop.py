"""The loop of a search with made-up workers: budget, rungs, repeats, limits, resume."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState

from nas.samplers import SAMPLERS, make_sampler
from nas.storage.errors import StoreError
from nas.storage.store import Store, read_study
from nas.study.config import DistillConfig
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import TrialState
from search_space import SPACES, preset
from search_space.genes import Layout, StageChoices
from tests.nas.study.builders import measurement, rung, search_config, study_info
from tests.nas.study.searches import drive, landscape, new_store, reopen, started, work


def test_budget_counts_unique_evaluated_architectures(tmp_path: Path) -> None:
    config = search_config(budget=25)
    loop = StudyLoop(new_store(tmp_path, config))
    drive(loop)
    counted = [t for t in loop.trials.values() if t.counts]
    assert len(counted) == len({t.arch_id for t in counted}) == 25
    assert {t.baseline for t in loop.trials.values()} - {None} == set(config.baselines)


def test_halving_stops_trials_and_never_baselines(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=40, sampler="random")))
    drive(loop)
    states = Counter(t.state for t in loop.trials.values() if not t.baseline)
    assert states[TrialState.STOPPED] >= 15
    assert all(
        len(t.rungs) == 1 and f"after {loop.info.rung_steps[0]} steps" in (t.reason or "")
        for t in loop.trials.values()
        if t.state is TrialState.STOPPED
    )
    assert all(t.state is TrialState.COMPLETE for t in loop.trials.values() if t.baseline)


def run_as(loop: StudyLoop, ratio: float, score: float) -> TrialState:
    """Run the next trial with a throughput and a score, which doubles from rung to rung; return how it ended."""
    record = replace(started(loop), params=1, macs=1, measurement=measurement(ratio))
    loop.report(record)
    for index, state in enumerate((TrialState.RUNNING, TrialState.COMPLETE)):
        record = replace(record, rungs=(*record.rungs, rung(index, score * 2**index)), state=state)
        if not loop.report(record):
            break
    return loop.trials[record.number].state


@pytest.mark.parametrize("least", [0.0, 0.02])
def test_trials_where_the_front_has_no_model_do_not_stop_each_other(tmp_path: Path, least: float) -> None:
    """Of the first fast ones each is outside the best third of its rung, though no model is as fast as they are."""
    config = search_config(budget=20, baselines=(), sampler="random", front_gain=least)
    loop = StudyLoop(new_store(tmp_path, config))
    stopped, complete = TrialState.STOPPED, TrialState.COMPLETE
    assert run_as(loop, ratio=1.0, score=0.3) is complete
    assert run_as(loop, ratio=16.0, score=0.05) is (complete if least else stopped)
    assert run_as(loop, ratio=8.0, score=0.2) is (complete if least else stopped)
    assert run_as(loop, ratio=4.0, score=0.1) is stopped, "another is faster and better"
    assert run_as(loop, ratio=15.0, score=0.01) is stopped
    assert "not among the best 1/3" in (loop.trials[4].reason or "")


def test_a_baseline_far_behind_the_others_trains_to_its_end(tmp_path: Path) -> None:
    """Though candidates of other workers were faster there and better."""
    loop = StudyLoop(new_store(tmp_path, search_config(budget=20, baselines=("eradio_pico",))))
    baseline = replace(started(loop), params=1, macs=1, measurement=measurement(0.2))
    loop.report(baseline)
    for _ in range(4):
        run_as(loop, ratio=16.0, score=0.3)
    assert loop.report(replace(baseline, rungs=(rung(0, 0.01),)))


def test_trials_that_would_add_much_to_the_front_are_added_to_those_of_halving(tmp_path: Path) -> None:
    """The sampler is random, so that both searches have the same trials."""
    loops = []
    for least in (0.0, 0.02):
        config = search_config(budget=36, sampler="random", front_gain=least)
        loops.append(StudyLoop(new_store(tmp_path / str(least), config)))
        drive(loops[-1])
    halving, both = ({n for n, t in loop.trials.items() if t.state is TrialState.COMPLETE} for loop in loops)
    assert halving < both
    assert len(both) < 2 * len(halving)
    assert loops[1].front_summary()[1] >= loops[0].front_summary()[1]


def test_optuna_sees_values_of_complete_trials_only(tmp_path: Path) -> None:
    store = new_store(tmp_path, search_config())
    drive(StudyLoop(store))
    for trial in store._study.trials:
        complete = trial.user_attrs["record"]["state"] == "complete"
        assert (trial.values is not None) == complete


@pytest.mark.parametrize(("sampler", "ahead"), [*((name, True) for name in SAMPLERS), ("evolution", False)])
def test_resumed_study_reruns_the_interrupted_trial_and_asks_for_the_same_trials(
    tmp_path: Path, sampler: str, ahead: bool
) -> None:
    config = search_config(budget=26, sampler=sampler)
    whole = StudyLoop(new_store(tmp_path / "whole", config))
    drive(whole, ahead=ahead)
    first = StudyLoop(new_store(tmp_path / "cut", config))
    drive(first, 24, ahead)
    cut_off = first.next_trial()  # the driver dies while it runs
    assert cut_off is not None
    if ahead:
        first.propose_ahead()
        first.propose_ahead()
        assert [t.number for t in first.interrupted] == [cut_off.number + 1], "one at a time"
    second = StudyLoop(reopen(tmp_path / "cut"))
    before = {n: t for n, t in second.trials.items() if t.state is not TrialState.RUNNING}
    drive(second, ahead=ahead)
    assert second.evaluated == len({t.arch_id for t in second.trials.values() if t.counts}) == 26
    assert [t.arch_id for t in second.trials.values()] == [t.arch_id for t in whole.trials.values()]
    assert all(second.trials[n] == t for n, t in before.items()), "a finished trial was run again"


def test_failed_and_infeasible_trials_are_records_and_do_not_count(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=6, baselines=())))
    while not loop.finished:
        record = started(loop)
        if record.number % 3 == 0:
            loop.report(replace(record, state=TrialState.FAILED, reason="out of memory"))
        elif record.number % 3 == 1:
            loop.report(replace(record, state=TrialState.INFEASIBLE, reason="max-params"))
        else:
            work(loop, record)
    assert loop.evaluated == 6
    study = read_study(tmp_path)
    assert Counter(t.state for t in study.trials)[TrialState.FAILED] >= 5
    assert study.trials[0].reason == "out of memory"


def test_lost_worker_is_a_record_and_the_search_continues(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=3, baselines=())))
    record = started(loop)
    loop.report_lost(record.number, Failure.LOST_WORKER, "the worker process died")
    again = loop.next_trial()
    assert again == replace(record, tries=2, failure=Failure.LOST_WORKER), "the one retry"
    loop.report_lost(record.number, Failure.LOST_WORKER, "the worker process died")
    drive(loop)
    lost = loop.trials[record.number]
    assert (lost.state, lost.reason, lost.tries) == (TrialState.FAILED, "the worker process died", 2)
    assert loop.evaluated == 3


@pytest.mark.parametrize("killed", ["worker", "driver"])
def test_a_trial_that_passed_a_rung_passes_it_again_after_a_kill(tmp_path: Path, killed: str) -> None:
    """Better trials have arrived meanwhile, but only its next rung is a new decision."""
    loop = StudyLoop(new_store(tmp_path, search_config(budget=9, baselines=())))
    first = started(loop)
    first = replace(first, measurement=measurement(1.0), params=1, macs=1)
    passed = replace(first, rungs=(rung(0, 0.1),))
    assert loop.report(first)
    assert loop.report(passed), "the first trials always continue"
    for _ in range(5):
        better = started(loop)
        better = replace(better, measurement=measurement(2.0), rungs=(rung(0, 0.5),), state=TrialState.STOPPED)
        loop.report(better)
    if killed == "worker":
        loop.report_lost(first.number, Failure.LOST_WORKER, "gone")
    else:
        loop = StudyLoop(reopen(tmp_path))
    again = started(loop)
    assert again.number == first.number
    assert loop.report(replace(again, rungs=passed.rungs))
    unlike = started(loop)
    assert not loop.report(replace(unlike, measurement=measurement(1.0), rungs=passed.rungs)), "on its first visit"


def test_a_full_disk_ends_the_search_and_leaves_its_trial_to_the_next_session(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=3, baselines=())))
    record, other = started(loop), started(loop)
    full = {"state": TrialState.FAILED, "failure": Failure.FULL_DISK, "reason": "the disk is full"}
    assert not loop.report(replace(record, **full))
    assert loop.gave_up is None, "it may be the disk of one node"
    again = started(loop)
    assert (again.number, again.tries) == (record.number, 2)
    assert not loop.report(replace(again, **full))
    assert loop.gave_up == "the disk is full"
    assert loop.next_trial() is None
    assert not loop.finished, "the other trial still runs"
    work(loop, other)
    assert loop.finished
    resumed = StudyLoop(reopen(tmp_path))
    again = started(resumed)
    assert (again.number, again.tries) == (record.number, 2)
    drive(resumed)
    work(resumed, again)
    assert resumed.evaluated == 3


def test_a_retry_is_stored_before_it_runs_and_keeps_its_measurement(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=1, baselines=())))
    record = started(loop)
    measured = replace(record, measurement=measurement(2.0), params=1, macs=1)
    loop.report(measured)
    loop.report(replace(measured, rungs=(rung(0, 0.5),)))
    loop.report_lost(record.number, Failure.HANG, "hang: no result after 5 s")
    resumed = StudyLoop(Store.open(tmp_path))
    assert resumed.trials[record.number].reason == "hang: no result after 5 s"
    assert resumed.next_trial() == replace(measured, tries=2, failure=Failure.HANG)


def test_a_run_that_fails_before_it_reaches_its_rungs_again_has_passed_them(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=1, baselines=())))
    record = started(loop)
    measured = replace(record, measurement=measurement(2.0), params=1, macs=1)
    loop.report(measured)
    loop.report(replace(measured, rungs=(rung(0, 0.5),)))
    loop.report_lost(record.number, Failure.LOST_WORKER, "lost")
    taken = {"state": TrialState.FAILED, "failure": Failure.MEMORY_SHARED, "reason": "memory"}
    second = started(loop)
    assert (second.tries, second.rungs) == (2, ())
    assert not loop.report(replace(second, **taken))
    third = started(loop)
    assert (third.number, third.tries) == (record.number, 3)
    assert not loop.report(replace(third, **taken))
    assert loop.trials[record.number].state is TrialState.FAILED


def test_a_trial_that_runs_again_has_the_seconds_of_its_last_run(tmp_path: Path) -> None:
    now = iter(range(1000))
    loop = StudyLoop(new_store(tmp_path, search_config(baselines=())), clock=lambda: float(next(now)))
    record = started(loop)
    loop.report_lost(record.number, Failure.LOST_WORKER, "the worker process died")
    between = loop.elapsed_s
    assert started(loop).number == record.number
    loop.report_lost(record.number, Failure.LOST_WORKER, "the worker process died")
    failed = loop.trials[record.number]
    assert failed.started_s is not None
    assert failed.finished_s is not None
    assert between < failed.started_s < failed.finished_s


@pytest.mark.slow
def test_evolution_finds_more_than_random(tmp_path: Path) -> None:
    """On the made-up landscape, over two seeds together, so that chance alone cannot fail it."""
    volume = Counter[str]()
    for sampler in ("evolution", "random"):
        for seed in range(2):
            loop = StudyLoop(
                new_store(tmp_path / f"{sampler}{seed}", search_config(budget=70, sampler=sampler, seed=seed))
            )
            drive(loop)
            volume[sampler] += loop.front_summary()[1]
    assert volume["evolution"] > 1.02 * volume["random"]


def test_an_unreadable_study_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        read_study(tmp_path / "missing")
    with pytest.raises(StoreError, match="holds no study"):
        read_study(tmp_path)
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(StoreError, match="not a readable study"):
        read_study(tmp_path)


def test_no_more_trials_start_than_the_budget_has_left(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=3, baselines=())))
    started_trials = [loop.next_trial() for _ in range(5)]
    assert [record is not None for record in started_trials] == [True, True, True, False, False]
    for record in started_trials[:3]:
        assert record is not None
        work(loop, record)
    assert loop.finished
    assert loop.evaluated == 3


def test_a_run_folder_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "why? #1 50%"
    drive(StudyLoop(new_store(odd, search_config(budget=2, baselines=()))))
    assert (odd / "study.db").is_file()
    assert len(read_study(odd).trials) == 2


def test_a_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(baselines=())))
    record = started(loop)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("DROP TABLE trial_user_attributes")
    with pytest.raises(StoreError, match="cannot be written: no such table"):
        loop.report(replace(record, state=TrialState.FAILED, reason="x"))


@pytest.mark.parametrize("baselines", [(), ("eradio_xt", "eradio_t")])
def test_a_small_space_is_searched_to_its_end_despite_baselines_outside_it(
    tmp_path: Path, baselines: tuple[str, ...]
) -> None:
    micro = SPACES["micro"]
    stages = tuple(replace(stage, **{name: values[:1] for name, values in choices(stage)}) for stage in micro.stages)
    small = replace(micro, stages=stages, layouts=(Layout(("conv",), ("conv",), stem_widths=(8, 16, 24)),))
    assert 2 <= small.count() <= 6
    config = search_config(budget=30, baselines=baselines)
    sampler = make_sampler(replace(config, sampler="random"), small, study_info(config).objectives)
    store = Store.create(tmp_path, study_info(config), sampler)
    drive(loop := StudyLoop(store, space=small))
    assert loop.evaluated == small.count()
    repeats = [t for t in store._study.trials if t.user_attrs["record"]["state"] == "duplicate"]
    states = [t.state for t in repeats]
    assert states == ([] if baselines else [OptunaState.FAIL]), "TPE would learn a pruned trial as a bad one"


def choices(stage: StageChoices) -> list[tuple[str, tuple[object, ...]]]:
    return [(name, values) for name, values in vars(stage).items() if isinstance(values, tuple)]


def test_the_sampler_gets_the_parameters_of_a_baseline_in_the_space(tmp_path: Path) -> None:
    config = search_config(budget=1)
    store = new_store(tmp_path, config)
    drive(StudyLoop(store))
    trial = store._study.trials[0]
    assert SPACES["micro"].decode(trial.params) == preset(config.baselines[0])


def test_all_interrupted_trials_start_at_once(tmp_path: Path) -> None:
    config = search_config(budget=3, baselines=())
    first = StudyLoop(new_store(tmp_path, config))
    cut_off = [first.next_trial() for _ in range(3)]
    second = StudyLoop(reopen(tmp_path))
    assert [second.next_trial() for _ in range(4)] == [*cut_off, None]


def killed_runs(loop: StudyLoop, number: int) -> int:
    """Kill the worker of a trial in each of its runs until the loop starts it no more, and return the runs."""
    for runs in range(99):
        record = loop.next_trial()
        if record is None or record.number != number:
            return runs
        loop.report_lost(number, Failure.LOST_WORKER, "the worker process died")
    raise AssertionError("the search goes on for ever")


@pytest.mark.parametrize("what", ["baseline", "reference"])
def test_a_network_that_the_study_needs_runs_until_it_stands(tmp_path: Path, what: str) -> None:
    """At last the search says why it cannot go on, and the next session runs the network again."""
    needed = {"baselines": ("eradio_pico",)} if what == "baseline" else {"baselines": (), "scale": ("like_resnet18",)}
    config = search_config(budget=2, reference="eradio_pico", **needed)
    store = new_store(tmp_path, config)
    loop = StudyLoop(store)
    number = 0 if what == "baseline" else -1
    assert killed_runs(loop, number) == 10
    assert loop.finished
    assert loop.gave_up
    assert loop.gave_up.startswith("eradio_pico ")
    loop.close({})
    resumed = StudyLoop(reopen(tmp_path))
    assert started(resumed).number == number
    work(resumed, resumed.record(number))
    drive(resumed)
    assert resumed.gave_up is None
    assert resumed.record(number).state in (TrialState.COMPLETE, TrialState.MEASURED)


@pytest.mark.slow
@pytest.mark.parametrize("rung_steps", [(10, 30), (10, 30, 90)])
def test_a_candidate_with_a_good_prediction_is_measured_when_it_has_reached_its_last_rung(
    tmp_path: Path, rung_steps: tuple[int, ...]
) -> None:
    recipe = DistillConfig(rung_steps=rung_steps)
    loop = StudyLoop(new_store(tmp_path, search_config(budget=60, sampler="known-cost", distill=recipe)))
    drive(loop)
    late = [t for t in loop.trials.values() if t.measured_late]
    assert not any(t.measurement for t in late if len(t.rungs) < len(rung_steps) - 1)
    states = Counter((t.state, t.measurement is not None) for t in late)
    assert states[TrialState.STOPPED, False] >= 5
    assert states[TrialState.COMPLETE, True] >= 5
    assert set(states) <= {(TrialState.STOPPED, False), (TrialState.STOPPED, True), (TrialState.COMPLETE, True)}
    assert all(t.measurement for t in loop.trials.values() if not t.measured_late and t.rungs)
    assert not any(t.measured_late for t in loop.trials.values() if t.baseline)
    assert all(t.predicted_ratio is None for t in loop.trials.values() if t.measurement)


def test_a_late_measurement_decides_the_first_rung_again(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=30, sampler="known-cost")))
    slow, decisions = [], []
    while not loop.finished:
        record = started(loop)
        if not record.measured_late:
            work(loop, record)
            continue
        score, ratio = landscape(record)
        record = replace(record, params=1, macs=1, rungs=(rung(0, score / 2),))
        if loop.report(record):
            slow.append(record.number)
            decisions.append(loop.report(replace(record, measurement=measurement(ratio / 64))))
            if decisions[-1]:
                loop.report_lost(record.number, Failure.OUT_OF_MEMORY, "out of memory")
    assert decisions.count(False) > decisions.count(True), "networks 64 times slower than predicted"
    stopped = [t for n in slow if (t := loop.trials[n]).state is TrialState.STOPPED]
    assert len(stopped) == decisions.count(False)
    reason = f"not among the best 1/3 after {loop.info.rung_steps[0]} steps"
    assert {(t.reason, t.measurement is None) for t in stopped} == {(reason, False)}


def test_every_candidate_is_measured_first_on_request_and_where_only_a_measurement_tells(tmp_path: Path) -> None:
    changes: tuple[dict[str, object], ...] = ({"measure_first": True}, {"limits": {"max_latency_ms": 100.0}})
    for number, change in enumerate(changes):
        config = search_config(budget=14, sampler="known-cost", **change)
        loop = StudyLoop(new_store(tmp_path / str(number), config))
        drive(loop)
        assert not any(t.measured_late for t in loop.trials.values())
        assert all(t.measurement for t in loop.trials.values() if t.rungs)
        assert any(t.expected is not None for t in loop.trials.values())


def test_a_study_killed_between_rung_and_late_measurement_continues_there(tmp_path: Path) -> None:
    loop = StudyLoop(new_store(tmp_path, search_config(budget=60, sampler="known-cost")))
    while True:
        record = started(loop)
        if record.measured_late and loop.report(replace(record, params=1, macs=1, rungs=(rung(0, 0.9),))):
            break  # the driver dies here
        if not record.measured_late:
            work(loop, record)
    second = StudyLoop(reopen(tmp_path))
    again = started(second)
    assert (again.number, again.expected, again.measurement) == (record.number, record.expected, None)
    trained = replace(again, params=1, macs=1, rungs=(rung(0, 0.9),))
    assert second.report(trained), "it has passed this rung"
    assert second.report(replace(trained, measurement=measurement(50.0)))
    assert second.trials[record.number].measurement == measurement(50.0)


@pytest.mark.slow
def test_a_session_until_converged_ends_there_and_the_next_one_goes_on(tmp_path: Path) -> None:
    config = search_config(budget=300, sampler="known-cost", baselines=())
    loop = StudyLoop(new_store(tmp_path, config), until_converged=True)
    drive(loop)
    assert 20 < loop.evaluated < 300
    assert re.match(r"the search has converged: .* 0\.\d\d times", loop.ending or "")
    assert loop.finished
    assert loop.gain_over_noise is not None
    assert loop.gain_over_noise < 1
    again = StudyLoop(reopen(tmp_path))
    assert again.ending is None
    drive(again, stop_after=3)
    assert again.evaluated == loop.evaluated + 3
