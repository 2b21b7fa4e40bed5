"""Rounds on a fake clock: turns are fair under drift."""

import numpy as np
import pytest

from nas.measure.conditions import Conditions, Reading
from nas.measure.interleave import MIN_WATCHED_S
from nas.measure.round_robin import CallTimes, interleaved_times
from nas.measure.statistics import Interval
from nas.measure.timers import Timing
from tests.nas.measure.machine import GpuQueue

HOT = Reading(0.0, 1200.0, 600.0, 90.0, reasons=0x40)


class Drifting:
    """Calls return their seconds on a machine that gets slower by `drift` of itself with every second."""

    queued = False

    def __init__(self, drift):
        self.clock, self.drift, self.order = 0.0, drift, []

    def now(self):
        return self.clock

    def run(self, calls, repeats):
        timings = []
        for call, n in zip(calls, repeats, strict=True):
            seconds = call() * (1 + self.drift * self.clock)
            self.order.append(call)
            self.clock += n * seconds
            timings.append(Timing(seconds, seconds))
        return timings


def test_equal_calls_look_equal_on_a_drifting_machine():
    calls = {key: (lambda: 0.01) for key in range(3)}
    times = interleaved_times(calls, Drifting(0.2), 10.0, np.random.default_rng(0))
    medians = [found.time_s.value for found in times.values()]
    assert max(medians) / min(medians) < 1.02  # one after the other, the last would look over twice as slow
    assert len({found.samples for found in times.values()}) == 1


def test_certainty_ends_a_sweep_before_the_budget_and_the_budget_before_certainty():
    timer = Drifting(0.0)
    times = interleaved_times({1: lambda: 0.01, 2: lambda: 0.02}, timer, 1000.0, np.random.default_rng(0))
    assert timer.clock < 5
    assert {key: found.time_s.value for key, found in times.items()} == {1: pytest.approx(0.01), 2: 0.02}
    timer = Drifting(0.0)
    times = interleaved_times({1: lambda: 5.0}, timer, 1.0, np.random.default_rng(0))
    assert times[1].samples == 1  # at least
    assert interleaved_times({}, timer, 1.0, np.random.default_rng(0)) == {}


@pytest.mark.parametrize(
    ("samples", "half_width", "conditions", "launch_share", "verdict"),
    [
        (5, 0.001, Conditions(), None, "too few samples"),
        (6, 0.001, Conditions(), None, "wide"),
        (30, 0.001, Conditions(), 0.2, "ok"),
        (30, 0.001, Conditions(wait_share=0.06), None, "contended"),
        (30, 0.001, Conditions((HOT, HOT)), 0.95, "throttled"),
        (5, 0.001, Conditions((HOT, HOT)), None, "throttled"),
        (30, 0.001, Conditions(), 0.95, "launch-bound"),
    ],
)
def test_a_size_has_the_verdict_of_its_samples_and_conditions(samples, half_width, conditions, launch_share, verdict):
    times = CallTimes(Interval(1.0, 1 - half_width, 1 + half_width), samples)
    assert times.verdict(conditions, launch_share) == verdict


def test_turns_are_in_random_order():
    timer = Drifting(0.0)
    calls = {key: (lambda: 0.01) for key in range(2)}
    interleaved_times(calls, timer, 0.8, np.random.default_rng(0))
    rounds = {tuple(timer.order[i : i + 2]) for i in range(4, len(timer.order), 2)}
    assert len(rounds) == 2


def test_no_call_of_a_queue_is_timed_on_an_empty_one():
    queue = GpuQueue()
    net = queue.net(prologue_s=200e-6, kernels=60, launch_s=3e-6, kernel_s=25e-6)
    times = interleaved_times({1: net}, queue, 0.5, np.random.default_rng(0))[1]
    assert times.time_s.high == pytest.approx(0.0015, rel=0.005)


def test_certainty_ends_no_sweep_of_a_gpu_before_its_processes_are_sampled():
    queue = GpuQueue()
    interleaved_times({1: queue.net(50e-6, 40, 3e-6, 25e-6)}, queue, 10.0, np.random.default_rng(0))
    assert MIN_WATCHED_S <= queue.host_s < 2
