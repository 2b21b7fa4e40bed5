"""Whatever measures holds the device alone meanwhile: nothing can begin to train on it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import Network, build
from nas.doctor.arguments import BenchmarkSettings
from nas.doctor.benchmark import measured_rows, missing_rows
from nas.export.graph import time_graph
from nas.export.source import ExportSource
from nas.machine import lock_dir
from nas.measure import Arm, Measured, Setting
from nas.measure.device_lock import DEVICE_FILE
from nas.measure.environment import device_key
from nas.plan import probe
from nas.profile.arguments import ProfileSettings
from nas.profile.network import profile_network
from nas.profile.runtime_comparison import compare_runtimes
from nas.profile.space_sample import sample_space
from nas.remeasure.measuring import Remeasuring, RemeasuringPlan, begin_remeasurement
from nas.study.records import TrialRecord, TrialState
from search_space import preset
from tests.nas.profile.services import MEASUREMENT, LocalService
from tests.nas.study.builders import search_config

CPU, NETWORK = torch.device("cpu"), "eradio_femto"
SPEC = preset(NETWORK)
CONFIG = search_config(reference=NETWORK)
TRIAL = TrialRecord(0, SPEC.arch_id, SPEC.to_dict(), TrialState.RUNNING)


def device_folder() -> Path:
    return lock_dir() / device_key("cpu")


class Watching(LocalService):
    """A measurement service that asks for the device as training does, and notes each time whether it is refused."""

    def __init__(self) -> None:
        self.refused: list[bool] = []

    def note(self) -> None:
        device_folder().mkdir(parents=True, exist_ok=True)
        with (device_folder() / DEVICE_FILE).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.refused.append(False)
            except BlockingIOError:
                self.refused.append(True)

    def measure(self, candidate: Any, reference: Any, setting: Setting, **facts: Any) -> Measured:
        self.note()
        return Measured(MEASUREMENT, {})

    def close(self) -> None:
        pass


def ignore(*facts: object) -> None:
    pass


def in_a_plan(watching: Watching, folder: Path) -> None:
    probe._measure(CONFIG, TRIAL.spec, watching)  # type: ignore[arg-type]


def in_a_remeasurement(watching: Watching, folder: Path) -> None:
    plan = RemeasuringPlan("r", Setting("cpu", 2, 64), 1, NETWORK, TRIAL.spec, (TRIAL,), {})
    again = begin_remeasurement([], plan, "command", restart=False)
    list(Remeasuring(plan, folder, lambda threads: watching).run(again))  # type: ignore[arg-type, return-value]


def in_an_export(watching: Watching, folder: Path) -> None:
    model: Network = build(SPEC).eval()
    source = ExportSource(TRIAL, None, model, {}, 64)  # type: ignore[arg-type]  # its weights have no file

    def graph(images: Tensor) -> list[Tensor]:
        watching.note()
        return [images]

    time_graph(graph, source, torch.zeros(1, 3, 64, 64))


def in_a_benchmark(watching: Watching, folder: Path) -> None:
    settings = BenchmarkSettings(archs=(NETWORK,), runtimes=(Arm(),))
    list(measured_rows(settings, missing_rows(settings, []), "cpu", watching, ignore))  # type: ignore[arg-type]


def in_a_profile(watching: Watching, folder: Path) -> None:
    profiles = profile_network(NETWORK, ProfileSettings((NETWORK,), device="cpu"), watching, ignore)  # type: ignore[arg-type]
    next(profile for profile in profiles if watching.refused)


def in_compared_runtimes(watching: Watching, folder: Path) -> None:
    settings = ProfileSettings((NETWORK,), device="cpu", runtimes="eager")
    list(compare_runtimes(NETWORK, settings, watching, ignore))  # type: ignore[arg-type]


def in_a_sampled_space(watching: Watching, folder: Path) -> None:
    request = ProfileSettings(
        space="micro", samples=1, device="cpu", batch_size=2, measure_seconds=1.0, reference=NETWORK
    )
    list(sample_space(request, watching, ignore))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "measure",
    [
        in_a_plan,
        in_a_remeasurement,
        in_an_export,
        in_a_benchmark,
        in_a_profile,
        in_compared_runtimes,
        in_a_sampled_space,
    ],
)
def test_nothing_can_train_on_a_device_while_it_measures(
    measure: Callable[[Watching, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("nas.export.graph.TIMING_S", 0.0)
    watching = Watching()
    measure(watching, tmp_path)
    assert watching.refused
    assert all(watching.refused)
    watching.note()
    assert not watching.refused[-1]  # the device is free again
