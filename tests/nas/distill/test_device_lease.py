"""Real ranks and measurements on the same devices: nobody waits forever, and no step runs during a measurement."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbones import build
from nas.distill import device_lease, distributed, trainer
from nas.distill.device_lease import DeviceLease
from nas.distill.rungs import Training, TrainingContext
from nas.distill.trainer import Distiller
from nas.measure.device_lock import awaited, measuring, training
from nas.study.config import DistillConfig, SearchConfig
from search_space import preset
from tests.nas.distill.targets_builder import targets
from tests.waiting import until

SPAWN = multiprocessing.get_context("spawn")
ROUNDS = 30
RECIPE = DistillConfig(img_size=32, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=(7, 14), ranks=2)

Span = tuple[str, float, float]  # device, begin and end in seconds since the machine started


def hold(lock_dir: Path, spans: Any) -> None:
    """Take the devices many times, as training does, with a pause in which a measurement can begin."""
    lease = DeviceLease(lock_dir)
    for _ in range(ROUNDS):
        with lease():
            began = time.monotonic()
            time.sleep(0.01)
            spans.put((lock_dir.name, began, time.monotonic()))


def hold_on_machines(lock_dir: Path, spans: Any) -> None:
    """Take the devices as `hold` does, each device on a machine of its own."""
    be_a_machine(lock_dir)
    hold(lock_dir, spans)


def be_a_machine(lock_dir: Path) -> None:
    """Make this process count as one of the machine of its device."""
    device_lease._machine = lambda: f"machine of {lock_dir.name}"


def context_of(lock_dir: Path, recipe: DistillConfig, **settings: Any) -> TrainingContext:
    """Return the context of trainings in which a checkpoint is due after every lease."""
    folder = lock_dir.parents[1]
    folders = dict.fromkeys(("weights_dir", "pictures_dir", "checkpoint_dir"), folder)
    config = SearchConfig(train_images=96, val_images=32, device="cpu", distill=recipe)
    return TrainingContext(config, targets(folder), lock_dir, checkpoint_s=0.0, **folders, **settings)


def train(lock_dir: Path, spans: Any) -> None:
    """Train both rungs."""
    step = Distiller.train_step

    def logged(self: Distiller) -> None:
        began = time.monotonic()
        step(self)
        spans.put((lock_dir.name, began, time.monotonic()))

    Distiller.train_step = logged  # type: ignore[method-assign]
    run = Training("arch", build(preset("eradio_femto")), context_of(lock_dir, RECIPE))
    results = [run.rung(0), run.rung(1)]
    run.close()
    assert [result is not None for result in results] == [distributed.rank() == 0] * 2


def rank(number: int, meeting: Path, lock_dir: Path, spans: Any, work: Callable[[Path, Any], None]) -> None:
    """Body of a process of two."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with distributed.process_group(number, 2, meeting):
        work(lock_dir, spans)


def measure(lock_dir: Path, spans: Any, stop: Any) -> None:
    """Measure again and again."""
    while not stop.is_set():
        with measuring(lock_dir):
            began = time.monotonic()
            time.sleep(0.03)
            spans.put((lock_dir.name, began, time.monotonic()))


def run(
    folder: Path, trainings: Sequence[Sequence[str]], work: Callable[[Path, Any], None], contended: bool = True
) -> tuple[list[Span], list[Span]]:
    """Train on the devices of each rank while every device is measured; return the spans of both.

    Args:
        folder: Takes everything.
        trainings: The device of each of the two ranks of every training.
        work: What a rank does.
        contended: Whether the devices are measured.
    """
    locks, stop, trained, measured = folder / "locks", SPAWN.Event(), SPAWN.Queue(), SPAWN.Queue()
    ranks = [
        SPAWN.Process(target=rank, args=(number, folder / f"meeting{i}", locks / device, trained, work), daemon=True)
        for i, devices in enumerate(trainings)
        for number, device in enumerate(devices)
    ]
    devices = sorted({device for devices in trainings for device in devices}) if contended else []
    meters = [SPAWN.Process(target=measure, args=(locks / device, measured, stop), daemon=True) for device in devices]
    spans: tuple[list[Span], list[Span]] = ([], [])
    for process in meters:
        process.start()
    try:
        while {device for device, _, _ in spans[1]} < set(devices):  # on a busy machine the ranks could be ready first
            spans[1].append(measured.get())
        for process in ranks:
            process.start()
        while any(process.is_alive() for process in ranks):
            _drain(trained, spans[0])
            _drain(measured, spans[1])
            time.sleep(0.02)
        assert [process.exitcode for process in ranks] == [0] * len(ranks)
        _drain(trained, spans[0])
        _drain(measured, spans[1])
    finally:
        stop.set()
        for process in filter(lambda each: each.pid, ranks + meters):
            process.kill()
            process.join()
    return spans


def _drain(queue: Any, spans: list[Span]) -> None:
    spans += [queue.get() for _ in range(queue.qsize())]


def check(trained: list[Span], measured: list[Span]) -> None:
    """Check that measurements came in between, on each device, and that no rank computed on it meanwhile."""
    first, last = min(began for _, began, _ in trained), max(ended for _, _, ended in trained)
    for device in {device for device, _, _ in trained}:
        between = [(b, e) for name, b, e in measured if name == device and first < b and e < last]
        assert len(between) > 2, f"{device}: measurements starve"
        busy = [(b, e) for name, b, e in trained if name == device]
        assert not [None for b, e in between for began, ended in busy if b < ended and began < e], device


@pytest.mark.parametrize(
    ("trainings", "work"),
    [
        pytest.param([("cpu", "cpu")], hold, id="one device"),
        pytest.param([("gpu0", "gpu1"), ("gpu1", "gpu0")], hold, id="two trainings on two devices"),
        pytest.param([("gpu0", "gpu1"), ("gpu1", "gpu0")], hold_on_machines, id="two trainings on two machines"),
    ],
)
def test_ranks_and_measurements_take_turns(
    trainings: list[tuple[str, str]], work: Callable[[Path, Any], None], tmp_path: Path
) -> None:
    check(*run(tmp_path, trainings, work))


STEP_S = 0.1


def count_messages(lock_dir: Path, spans: Any) -> None:
    """Train on free devices by a clock that goes slower in rank 1; tell the steps and the messages after each lease."""
    be_a_machine(lock_dir)
    run = Training("arch", build(preset("eradio_femto")), replace(context_of(lock_dir, RECIPE), checkpoint_s=1e6))
    clock, messages, exchange = SimpleNamespace(now_s=0.0), [], torch.distributed.all_reduce
    first = distributed.rank() == 0

    def step(self: Distiller) -> None:
        clock.now_s += STEP_S if first else 3 * STEP_S
        self._unread.append(("a/spatial",), torch.ones(1))
        self.step += 1

    def counted(values: torch.Tensor) -> None:
        messages.append(values)
        exchange(values)

    Distiller.train_step = step  # type: ignore[method-assign]
    torch.distributed.all_reduce = counted  # type: ignore[assignment]
    trainer.time = SimpleNamespace(perf_counter=lambda: clock.now_s)  # type: ignore[assignment]
    run._on_steps = lambda steps: spans.put((lock_dir.name, steps, len(messages)))
    run._distiller.train_until(40, run._between)
    run.close()


def test_on_free_machines_a_lease_takes_a_second_and_four_messages(tmp_path: Path) -> None:
    told, _ = run(tmp_path, [("gpu0", "gpu1")], count_messages, contended=False)
    for device in ("gpu0", "gpu1"):
        leases = [(steps, messages) for name, steps, messages in told if name == device]
        assert [steps for steps, _ in leases] == [1, 3, 7, 15, 25, 35, 40]
        assert [messages for _, messages in leases] == [4 * lease for lease in range(1, 8)]


@pytest.mark.slow
def test_no_rank_trains_while_its_device_is_measured(tmp_path: Path) -> None:
    trained, measured = run(tmp_path, [("gpu0", "gpu1")], train)
    assert len(trained) == 2 * RECIPE.rung_steps[-1]
    check(trained, measured)


@pytest.mark.parametrize("hold", [DeviceLease.__call__, DeviceLease.alone])
def test_time_spent_waiting_for_a_measurement_is_not_time_of_the_lease(
    hold: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=0.0)

    @contextmanager
    def training_after_a_measurement(lock_dir: Path) -> Iterator[None]:
        clock.now_s += 100.0
        with training(lock_dir):
            yield

    monkeypatch.setattr(device_lease, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    monkeypatch.setattr(device_lease, "training", training_after_a_measurement)
    lease = DeviceLease(tmp_path / "gpu0")
    for _ in range(2):
        with hold(lease):
            clock.now_s += 3.0
    assert lease.busy_s == 6.0


@pytest.mark.parametrize("hold", [DeviceLease.__call__, DeviceLease.alone])
def test_a_waiting_measurement_gets_the_memory_that_the_trainer_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Callable[[DeviceLease], Any]
) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(device_lease, "release_cached", log.append)

    def measure() -> None:
        with measuring(tmp_path / "gpu"):
            log.append("measured")

    lease = DeviceLease(tmp_path / "gpu")
    with hold(lease):
        assert not awaited(tmp_path / "gpu")
    assert log == [], "nobody waited"
    measurement = threading.Thread(target=measure)
    with hold(lease):
        measurement.start()
        until(lambda: awaited(tmp_path / "gpu"))
    measurement.join()
    assert log == ["cuda", "measured"]
