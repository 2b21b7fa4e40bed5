"""CUDA's timer on made-up events: what counts as the host's time of a call."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.measure import timers
from nas.measure.timers import CudaTimer


def test_events_are_no_work_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first record of an event makes it: that would count as launching, and a short call as launch-bound."""
    clock = SimpleNamespace(now=0.0)

    def spend(seconds: float) -> None:
        clock.now += seconds

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at_s = 0.0

        def record(self) -> None:
            spend(10e-6)
            self.at_s = clock.now

        def elapsed_time(self, end: Any) -> float:
            return 1e3 * float(end.at_s - self.at_s)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timers, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    (once, thrice) = CudaTimer(torch.device("cuda")).run([lambda: spend(5e-6)] * 2, [1, 3])
    assert (once.host_s, thrice.host_s) == (pytest.approx(5e-6), pytest.approx(5e-6))
