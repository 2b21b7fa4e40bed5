"""Real ranks and measurements on the same devices: nobody waits forever, and no step runs during a measurement."""

from __future__ import annotations

import multiprocessing.util
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbones import build
from nas.distill import device_lease, distributed, trainer
from nas.distill.device_lease import DeviceLease
from nas.distill.rungs import Training, TrainingContext, TrainingStopped
from nas.distill.trainer import Distiller
from nas.measure.device_lock import awaited, measuring, training
from nas.study.config import DistillConfig, SearchConfig
from search_space import preset
from tests.nas.distill.targets_builder import targets
from tests.waiting import until

multiprocessing.util.get_temp_dir()  # takes the server's socket, and so outlives the tests' own folder
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])  # torch is imported once
RECIPE = DistillConfig(img_size=32, batch_size=8, warmup_steps=2, precision="fp32", rung_steps=(7, 10**6), ranks=2)

Span = tuple[str, str, float, float]  # kind, device, begin and end in seconds since the machine started
Work = Callable[[Path, Any, Any], None]


def span(spans: Any, kind: str, lock_dir: Path, work: Callable[[], None]) -> None:
    """Do some work and tell when that was."""
    began = time.monotonic()
    work()
    spans.put((kind, lock_dir.name, began, time.monotonic()))


def hold(lock_dir: Path, spans: Any, enough: Any) -> None:
    """Take the devices again and again, as training does, with a pause in which a measurement can begin."""
    lease = DeviceLease(lock_dir)
    while not distributed.any_rank(enough.is_set()):
        with lease():
            span(spans, "trained", lock_dir, partial(time.sleep, 0.01))


def hold_on_machines(lock_dir: Path, spans: Any, enough: Any) -> None:
    """Take the devices as `hold` does, each device on a machine of its own."""
    be_a_machine(lock_dir)
    hold(lock_dir, spans, enough)


def be_a_machine(lock_dir: Path) -> None:
    """Make this process count as one of the machine of its device."""
    device_lease._machine = lambda: f"machine of {lock_dir.name}"


def context_of(lock_dir: Path, recipe: DistillConfig, **settings: Any) -> TrainingContext:
    """Return the context of trainings in which a checkpoint is due after every lease."""
    folder = lock_dir.parents[1]
    folders = dict.fromkeys(("weights_dir", "pictures_dir", "checkpoint_dir"), folder)
    config = SearchConfig(train_images=96, val_images=32, device="cpu", distill=recipe)
    return TrainingContext(config, targets(folder), lock_dir, checkpoint_s=0.0, **folders, **settings)


def train(lock_dir: Path, spans: Any, enough: Any) -> None:
    """Train until there are enough measurements."""
    step = Distiller.train_step
    Distiller.train_step = lambda self: span(spans, "trained", lock_dir, partial(step, self))  # type: ignore[method-assign]
    run = Training("arch", build(preset("eradio_femto")), context_of(lock_dir, RECIPE, should_stop=enough.is_set))
    with pytest.raises(TrainingStopped):
        deque(map(run.rung, (0, 1)))
    run.close()


def rank(number: int, meeting: Path, lock_dir: Path, spans: Any, enough: Any, work: Work) -> None:
    """Body of a process of two."""
    torch.manual_seed(0)
    with distributed.process_group(number, 2, meeting):
        work(lock_dir, spans, enough)


def measure(lock_dir: Path, spans: Any) -> None:
    """Measure again and again."""
    while True:
        with measuring(lock_dir):
            span(spans, "measured", lock_dir, partial(time.sleep, 0.03))


def run(folder: Path, trainings: Sequence[Sequence[str]], work: Work, contended: bool = True) -> list[Any]:
    """Train on the devices of each rank until each was measured three times meanwhile; return what all told.

    Args:
        folder: Takes everything.
        trainings: The device of each of the two ranks of every training.
        work: What a rank does.
        contended: Whether the devices are measured.
    """
    locks, spans, enough, told = folder / "locks", SERVER.Queue(), SERVER.Event(), []
    ranks = [
        SERVER.Process(target=rank, args=(number, folder / f"meeting{i}", locks / device, spans, enough, work))
        for i, devices in enumerate(trainings)
        for number, device in enumerate(devices)
    ]
    devices = {device for devices in trainings for device in devices}
    meters = [SERVER.Process(target=measure, args=(locks / device, spans)) for device in devices if contended]

    def over() -> bool:
        running = any(process.is_alive() for process in ranks)
        told.extend(spans.get() for _ in range(spans.qsize()))
        if contended and min(len(measured_meanwhile(told, device)) for device in devices) > 2:
            enough.set()
        return not running

    try:
        for process in meters + ranks:
            process.daemon = True
            process.start()
        until(over)
        assert [process.exitcode for process in ranks] == [0] * len(ranks)
    finally:
        for process in ranks + meters:
            if process.pid:
                process.kill()
                process.join()
    return told


def measured_meanwhile(told: list[Span], device: str) -> list[Span]:
    """Return the measurements of a device between two spans of training on it."""
    trained = [span for span in told if span[:2] == ("trained", device)]
    measured = [span for span in told if span[:2] == ("measured", device)]
    return [span for span in measured if trained and trained[0][2] < span[2] and span[3] < trained[-1][3]]


@pytest.mark.parametrize(
    ("trainings", "work"),
    [
        pytest.param([("cpu", "cpu")], hold, id="one device"),
        pytest.param(
            [("gpu0", "gpu1"), ("gpu1", "gpu0")],
            hold_on_machines,
            id="two trainings on two machines",
            marks=pytest.mark.slow,
        ),
        pytest.param([("gpu0", "gpu1")], train, id="a real training", marks=pytest.mark.slow),
    ],
)
def test_ranks_and_measurements_take_turns(trainings: list[tuple[str, str]], work: Work, tmp_path: Path) -> None:
    """Nobody waits forever, and no rank computes on a device while it is measured."""
    told = run(tmp_path, trainings, work)
    for _, device, began, ended in [span for span in told if span[0] == "measured"]:
        assert not [span for span in told if span[:2] == ("trained", device) and span[2] < ended and began < span[3]]


STEP_S = 0.1


def count_messages(lock_dir: Path, spans: Any, enough: Any) -> None:
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


@pytest.mark.slow
def test_on_free_machines_a_lease_takes_a_second_and_four_messages(tmp_path: Path) -> None:
    told = run(tmp_path, [("gpu0", "gpu1")], count_messages, contended=False)
    for device in ("gpu0", "gpu1"):
        leases = [(steps, messages) for name, steps, messages in told if name == device]
        assert [steps for steps, _ in leases] == [1, 3, 7, 15, 25, 35, 40]
        assert [messages for _, messages in leases] == [4 * lease for lease in range(1, 8)]


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
