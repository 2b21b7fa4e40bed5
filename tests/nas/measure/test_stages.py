"""Modules' own times add up to the whole and belong to who was running."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nas.measure import stages
from nas.measure.stages import seconds_by_stage, self_times, stage_times
from tests.nas.measure.machine import GpuQueue


class Clock:
    """A clock that only the networks of a test advance."""

    def __init__(self):
        self.now_s = 0.0

    def perf_counter(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    monkeypatch.setattr(stages, "thread_wait", lambda: nullcontext(lambda: 0.0))
    return clock


class Slow(nn.Module):
    def __init__(self, clock, seconds, inner=None):
        super().__init__()
        self.clock, self.seconds, self.inner = clock, seconds, inner

    def forward(self, x):
        self.clock.now_s += self.seconds
        return x if self.inner is None else self.inner(self.inner(x))


def test_own_times_leave_out_what_runs_inside(clock):
    net = nn.Sequential(Slow(clock, 4.0, Slow(clock, 1.0)), nn.Identity())
    times = self_times(net, torch.zeros(1), budget_s=10.0)
    assert times.stages_s == {"": 0.0, "0": 4.0, "0.inner": 2.0}, "the inner one is called twice"
    assert (times.whole_s, times.covered) == (6.0, 1.0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Staged(nn.Module):
    """Two stages and a second between them."""

    def __init__(self, clock, error=None):
        super().__init__()
        self.clock, self.error, self.seen = clock, error, []
        self.one, self.two = Slow(clock, 2.0), Slow(clock, 4.0)

    def stage_modules(self):
        return [("one", self.one), ("two", self.two), ("unused", nn.Linear(2, 2))]

    def encode(self, x):
        self.seen.append(tuple(x.shape))
        if self.error:
            raise self.error
        y = self.one(x)
        self.clock.now_s += 1.0
        return self.two(y)


def test_stages_and_the_rest_add_up_to_a_call(clock):
    net = Staged(clock)
    assert seconds_by_stage(net, torch.zeros(3, 1), budget_s=15.0) == {"one": 2.0, "two": 4.0, "rest": 1.0}
    assert set(net.seen) == {(3, 1)}


@pytest.mark.parametrize("timed", ["stages", "layers"])
def test_times_are_means_over_the_faster_half_of_the_runs(timed, clock):
    seconds = iter([1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 2.5])

    class Scripted(nn.Module):
        def forward(self, x):
            clock.now_s += next(seconds)
            return x

    net = nn.Sequential(Scripted())
    parts, images = [("0", net[0])], torch.zeros(1)
    times = stage_times(net, parts, images, 32.5) if timed == "stages" else self_times(net, images, 32.5)
    assert (times.whole_s, times.stages_s["0"]) == (2.125, 2.125)  # of 1, 2, 2.5 and 3 s: the middle one counts


@pytest.mark.parametrize("timed", ["stages", "layers"])
def test_a_core_lost_while_a_mark_is_taken_moves_no_time_between_stages(timed, monkeypatch):
    """A clock on which each module takes a second; the scheduler takes the core at every fifth reading of a clock."""
    clock = SimpleNamespace(now_s=0.0, waited_s=0.0, readings=0)

    def read(name):
        found = getattr(clock, name)
        clock.readings += 1
        if clock.readings % 5 == 0:
            clock.now_s += 8.0
            clock.waited_s += 8.0
        return found

    class Second(nn.Module):
        def forward(self, x):
            clock.now_s += 1.0
            return x

    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: read("now_s")))
    monkeypatch.setattr(stages, "thread_wait", lambda: nullcontext(lambda: read("waited_s")))
    net = nn.Sequential(Second(), Second(), Second())
    parts, images = list(net.named_children()), torch.zeros(1)
    times = stage_times(net, parts, images, 0.0) if timed == "stages" else self_times(net, images, 0.0)
    assert [times.stages_s[name] for name in "012"] == [1.0, 1.0, 1.0]
    assert times.whole_s == 3.0


def test_a_net_without_named_stages_or_that_cannot_be_run_so_has_no_times():
    assert seconds_by_stage(nn.Linear(1, 1), torch.zeros(1, 1), budget_s=0.1) == {}
    for error in (MemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")):
        assert seconds_by_stage(Staged(None, error), torch.zeros(1, 1), budget_s=0.1) == {}


class Queued(nn.Module):
    """A stage of 60 kernels, before which the host works for a fifth of a millisecond."""

    def __init__(self, queue):
        super().__init__()
        self.call = queue.net(prologue_s=200e-6, kernels=60, launch_s=3e-6, kernel_s=25e-6)

    def forward(self, images):
        self.call()
        return images


@pytest.mark.parametrize("timed", ["stages", "layers"])
def test_on_a_card_no_stage_is_timed_with_the_work_of_the_host(timed, monkeypatch):
    queue = GpuQueue()

    class Event:
        def __init__(self, enable_timing):
            self.at_s = 0.0

        def record(self, stream):
            self.at_s = max(queue.device_s, queue.host_s)

        def synchronize(self):
            queue.host_s = max(queue.host_s, queue.device_s)

        def elapsed_time(self, end):
            return 1e3 * (end.at_s - self.at_s)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    net = nn.Sequential(Queued(queue), Queued(queue))
    images = SimpleNamespace(device=torch.device("cuda"))
    parts = [("0", net[0]), ("1", net[1])]
    times = stage_times(net, parts, images, 0.05) if timed == "stages" else self_times(net, images, 0.05)
    assert [times.stages_s[name] for name in "01"] == pytest.approx([1.5e-3] * 2, rel=0.01)


def test_times_are_read_when_the_last_event_of_a_second_card_has_passed(monkeypatch):
    """The current device is the first one: waiting for it leaves the second's events unfinished."""

    class Event:
        passed_s = 0.0  # of the second card

        def __init__(self, at_s):
            self.at_s = at_s

        def synchronize(self):
            Event.passed_s = max(Event.passed_s, self.at_s)

        def elapsed_time(self, end):
            if max(self.at_s, end.at_s) > Event.passed_s:
                raise RuntimeError("Both events must be completed before calculating elapsed time.")
            return 1e3 * (end.at_s - self.at_s)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    events = [Event(seconds) for seconds in (0.1, 0.2, 0.5, 0.9)]
    marks = [("stem", events[1], events[2]), ("", events[0], events[3])]
    assert stages._sums(marks) == pytest.approx({"stem": 0.3, "": 0.8})
