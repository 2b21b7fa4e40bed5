"""Causes of failures, and the decision about a failed trial."""

from __future__ import annotations

import errno
import math
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.backend.diagnosis import diagnose, rank_error
from nas.cache import CacheError
from nas.distill.rungs import Checkpoint
from nas.distill.trainer import TrainingError
from nas.measure import MeasurementError
from nas.study.failures import Failure, RetryDecision, cause_in_ranks, decide_retry, time_limit_s
from tests.nas.error_texts import CAUSES, LOST_CONNECTIONS, OUT_OF_MEMORY

OF_DISKS = {Failure.FULL_DISK, Failure.DISK_ERROR, Failure.DAMAGED_CACHE}


@given(st.sampled_from(Failure), st.integers(1, 5))
def test_no_candidate_runs_a_third_time(failure: Failure, tries: int) -> None:
    """But for one that met its node's disk or a damaged cache: the next run tells whether that was its node's alone."""
    again = decide_retry(failure, tries) is RetryDecision.AGAIN
    assert not again or tries < 2 or failure in OF_DISKS


@given(st.sampled_from(Failure), st.integers(1, 9), st.integers(0, 4))
def test_each_rung_that_a_candidate_has_passed_allows_one_more_loss(failure: Failure, tries: int, rungs: int) -> None:
    """Nodes that come and go would otherwise take those that train for longest, which are the best."""
    again = decide_retry(failure, tries, rungs=rungs) is RetryDecision.AGAIN
    if failure in {Failure.LOST_WORKER, Failure.HANG, Failure.MEMORY_SHARED}:
        assert again is (tries < 2 + rungs)
    else:
        assert again is (decide_retry(failure, tries) is RetryDecision.AGAIN)


@given(st.sampled_from(Failure), st.integers(1, 50))
def test_a_required_network_fails_only_by_a_cause_that_another_run_would_meet_again(
    failure: Failure, tries: int
) -> None:
    """A transient cause ends the search at last, which then says why; --resume runs the network again."""
    decision = decide_retry(failure, tries, required=True)
    if failure in {Failure.MEMORY_SHARED, Failure.HANG, Failure.LOST_WORKER}:
        assert decision is (RetryDecision.AGAIN if tries < 10 else RetryDecision.END)
    else:
        assert decision is decide_retry(failure, tries)


def test_a_trial_runs_again_only_if_the_outcome_can_differ() -> None:
    again = {failure for failure in Failure if decide_retry(failure, 1) is RetryDecision.AGAIN}
    of_the_node = {Failure.ERROR, *OF_DISKS}
    assert again == {Failure.MEMORY_SHARED, Failure.HANG, Failure.LOST_WORKER} | of_the_node
    ending = {failure for failure in Failure if decide_retry(failure, 1, confirmed=True) is RetryDecision.END}
    assert ending == OF_DISKS
    assert decide_retry(Failure.FULL_DISK, 2) is RetryDecision.AGAIN, "its first run failed for another cause"
    assert decide_retry(Failure.FULL_DISK, 3, required=True, confirmed=True) is RetryDecision.END
    assert decide_retry(Failure.ERROR, 2, confirmed=True) is RetryDecision.FAILED
    assert decide_retry(None, 1) is RetryDecision.FAILED


def test_a_time_limit_follows_the_median_of_enough_earlier_trials() -> None:
    assert time_limit_s([], 7.0) == time_limit_s([900.0] * 9, 7.0) == 7.0
    assert time_limit_s([100.0] * 4) == math.inf
    assert time_limit_s([100.0, 100.0, 100.0, 100.0, 9000.0]) == 1000.0
    assert time_limit_s([1.0] * 5) == 600.0, "no limit is under 10 minutes"


def raised(error: Exception) -> Exception:
    """Return the error with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "failure", "reason"),
    [
        (TrainingError("the loss is not finite at step 3"), Failure.NOT_FINITE, "the loss is not finite at step 3"),
        (MeasurementError("hang", "no result after 5 s"), Failure.HANG, "measuring: hang: no result after 5 s"),
        (MeasurementError("crash", "SIGSEGV"), Failure.LOST_WORKER, "measuring: crash: SIGSEGV"),
        (MeasurementError("wrong output", "not finite"), Failure.WRONG_OUTPUT, "measuring: wrong output: not finite"),
        (OSError(errno.ENOSPC, "No space left on device"), Failure.FULL_DISK, "the disk is full: "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), Failure.FULL_DISK, "the disk is full: "),
        (CacheError("teacher cache: x.npy is altered"), Failure.DAMAGED_CACHE, "teacher cache: x.npy is altered"),
        (OSError(errno.ESTALE, "Stale file handle"), Failure.DISK_ERROR, "the disk has an error: "),
        (RuntimeError("I/O error: Input/output error (os error 5)"), Failure.DISK_ERROR, "the disk has an error: "),
        (OSError(errno.EACCES, "Permission denied"), Failure.ERROR, "PermissionError: "),
        (ValueError("no such block"), Failure.ERROR, "ValueError: no such block (test_failures.py:"),
    ],
)
def test_errors_are_diagnosed(error: Exception, failure: Failure, reason: str) -> None:
    diagnosis, line = diagnose(raised(error), "cpu")
    assert diagnosis is failure
    assert line.startswith(reason)


def test_an_allocation_that_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**56)
    failure, reason = diagnose(caught.value, "cpu")
    assert failure is Failure.MEMORY_SHARED, "all processes share the memory of a host"
    assert "memory" in reason


@pytest.mark.parametrize(
    ("card", "free", "foreign", "failure"),
    [
        (4, 0.1, 1.2, Failure.OUT_OF_MEMORY),  # two contexts of CUDA, and a screen
        (4, 2.9, 0.8, Failure.OUT_OF_MEMORY),  # it asked for more than the whole card has
        (4, 0.1, 2.0, Failure.MEMORY_SHARED),
        (8, 0.1, 1.4, Failure.OUT_OF_MEMORY),
        (8, 0.1, 3.0, Failure.MEMORY_SHARED),
        (80, 0.1, 3.5, Failure.OUT_OF_MEMORY),
        (80, 30.0, 4.5, Failure.MEMORY_SHARED),
    ],
)
def test_a_card_s_memory_was_missing_because_of_others_if_they_have_more_than_contexts_and_a_screen(
    card: float, free: float, foreign: float, failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are in GiB."""
    bytes_of = {name: int(gib * 2**30) for name, gib in (("card", card), ("free", free), ("foreign", foreign))}
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (bytes_of["free"], bytes_of["card"]))
    reserved = bytes_of["card"] - bytes_of["free"] - bytes_of["foreign"]
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: reserved)
    diagnosis = diagnose(raised(torch.OutOfMemoryError("CUDA out of memory")), "cuda")[0]
    assert diagnosis is failure
    again = decide_retry(diagnosis, 2, required=True) is RetryDecision.AGAIN
    assert again == (failure is Failure.MEMORY_SHARED), "a baseline that cannot fit is not tried ten times"


def test_the_error_of_a_rank_is_diagnosed_on_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its card is its own; that of the trial's process is full of other ranks."""
    free = 79
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 0)
    sent = pickle.loads(pickle.dumps(rank_error(raised(torch.OutOfMemoryError("CUDA out of memory")), "cuda")))
    free = 20
    assert diagnose(raised(sent), "cuda") == (Failure.OUT_OF_MEMORY, "out of memory: CUDA out of memory")


LOST = [torch.distributed.DistNetworkError("failed to recv"), *LOST_CONNECTIONS]
OTHERS = [TrainingError("the loss is not finite"), ValueError("no such block"), *CAUSES, *OUT_OF_MEMORY]


@pytest.mark.parametrize(
    ("cause", "lost"),
    [*((cause, LOST[i % len(LOST)]) for i, cause in enumerate(OTHERS)), *((OTHERS[0], lost) for lost in LOST)],
)
def test_the_error_of_a_rank_that_lost_another_one_is_not_the_cause(
    cause: Exception | str, lost: Exception | str
) -> None:
    first, second, later = (sent(error) for error in (lost, cause, ValueError("of another rank, later")))
    assert cause_in_ranks({0: first, 1: later, 2: second}) is second
    assert cause_in_ranks({1: first, 0: sent(lost)}) is first
    died = RuntimeError("the worker died")  # of Ray
    assert cause_in_ranks({0: first, 1: died}) is died
    assert cause_in_ranks({0: died, 1: second}) is second


def sent(error: Exception | str) -> Exception:
    """Return what a rank's process sends of an error; a text is that of a RuntimeError."""
    return rank_error(raised(RuntimeError(error) if isinstance(error, str) else error), "cpu")


def test_a_card_that_has_no_room_for_a_context_is_full_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context() -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("torch.cuda.mem_get_info", no_context)
    assert diagnose(raised(RuntimeError("CUDA error: out of memory")), "cuda")[0] is Failure.MEMORY_SHARED


def test_a_checkpoint_that_finds_a_full_disk_ends_the_search(small_disk: Path) -> None:
    """Wherever in the file the space ends: PyTorch's own writer says so only for some places."""
    content = {name: torch.ones(300_000) for name in "abc"}
    for free_kib in range(900, 3400, 190):
        (filler := small_disk / "filler").write_bytes(bytes((4096 - free_kib) * 1024))
        try:
            Checkpoint(small_disk / "checkpoint", "me").save(content)
        except Exception as error:
            diagnosis, reason = diagnose(error, "cpu")
        assert diagnosis is Failure.FULL_DISK, (free_kib, reason)
        assert [path.name for path in small_disk.iterdir()] == ["filler"]
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
