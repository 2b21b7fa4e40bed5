"""The protocol on a fake machine whose drift, noise and contention are known: verdicts and bias are asserted."""

from collections.abc import Callable

import numpy as np
import pytest

from nas.measure.interleave import MIN_BLOCKS, InterleavedSamples, compare
from nas.study.timing_doubts import SCATTERED, TOO_FEW
from tests.nas.measure.machine import GpuQueue, Machine


def compared(
    machine: Machine, candidate_s: float, reference_s: float, budget_s: float = 1.0, seed: int = 0
) -> InterleavedSamples:
    rng = np.random.default_rng(seed)
    return compare(machine.net(candidate_s), machine.net(reference_s), machine.timer(), budget_s, rng)


def drift(total: float, over_s: float) -> Callable[[float], float]:
    return lambda now: 1 + total * now / over_s


def test_a_quiet_machine_is_ok_at_the_minimum_of_samples():
    machine = Machine(noise=0.003)
    result = compared(machine, 0.004, 0.008)
    assert result.verdict == "ok"
    assert len(result.candidate_s) == MIN_BLOCKS
    assert result.candidate.value == pytest.approx(0.004, rel=0.005)
    assert result.ratio.value == pytest.approx(2, rel=0.005)
    assert result.ratio.low <= 2 <= result.ratio.high
    assert result.seconds < 0.9


def test_paired_ratios_are_unbiased_under_drift_and_sequential_timing_is_not():
    """Two identical nets, 2 % drift over the measurement, 0.5 % noise; 120 trials."""
    called_different = 0
    ratios, sequential = [], []
    for seed in range(120):
        result = compared(Machine(0.005, drift(0.02, 0.6), seed), 0.005, 0.005, budget_s=0.6, seed=seed)
        ratios.append(result.ratio.value)
        called_different += not result.ratio.low <= 1 <= result.ratio.high
        machine = Machine(0.005, drift(0.02, 0.6), seed)
        first, second = (machine.timer().run([machine.net(0.005)] * 60, [1] * 60) for _ in range(2))
        sequential.append(np.median([t.device_s for t in second]) / np.median([t.device_s for t in first]))
    assert abs(np.mean(ratios) - 1) < 0.0005
    assert max(abs(r - 1) for r in ratios) < 0.004
    assert called_different <= 9  # 6 expected at 95 %, and room for chance
    assert np.mean(sequential) > 1.008  # every time about 1 % "slower"
    assert min(sequential) > 1.004


def test_a_noisy_machine_is_wide_and_ends_with_the_budget():
    result = compared(Machine(noise=0.3), 0.005, 0.005, budget_s=0.5)
    assert result.verdict == "wide"
    assert result.ratio.half_width > 0.01
    assert 0.4 < result.seconds < 0.55


def test_six_blocks_of_a_disturbed_machine_have_no_usable_interval():
    """Bursts between the samples of a block make a ratio of 40 in one and of 1/40 in the next."""
    machine = Machine(noise=2.5, seed=3)
    result = compared(machine, 0.005, 0.005, budget_s=0.02)
    while not 6 <= len(result.candidate_s) < MIN_BLOCKS or result.ratio.half_width < 100:
        machine = Machine(noise=2.5, seed=int(machine.rng.integers(10**6)))
        result = compared(machine, 0.005, 0.005, budget_s=3.0)
    assert result.ratio.half_width > 100, "±10,000 %: the interval is widened by a power of its reach"
    assert (result.verdict, result.ratio.usable) == (SCATTERED, False)


def test_a_net_slower_than_the_budget_gets_one_block_which_is_too_few():
    machine = Machine()
    result = compared(machine, 10.0, 0.1, budget_s=1.0)
    assert result.verdict == TOO_FEW
    assert result.candidate_s.shape == (1, 2)
    assert result.ratio.value == pytest.approx(0.01)
    assert machine.now < 31  # one call to warm up, two to sample


def test_warm_up_outlasts_a_cold_start():
    """Clocks that need 0.15 s to ramp up from half speed are not in the samples."""
    ramp = lambda now: 2 - min(now / 0.15, 1.0)  # noqa: E731
    result = compared(Machine(0.002, ramp), 0.005, 0.005, budget_s=1.0)
    assert result.candidate_s.max() < 0.005 * 1.05


def test_the_order_is_random_and_the_seed_decides_it():
    def order(seed: int) -> list[str]:
        log: list[str] = []
        machine = Machine()
        nets = [machine.net(0.005), machine.net(0.005)]

        def logged(name: str, net: Callable[[], None]) -> Callable[[], None]:
            return lambda: (log.append(name), net())[1]

        compare(logged("A", nets[0]), logged("B", nets[1]), machine.timer(), 0.5, np.random.default_rng(seed))
        return log

    assert order(1) == order(1) != order(2)
    blocks = {"".join(order(1)[-4 * i - 4 : len(order(1)) - 4 * i]) for i in range(10)}
    assert blocks == {"ABBA", "BAAB"}


def test_arms_that_disturb_each_other_get_a_call_to_settle_in():
    """The first call after a change of arm takes twice as long; with lead-ins it is no sample."""
    machine = Machine()
    last: list[str] = [""]

    def net(name: str) -> Callable[[], None]:
        def call() -> None:
            machine.work(0.010 if last[0] == name else 0.020)
            last[0] = name

        return call

    def found(lead_in: bool) -> InterleavedSamples:
        return compare(net("a"), net("b"), machine.timer(), 2.0, np.random.default_rng(0), lead_in)

    assert found(True).candidate_s.max() == pytest.approx(0.010)
    assert found(False).candidate_s.max() == pytest.approx(0.020)
    spans = np.sort(np.concatenate([found(True).candidate_spans, found(True).reference_spans]), axis=0)
    assert np.all(np.diff(spans, axis=1) == pytest.approx(0.010)), "what is not timed lies between the spans"


def test_no_sample_of_a_queue_begins_on_an_empty_one():
    """A card computes 5 ms; a call on an empty queue waits 0.2 ms longer, for the host's guards."""
    for seed in range(5):
        queue = GpuQueue(seed)
        nets = [queue.net(prologue_s=200e-6, kernels=100, launch_s=3e-6, kernel_s=50e-6) for _ in range(2)]
        result = compare(*nets, queue, 1.0, np.random.default_rng(seed))
        assert result.ratio.value == pytest.approx(1, abs=0.001)
        assert result.candidate_s.max() == pytest.approx(0.005, rel=0.005)
