"""The batch at which a search measures grows until the GPU decides the speed of the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nas.measure import Setting, measure_pair
from nas.measure.measurement_error import BatchTooLargeError, MeasurementError
from nas.measure.runtime_spec import ArmError
from nas.measure.service import MeasurementService
from nas.search.arguments import parse
from nas.search.measure_batch import MAX_BATCH, MAX_REFERENCE_SHARE, grown, with_measure_batch
from nas.search.settings import SearchCommand
from nas.study.config import SearchConfig
from nas.study.records import Measurement
from tests.nas.measure.machine import GpuQueue, QueuedNet, Quiet
from tests.nas.study.builders import search_config

GIB = 1024.0  # in MiB


def on_queue(image_s: float = 2e-6, kernels: int = 100, fits: int = 10**6) -> Any:
    """Return a measurement of a network against itself on a card whose kernels cost 7 us each to launch."""
    net = QueuedNet(queue := GpuQueue(), image_s, kernels)

    def measure(batch: int) -> Measurement:
        if batch > fits:
            raise BatchTooLargeError(f"only {fits} images fit")
        setting = Setting("cpu", batch, 8, budget_s=0.2, energy_s=0)
        return measure_pair(net, net, setting, name_of_reference="net", timer=queue, watch=Quiet()).record

    return measure


@pytest.mark.parametrize(
    ("image_s", "batches"),
    [(1e-4, [128]), (2e-6, [128, 512, 1024]), (2.5e-7, [128, 512, 2048])],
)
def test_the_batch_grows_until_launching_takes_less_than_half_of_the_time(image_s: float, batches: list[int]) -> None:
    readings = grown(on_queue(image_s), 128, 80 * GIB)
    assert [m.batch for m in readings] == batches
    shares = [m.launch_share for m in readings]
    assert all(share >= MAX_REFERENCE_SHARE for share in shares[:-1])
    assert (shares[-1] < MAX_REFERENCE_SHARE) == (batches[-1] * image_s > 2 * 7e-4)
    assert batches[-1] <= MAX_BATCH


@pytest.mark.parametrize("error", [RuntimeError("canUse32BitIndexMath"), MeasurementError("hang", "no result")])
def test_it_is_the_largest_that_could_be_measured(error: Exception) -> None:
    measure = on_queue()

    def until_512(batch: int) -> Measurement:
        if batch > 512:
            raise error
        return measure(batch)

    assert [m.batch for m in grown(until_512, 128, 80 * GIB)] == [128, 512]


def test_it_stays_where_more_would_not_fit_or_leave_too_little_to_candidates() -> None:
    assert [m.batch for m in grown(on_queue(fits=600), 128, 80 * GIB)] == [128, 512]
    assert [m.batch for m in grown(on_queue(), 128, 0.0)] == [128]
    measure = on_queue()
    readings = grown(lambda batch: replace(measure(batch), peak_memory_mib=batch * GIB / 64), 128, 50 * GIB)
    assert [m.batch for m in readings] == [128], "four times as many images need more than a tenth of the memory"


@pytest.fixture
def _one_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(total_memory=80 * 2**30, uuid="GPU-1")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)
    monkeypatch.setattr("nas.measure.device_lock.lock_dir", lambda: tmp_path)
    monkeypatch.setattr("nas.measure.device_lock.device_key", str)


@pytest.mark.usefixtures("_one_card")
@pytest.mark.parametrize(
    ("grows", "limits", "batch", "said"),
    [
        (True, {}, 1024, "in batches of 1024"),
        (False, {}, 128, "warning: "),
        (True, {"max_memory_mib": 500.0}, 128, "warning: "),
    ],
)
def test_a_search_takes_the_batch_and_says_why(
    grows: bool, limits: dict[str, float], batch: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = on_queue()
    monkeypatch.setattr(MeasurementService, "measure", lambda self, *a, **_: SimpleNamespace(record=net(a[2].batch)))
    config = search_config(device="cuda", measure_batch_size=128, limits=limits)
    command = SearchCommand(config, tmp_path, grows_batch=grows)
    lines: list[str] = []
    chosen = with_measure_batch(command, lines.append, Console(quiet=True))
    assert chosen == replace(command, config=replace(config, measure_batch_size=batch))
    assert said in lines[0]
    assert config.reference in lines[0]


@pytest.mark.usefixtures("_one_card")
def test_a_machine_that_cannot_measure_leaves_it_to_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(self: MeasurementService, *a: object, **_: object) -> None:
        raise ArmError("runtime: compiled can't run this network here: no compiler")

    monkeypatch.setattr(MeasurementService, "measure", no_compiler)
    command = SearchCommand(search_config(device="cuda"), tmp_path, grows_batch=True)
    lines: list[str] = []
    assert with_measure_batch(command, lines.append, Console(quiet=True)) is command
    assert "no compiler" in lines[0]


def test_a_batch_that_the_user_gave_stays_and_a_cpu_launches_nothing(tmp_path: Path) -> None:
    run = ["--run", str(tmp_path / "run"), "--device", "cpu"]
    assert parse(run).grows_batch
    assert not parse([*run, "--measure-batch-size", "16"]).grows_batch
    command = SearchCommand(SearchConfig(device="cpu"), tmp_path, grows_batch=True)
    assert with_measure_batch(command, pytest.fail, Console(quiet=True)) is command
