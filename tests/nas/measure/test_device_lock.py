"""The lock holds between real processes: trainers share, a measurement is alone, and it is not starved."""

import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from nas.measure.device_lock import _flock, awaited, measuring, training
from tests.waiting import PATIENCE_S, until

FORK = multiprocessing.get_context("fork")


def hold(kind: str, folder: Path, seconds: float, log, times: int = 1) -> None:
    take = {"training": training, "measuring": measuring}[kind]
    for _ in range(times):
        with take(folder):
            start = time.monotonic()
            time.sleep(seconds)
            log.put((kind, start, time.monotonic()))


def run(folder: Path, *jobs: tuple) -> list[tuple[str, float, float]]:
    log = FORK.Queue()
    processes = [FORK.Process(target=hold, args=(kind, folder, s, log, times)) for kind, s, times in jobs]
    for process in processes:
        process.start()
    spans = [log.get(timeout=PATIENCE_S) for _ in range(sum(times for _, _, times in jobs))]
    for process in processes:
        process.join()
    return spans


def test_a_lock_is_open_to_read_and_to_write(tmp_path):
    """NFS takes a shared lock by a file that can be read, and an exclusive one by a file that can be written."""
    for mode in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        with _flock(tmp_path / "device.lock", mode) as descriptor:
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def overlap(a, b) -> bool:
    return a[1] < b[2] and b[1] < a[2]


def test_measurements_are_alone(tmp_path):
    spans = run(tmp_path / "new" / "folder", ("training", 0.2, 3), ("training", 0.2, 3), ("measuring", 0.1, 3))
    measured = [s for s in spans if s[0] == "measuring"]
    assert len(measured) == 3
    assert not any(overlap(m, other) for m in measured for other in spans if other is not m)


def hold_and_meet(folder: Path, both) -> None:
    with training(folder):
        both.wait(PATIENCE_S)


def test_trainers_share(tmp_path):
    both = FORK.Barrier(2)
    processes = [FORK.Process(target=hold_and_meet, args=(tmp_path, both)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_measurement_comes_before_a_trainer_that_asks_later_beside_others(tmp_path):
    log = FORK.SimpleQueue()
    later = [FORK.Process(target=hold, args=(kind, tmp_path, 0.0, log)) for kind in ("measuring", "training")]
    with training(tmp_path):
        later[0].start()
        until(lambda: awaited(tmp_path))
        later[1].start()
        time.sleep(0.3)  # in which a trainer that does not queue would take the device
    assert [log.get()[0] for _ in later] == ["measuring", "training"]
    for process in later:
        process.join()


def test_a_trainer_that_does_not_wait_takes_a_device_that_no_measurement_has_or_waits_for(tmp_path):
    with training(tmp_path):
        with training(tmp_path, wait=False):
            pass
        waiting = FORK.Process(target=hold, args=("measuring", tmp_path, 0.0, FORK.Queue()))
        waiting.start()
        until(lambda: awaited(tmp_path))
        with pytest.raises(BlockingIOError), training(tmp_path, wait=False):
            pass
    waiting.join(PATIENCE_S)
    with measuring(tmp_path), pytest.raises(BlockingIOError), training(tmp_path, wait=False):
        pass
    assert not awaited(tmp_path)


def hold_until_killed(folder: Path, held) -> None:
    with training(folder):
        held.set()
        signal.pause()


def test_a_killed_holder_leaves_the_lock_free(tmp_path):
    held = FORK.Event()
    process = FORK.Process(target=hold_until_killed, args=(tmp_path, held))
    process.start()
    assert held.wait(PATIENCE_S)
    process.kill()
    process.join()
    with measuring(tmp_path):
        pass


def test_an_error_inside_releases_the_lock(tmp_path):
    for take in (training, measuring):
        try:
            with take(tmp_path):
                raise RuntimeError
        except RuntimeError:
            pass
    with measuring(tmp_path):
        pass
