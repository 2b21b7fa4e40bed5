"""A sweep on a card that is hot, waits for its host, or is used by others: points know it, and pictures show it."""

from __future__ import annotations

import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from nas.measure.pair import MAX_TRIES, PAUSE_S
from nas.profile import plots, sweeps
from nas.profile.arguments import ProfileSettings
from nas.profile.profiles import Profile, Sweep
from nas.profile.sweep_tables import show_sweep
from nas.study.timing_doubts import LAUNCH_BOUND
from tests.nas.measure.machine import STRANGER, Machine, Net, Nvml, QueuedTimer

COUNTS = type("Counts", (), {"macs": 7_000_000})
HOT = 0x40  # NVML's bit of a slowdown by heat
PROFILE = Profile("resnet", None, 4, 32, COUNTS, (), {})  # type: ignore[arg-type]


@pytest.fixture
def machine() -> Machine:
    return Machine(noise=0.001)


def swept(monkeypatch: pytest.MonkeyPatch, machine: Machine, nvml: Nvml, host_s: float = 1e-4) -> Sweep:
    """Return a sweep over batches of 1 and 8 images, each of which takes a millisecond, on a made-up card."""
    monkeypatch.setattr(sweeps, "timer_for", lambda device: QueuedTimer(machine, host_s))
    monkeypatch.setattr(sweeps, "watch_for", lambda device: nvml.watch())
    settings = ProfileSettings(("eradio_femto",), device="cpu", measure_seconds=5.0, batch_sizes=(1, 8))
    net = Net(machine, 1e-3)
    return sweeps.batch_sweep(net, net, PROFILE, settings)


def shown(sweep: Sweep) -> str:
    console = Console(width=120, file=io.StringIO())
    show_sweep(PROFILE, "batch", sweep, ProfileSettings(("eradio_femto",), device="cpu"), console)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_cool_card_has_no_doubts(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    sweep = swept(monkeypatch, machine, Nvml(machine))
    assert [(p.verdict, p.doubt, p.tries, p.notes) for p in sweep.points] == [("ok", None, 1, ())] * 2
    assert [p.launch_share for p in sweep.points] == [pytest.approx(0.1, rel=0.01), pytest.approx(0.0125, rel=0.01)]
    assert all(p.throughput_low_img_s < p.throughput_high_img_s for p in sweep.points)  # type: ignore[operator]
    assert sweep.points[0].conditions["clock_mhz"] == [1700, 1700, 1700]
    assert "†" not in shown(sweep)


def test_heat_is_waited_for_and_then_marked(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    nvml = Nvml(machine)
    nvml.reasons = lambda: HOT
    sweep = swept(monkeypatch, machine, nvml)
    assert machine.slept == [PAUSE_S] * (MAX_TRIES - 1)
    assert [(p.verdict, p.doubt, p.tries) for p in sweep.points] == [("throttled", "throttled", MAX_TRIES)] * 2
    words = shown(sweep)
    assert words.count("†") == 3  # of both sizes, and in the caption
    assert "Slowed down by heat (hardware), in 3 tries" in words
    assert "doubtful, because throttled" in words.partition("best throughput")[2]
    plain = sweep.to_dict()["points"][0]
    assert (plain["doubt"], plain["tries"], plain["conditions"]["temperature_c"]) == ("throttled", 3, [60, 60, 60])


def test_heat_that_goes_is_not_held_against_the_sizes(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    nvml = Nvml(machine)
    nvml.reasons = lambda: 0 if machine.slept else HOT
    assert [(p.verdict, p.tries) for p in swept(monkeypatch, machine, nvml).points] == [("ok", 2)] * 2


def test_a_size_whose_time_is_that_of_its_launches_says_so(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    sweep = swept(monkeypatch, machine, Nvml(machine), host_s=2e-3)
    assert [(p.batch, p.verdict, p.doubt) for p in sweep.points] == [(1, LAUNCH_BOUND, LAUNCH_BOUND), (8, "ok", None)]
    assert "The verdict 'launch-bound': measure a larger batch" in shown(sweep)


def test_other_processes_on_the_card_are_seen(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    nvml = Nvml(machine)
    nvml.processes[STRANGER] = 50
    sweep = swept(monkeypatch, machine, nvml)
    assert [p.doubt for p in sweep.points] == ["contended"] * 2
    assert "1 other process computed on the GPU" in shown(sweep)


def test_doubtful_sizes_are_crossed_out_in_the_picture(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    sweep = swept(monkeypatch, machine, Nvml(machine))
    hot = replace(sweep.points[1], verdict="throttled", doubt="throttled")
    axes = Figure().add_subplot()
    plots._sweep(axes, [("resnet", replace(sweep, points=(sweep.points[0], hot)))], "batch", "images per call")
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[8]]
    assert "doubtful: throttled" in [text.get_text() for text in axes.get_legend().get_texts()]


class Memory:
    """Memory of 100 units, of which an image takes 0.3 as long as its tensor lives."""

    def __init__(self) -> None:
        self.used = 0.0

    def images(self, batch: int, resolution: int, settings: ProfileSettings) -> torch.Tensor:
        self.take(0.3 * batch)
        drawn = torch.zeros(batch, 3, 4, 4)
        self.used += 0.3 * batch
        weakref.finalize(drawn, self._free, 0.3 * batch)
        return drawn

    def take(self, units: float) -> None:
        if self.used + units > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def _free(self, units: float) -> None:
        self.used -= units


class Hungry(Net):
    """Takes a unit of memory for each image while it runs."""

    def __init__(self, machine: Machine, memory: Memory) -> None:
        super().__init__(machine, 1e-3)
        self.memory = memory

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.memory.take(len(images))
        return super().encode(images)


@pytest.mark.parametrize("sizes", [(8, 64, 128), (8, 128), (8, 1000)])
def test_a_batch_that_does_not_fit_leaves_a_sweep_the_others_and_the_largest_that_does(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, sizes: tuple[int, ...]
) -> None:
    memory = Memory()
    monkeypatch.setattr(sweeps, "images", memory.images)
    monkeypatch.setattr(sweeps, "timer_for", lambda device: QueuedTimer(machine, 1e-4))
    monkeypatch.setattr(sweeps, "watch_for", lambda device: Nvml(machine).watch())
    settings = ProfileSettings(("eradio_femto",), device="cpu", measure_seconds=0.1, batch_sizes=sizes)
    net = Hungry(machine, memory)
    sweep = sweeps.batch_sweep(net, net, PROFILE, settings)
    assert [point.batch for point in sweep.points] == [8, 62], "two inputs of 62 images and their maps take 99.2 units"
    assert sweep.refused[sizes[1]] == "out of memory; 62 fits"
