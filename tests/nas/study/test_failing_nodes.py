"""A node on which every trial fails, in a search of many workers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

import pytest

from nas.backend.simulated_study import MemoryStore, NumberedSpace
from nas.study.failing_nodes import node_to_avoid
from nas.study.failures import Failure
from nas.study.loop import StudyLoop
from nas.study.records import TrialRecord, TrialState
from tests.nas.study.builders import measurement, rung, search_config, study_info

NODES = 16
BAD, FULL = "n0", "No space left on device"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def new_loop(budget: int = 200) -> tuple[StudyLoop, Clock]:
    config, clock = search_config(budget=budget, baselines=(), sampler="random"), Clock()
    store = MemoryStore(study_info(config), lambda number: {"number": number})
    return StudyLoop(store, space=NumberedSpace(), clock=clock), clock


def failed_on(record: TrialRecord, node: str, failure: Failure = Failure.ERROR) -> TrialRecord:
    return replace(record, state=TrialState.FAILED, failure=failure, reason="ECC", worker=f"{node}:1")


def measured_on(record: TrialRecord, node: str) -> TrialRecord:
    return replace(record, measurement=measurement(1.0), params=1, macs=1, worker=f"{node}:1")


def finished_on(record: TrialRecord, node: str) -> TrialRecord:
    rungs = (rung(0, 0.5), rung(1, 0.6))
    return replace(measured_on(record, node), rungs=rungs, state=TrialState.COMPLETE)


def next_on(loop: StudyLoop, node: str) -> TrialRecord | None:
    """Return the trial that a worker of a node gets, as `LoopSearcher` places it; None where none may run there."""
    if node in loop.left_out:
        return None
    record = loop.next_trial()
    assert record is not None
    if node_to_avoid(record) == node:
        loop.release(record.number)
        return None
    return record


@pytest.mark.parametrize("failure", [Failure.ERROR, Failure.LOST_WORKER, Failure.HANG])
def test_a_bad_node_burns_no_candidate_and_ends_no_search(failure: Failure) -> None:
    """63 trials run for hours, and each on the bad node fails in seconds, also if a process that measures crashes."""
    loop, clock = new_loop()
    running = deque((f"n{i % (NODES - 1) + 1}", loop.next_trial()) for i in range(63))
    for node, record in running:
        assert record is not None
        loop.report(measured_on(record, node))
    failures = 0
    for _ in range(100):
        clock.now_s += 20
        if (record := next_on(loop, BAD)) is not None:
            failures += 1
            loop.report(failed_on(record, BAD, failure))
        node, record = running.popleft()
        assert record is not None
        loop.report(finished_on(record, node))
        running.append((node, next_on(loop, node)))
    assert loop.gave_up is None
    assert loop.counts[TrialState.FAILED] == 0, "every candidate ran again elsewhere"
    assert loop.counts[TrialState.COMPLETE] == 100
    assert 3 <= failures <= 6
    assert "ECC" in loop.left_out[BAD]
    assert list(loop.left_out) == [BAD]


def test_study_whose_limits_nothing_meets_gives_up() -> None:
    """And one in which a candidate meets them now and then does not."""
    for one_in in (10**6, 100):
        loop, _ = new_loop(budget=5)
        while not loop.finished:
            record = loop.next_trial()
            assert record is not None
            if record.number % one_in == one_in - 1:
                loop.report(finished_on(record, "n1"))
            else:
                infeasible = replace(record, state=TrialState.INFEASIBLE)
                loop.report(replace(infeasible, reason="max-params: 2 against a limit of 1"))
        assert ("max-params" in (loop.gave_up or "")) is (one_in > 100)
        assert loop.evaluated == (0 if one_in > 100 else 5)


def leave_out_a_busy_node(loop: StudyLoop) -> TrialRecord:
    """Let three trials fail on the bad node, on which two others run; return one of these two."""
    under_way = loop.next_trial()
    assert under_way is not None
    for node, record in ((BAD, under_way), (BAD, loop.next_trial()), ("n1", loop.next_trial())):
        assert record is not None
        loop.report(measured_on(record, node))
    assert not loop.running_on_left_out
    for _ in range(3):
        record = loop.next_trial()
        assert record is not None
        loop.report(failed_on(record, BAD))
        again = loop.next_trial()
        assert again is not None
        loop.report(finished_on(again, "n1"))
    return under_way


def test_the_trials_that_still_run_on_a_node_that_is_left_out_are_counted() -> None:
    loop, _ = new_loop()
    under_way = leave_out_a_busy_node(loop)
    last = loop.next_trial()
    assert last is not None
    loop.report(failed_on(last, BAD))
    assert loop.next_trial() is not None, "it runs elsewhere now"
    assert (loop.running, loop.running_on_left_out) == (4, {BAD: 2})
    loop.report(replace(measured_on(under_way, BAD), state=TrialState.INFEASIBLE))
    assert loop.running_on_left_out == {BAD: 1}


def test_a_node_is_not_left_out_while_nothing_gets_on_elsewhere() -> None:
    """A space in which everything fails: every candidate has one more try, and the search ends soon."""
    loop, _ = new_loop()
    tries = Counter[int]()
    while not loop.finished:
        record = loop.next_trial()
        assert record is not None
        tries[record.number] += 1
        loop.report(failed_on(record, f"n{sum(tries.values()) % NODES}"))
        assert not loop.left_out
    assert loop.gave_up == "20 failed architectures in a row; the last: ECC"
    assert set(tries.values()) == {2}
    assert len(tries) == 20


def test_a_node_that_was_left_out_is_tried_again_and_a_rung_clears_it() -> None:
    loop, clock = new_loop()

    def fails() -> None:
        record = loop.next_trial()
        assert record is not None
        loop.report(failed_on(record, BAD))
        again = loop.next_trial()
        assert again is not None
        assert (again.number, node_to_avoid(again)) == (record.number, BAD)
        loop.report(finished_on(again, "n1"))

    for _ in range(3):
        assert not loop.left_out
        fails()
    assert loop.left_out
    clock.now_s += 601
    assert not loop.left_out
    fails()
    clock.now_s += 601
    assert loop.left_out, "twice as long"
    clock.now_s += 600
    record = loop.next_trial()
    assert record is not None
    loop.report(finished_on(record, BAD))
    for _ in range(2):
        fails()
    assert not loop.left_out


@pytest.mark.parametrize("failure", [Failure.FULL_DISK, Failure.DAMAGED_CACHE])
def test_the_disk_of_one_node_does_not_end_a_search_and_that_of_all_does(failure: Failure) -> None:
    loop, _ = new_loop()
    for _ in range(4):
        record = loop.next_trial()
        assert record is not None
        loop.report(failed_on(record, BAD, failure))
        again = loop.next_trial()
        assert again is not None
        assert again.number == record.number
        loop.report(finished_on(again, "n1"))
    assert loop.gave_up is None
    other = loop.next_trial()
    assert other is not None
    loop.report(failed_on(other, "n2", failure))
    assert loop.gave_up == "ECC", "a second node"
